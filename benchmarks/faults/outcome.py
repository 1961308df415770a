"""What became of the cases of each part, as one table."""

import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

NEWS = 30  # seconds between lines on how far a part is
SHOWN = 60  # faults of a part that are listed
REPEATED = re.compile(r"(\w)\1{40,}")  # names that are too long
LINES = 3  # problems of a case that are listed


@dataclass(frozen=True)
class Plan:
    """What a part is asked for."""

    seed: int
    count: int
    scratch: Path  # an empty folder of its own
    swept: Path  # the outputs of `outputs.SWEEP`, to copy
    case: int | None  # the only case to try

    def random(self, case: int) -> random.Random:
        """The random numbers of a case, whatever the other cases drew."""
        return random.Random(f"{self.seed} {case}")

    def cases(self) -> Iterator[int]:
        """Numbers of cases: as many as asked for, or the one that is to be repeated."""
        yield from range(self.count) if self.case is None else [self.case]


@dataclass
class Tally:
    """The cases of a part that were tried, and those that did not hold."""

    part: str
    plan: Plan
    tried: int = 0
    faults: list[str] = field(default_factory=list)
    failed: int = 0  # of the cases that were tried
    begin: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def add(self, case: int, what: str, problems: Sequence[str], tried: int = 1) -> None:
        """Count a case.

        Args:
            case: Its number, which `--case` takes.
            what: What was done, for people.
            problems: What did not hold, by line; empty if all held.
            tried: How many trials it was.
        """
        self.tried += tried
        self.failed += min(len(problems), tried)
        lines = list(problems[:LINES])
        if len(problems) > LINES:
            lines.append(f"{len(problems) - LINES} more")
        scratch = str(self.plan.scratch)
        for line in lines:
            fault = f"case {case}, {what}: {line}".replace(scratch, "SCRATCH")
            self.faults.append(REPEATED.sub(r"\1\1\1...", fault))
        before, self.seconds = self.seconds, time.monotonic() - self.begin
        if before // NEWS < self.seconds // NEWS:
            sys.stderr.write(f"{self.part}: {self.tried} tried, {self.failed} did not hold\n")


def show(tallies: Sequence[Tally], seed: int) -> bool:
    """Print the table and what did not hold; whether all held."""
    out = Console(highlight=False, width=160)
    table = Table("part", "tried", "held", "seconds", title=f"faults, seed {seed}")
    for tally in tallies:
        passed = tally.tried - tally.failed
        table.add_row(tally.part, str(tally.tried), str(passed), f"{tally.seconds:.0f}")
    out.print(table)
    for tally in tallies:
        for fault in tally.faults[:SHOWN]:
            out.print(f"[red]did not hold[/red] {tally.part} --seed {seed}, {escape(fault)}")
        if len(tally.faults) > SHOWN:
            out.print(f"and {len(tally.faults) - SHOWN} more of {tally.part}")
    return not any(tally.faults for tally in tallies)
