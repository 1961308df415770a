"""What each stage of a run took, and whether the store had all of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from luq.store.store import Store
from pipelines.display import Advance, Display

ALWAYS_DONE = "load"  # a stage that no store can save


class Watcher(Protocol):
    """Who is told how far a run is, beside the terminal."""

    def stage(self, name: str, seconds: float, made: int) -> None:
        """A stage has ended, and made so many artefacts."""
        ...

    def progress(self, name: str, done: int, total: int) -> None:
        """Steps of a bar are done."""
        ...


class StageClock:
    """Times stages, and tells people: the progress of a store's work.

    A stage inside a stage counts for itself alone, so that the seconds add up.
    """

    def __init__(self, display: Display):
        self.display = display
        self.seconds: dict[str, float] = {}
        self.cached: dict[str, bool] = {}
        self.store: Store | None = None
        self.announcements: dict[str, str] = {}  # stage -> what is said when it begins
        self.watchers: list[Watcher] = []
        # What the stages inside each running stage took and made.
        self._inner_seconds = [0.0]
        self._inner_made = [0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        begin = time.perf_counter()
        made_before = self._made()
        self._inner_seconds.append(0.0)
        self._inner_made.append(0)
        if name in self.announcements:
            self.display.note(self.announcements[name])
        try:
            with self.display.working(name):
                yield
        finally:
            all_seconds = time.perf_counter() - begin
            own_seconds = all_seconds - self._inner_seconds.pop()
            self._inner_seconds[-1] += all_seconds
            all_made = self._made() - made_before
            own_made = all_made - self._inner_made.pop()
            self._inner_made[-1] += all_made
        self._note(name, own_seconds, own_made)

    def _note(self, name: str, seconds: float, made: int) -> None:
        is_first = name not in self.seconds
        from_store = made == 0 and name != ALWAYS_DONE
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.cached[name] = self.cached.get(name, True) and from_store
        if made or is_first:
            self.display.stage(name, seconds, from_store, made)
            for watcher in self.watchers:
                watcher.stage(name, seconds, made)

    def _made(self) -> int:
        return 0 if self.store is None else len(self.store.made)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """A bar of `total` steps."""
        done = 0
        with self.display.bar(name, total) as advance:

            def advance_and_tell(what: str, steps: int) -> None:
                nonlocal done
                done += steps
                advance(what, steps)
                for watcher in self.watchers:
                    watcher.progress(name, done, total)

            yield advance_and_tell

    def note(self, text: str) -> None:
        """One line that people should see."""
        self.display.note(text)
