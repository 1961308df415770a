"""`luq store`: what is kept, what no record needs, and what is damaged."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from luq.errors import StoreError
from luq.store.store import Store
from pipelines import console, runs_folder
from pipelines.units import human

NOBODY = "(no record)"


@dataclass
class Contents:
    """A store's artefacts by STAGE/KEY: their bytes, and the sweeps whose records need them."""

    bytes: dict[str, int] = field(default_factory=dict)
    sweeps: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    problems: list[str] = field(default_factory=list)

    def unneeded(self) -> list[str]:
        """What no record needs."""
        return [label for label in self.bytes if not self.sweeps.get(label)]

    def only_of(self, sweep: str) -> list[str]:
        """What the records of one sweep need, and those of no other."""
        return [label for label in self.bytes if self.sweeps.get(label) == {sweep}]


def contents(outputs: Path) -> Contents:
    """Read manifests and records.

    Raises:
        StoreError: a record cannot be read: what it needs is not known.
    """
    store = Store(outputs / "store")
    found = Contents()
    needs: dict[str, list[str]] = {}
    for stage, key in store.labels():
        label = f"{stage}/{key}"
        folder = store.path(stage, key)
        found.bytes[label] = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        try:
            needs[label] = list(store.manifest(stage, key).get("needs", []))
        except StoreError as error:
            needs[label] = []
            found.problems.append(str(error))
    for sweep, labels in _needed_by_sweep(outputs).items():
        for label in _closure(labels, needs):
            found.sweeps[label].add(sweep)
    return found


def _needed_by_sweep(outputs: Path) -> dict[str, set[str]]:
    """Sweep -> STAGE/KEY of what its records rest on."""
    needed: dict[str, set[str]] = defaultdict(set)
    of_run: dict[str, list[str]] = {}
    for record in runs_folder.iterate(outputs):
        of_run[record.key] = record.artefacts.used
        needed[record.sweep] |= set(record.artefacts.used)
    for note in (outputs / "sweeps").glob("*/*.json"):  # a run can stand in several sweeps
        needed[note.parent.name] |= set(of_run.get(note.stem, []))
    return needed


def _closure(labels: Iterable[str], needs: dict[str, list[str]]) -> set[str]:
    """Labels, and all that they need."""
    reached: set[str] = set()
    waiting = list(labels)
    while waiting:
        label = waiting.pop()
        if label not in reached:
            reached.add(label)
            waiting += needs.get(label, [])
    return reached


def _table(title: str, first: str, sizes: dict[str, list[int]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    table.add_column("artefacts", justify="right")
    table.add_column("bytes", justify="right")
    for name, all_bytes in sorted(sizes.items(), key=lambda item: -sum(item[1])):
        table.add_row(escape(name), str(len(all_bytes)), human(sum(all_bytes)))
    return table


def show_usage(outputs: Path) -> None:
    """`luq store du`: bytes by stage, and by sweep (what several share counts for each)."""
    found = contents(outputs)
    by_stage: dict[str, list[int]] = defaultdict(list)
    by_sweep: dict[str, list[int]] = defaultdict(list)
    for label, size in found.bytes.items():
        by_stage[label.partition("/")[0]].append(size)
        for sweep in found.sweeps.get(label) or {NOBODY}:
            by_sweep[sweep].append(size)
    console.out.print(_table("by stage", "stage", by_stage))
    console.out.print(_table("by sweep; what several need counts for each", "sweep", by_sweep))
    total = sum(found.bytes.values())
    console.out.print(f"{len(found.bytes)} artefacts, {human(total)}")
    for problem in found.problems:
        console.out.print(problem, markup=False)


def clean(outputs: Path, sweep: str | None, yes: bool) -> int:
    """`luq store clean`: delete what no record needs, or what one sweep alone needs.

    Returns:
        0 if it was done, 1 if the answer was no.
    """
    _check_idle(Store(outputs / "store"))
    found = contents(outputs)
    labels = found.only_of(sweep) if sweep else found.unneeded()
    whose = f"that only the sweep {sweep!r} needs" if sweep else "that no record needs"
    if not labels:
        console.out.print(f"there is nothing {whose}", markup=False)
        return 0
    by_stage: dict[str, list[int]] = defaultdict(list)
    for label in labels:
        by_stage[label.partition("/")[0]].append(found.bytes[label])
    console.out.print(_table(f"artefacts {escape(whose)}", "stage", by_stage))
    if sweep:
        console.out.print("its records stay; what is deleted is made again when it is asked for")
    if not yes and not click.confirm("delete them?"):
        return 1
    store = Store(outputs / "store")
    for label in labels:
        stage, _, key = label.partition("/")
        store.remove(stage, key)
    freed = sum(found.bytes[label] for label in labels)
    console.out.print(f"{len(labels)} artefacts deleted, {human(freed)} freed")
    return 0


def _check_idle(store: Store) -> None:
    """A StoreError while a run is under way: no record says yet what it needs."""
    for name in store.busy("run-"):
        raise StoreError(
            f"a run is under way ({store.root / '.locks' / name}): clean when it has ended"
        )


def verify(outputs: Path) -> int:
    """`luq store verify`: compare every file with its manifest.

    Returns:
        0 if nothing is damaged, else 1.
    """
    store = Store(outputs / "store")
    damaged = 0
    count = 0
    for stage, key in store.labels():
        count += 1
        try:
            store.verify(stage, key)
        except StoreError as error:
            damaged += 1
            console.out.print(f"[red]damaged[/red] {escape(str(error))}", soft_wrap=True)
    console.out.print(f"{count} artefacts verified, {damaged} damaged")
    return 1 if damaged else 0
