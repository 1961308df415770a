"""What a person sees of long work: bars on a terminal, a line a minute elsewhere."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import progress as bars

from pipelines import console
from pipelines.screen import styled
from pipelines.units import duration

log = logging.getLogger(__name__)
Advance = Callable[[str, int], None]
HEARTBEAT = 60.0  # seconds between two lines where no bar is seen
# Steps of a bar can take minutes each: with rich's 30 s there would be no estimate.
ESTIMATE_PERIOD = 3600.0  # seconds


@dataclass
class Activity:
    """Something under way: so many steps of a total, which is 0 where nobody counts them."""

    name: str
    total: int = 0
    done: int = 0
    begin: float = field(default_factory=time.monotonic)

    def describe(self, now: float) -> str:
        """It in a few words: `gqa 40 of 160, 3 min, about 9 min left`."""
        seconds = now - self.begin
        if not self.total:
            return f"{self.name}, {duration(seconds)}"
        words = f"{self.name} {self.done} of {self.total}, {duration(seconds)}"
        if self.done:
            seconds_left = seconds / self.done * (self.total - self.done)
            words += f", about {duration(seconds_left)} left"
        return words


class Display:
    """Bars with an estimate on a terminal, a heartbeat elsewhere; one line per stage in both.

    Args:
        heartbeat: seconds between two lines of what is under way, where there is no terminal.
    """

    def __init__(self, heartbeat: float = HEARTBEAT) -> None:
        self._bars: bars.Progress | None = None  # rich can show one group of bars at a time
        self._heartbeat = heartbeat
        self._activities: list[Activity] = []  # the innermost last
        self._last_line = time.monotonic()

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Say from time to time that something of unknown length goes on."""
        with self._under_way(Activity(name)):
            yield

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """A bar of `total` steps; a bar inside a bar is another line."""
        activity = Activity(name, total)
        with self._under_way(activity), self._group() as group:
            task = group.add_task(name, total=total)

            def advance(what: str, steps: int) -> None:
                activity.done += steps
                group.update(task, advance=steps, description=f"{name} {what}".strip())

            try:
                yield advance
            finally:
                group.remove_task(task)

    @contextmanager
    def _group(self) -> Iterator[bars.Progress]:
        """The bars of the terminal; empty and invisible where there is none."""
        if self._bars is not None:
            yield self._bars
            return
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(
            *columns,
            console=console.out,
            transient=True,
            disable=not sys.stdout.isatty(),
            speed_estimate_period=ESTIMATE_PERIOD,
        ) as group:
            self._bars = group
            try:
                yield group
            finally:
                self._bars = None

    @contextmanager
    def _under_way(self, activity: Activity) -> Iterator[None]:
        """Note an activity; the outermost one starts the heartbeat."""
        is_outermost = not self._activities
        self._activities.append(activity)
        ended = threading.Event()
        if is_outermost and not sys.stdout.isatty():
            threading.Thread(target=self._beat, args=(ended,), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self._activities.remove(activity)

    def _beat(self, ended: threading.Event) -> None:
        """A line whenever nothing was said for so long."""
        while True:
            wait = self._last_line + self._heartbeat - time.monotonic()
            if ended.wait(max(wait, 0.01)):
                return
            if time.monotonic() - self._last_line >= self._heartbeat:
                self._say_what_goes_on()

    def _say_what_goes_on(self) -> None:
        now = time.monotonic()
        activities = list(self._activities)  # the work goes on meanwhile
        words = ": ".join(activity.describe(now) for activity in activities)
        if words:
            self.note(f"... {words}")

    def note(self, text: str) -> None:
        """One line that people should see."""
        self._last_line = time.monotonic()
        console.out.print(styled("  ", (text, "dim")))

    def stage(self, name: str, seconds: float, cached: bool, made: int) -> None:
        """A finished stage."""
        outcome = "done"
        if cached:
            outcome = "from the store"
        elif made:
            outcome = f"{made} made"
        log.info("%s: %.1f s, %s", name, seconds, outcome)
        self._last_line = time.monotonic()
        console.out.print(styled(f"  {name:<16} {seconds:7.1f} s  ", (outcome, "dim")))
