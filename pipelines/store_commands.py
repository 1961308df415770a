"""`luq store`: what is kept, what no record needs, and what is damaged."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from luq.config import ModelConfig
from luq.errors import LuqError, StoreError, unknown
from luq.formats import layer_header
from luq.formats.layer_header import References
from luq.models.checkpoint import fingerprint, resolve_path
from luq.store.store import Store
from pipelines import console, runs_folder, shipped
from pipelines.display import Display
from pipelines.screen import styled
from pipelines.sheet import Column, Sheet, text_column
from pipelines.units import human

NOBODY = "(no record)"


@dataclass
class Contents:
    """A store's artefacts by STAGE/KEY: their bytes, and the sweeps whose records need them."""

    bytes: dict[str, int] = field(default_factory=dict)
    sweeps: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    known_sweeps: set[str] = field(default_factory=set)
    leftovers: dict[str, int] = field(default_factory=dict)  # bytes of what was not finished
    problems: list[str] = field(default_factory=list)

    def removable(self, sweep: str | None) -> list[str]:
        """What the records of one sweep need and those of no other; without one, what none needs.

        Raises:
            ConfigError: the sweep has no records.
        """
        if sweep is None:
            return [label for label in self.bytes if not self.sweeps.get(label)]
        if sweep not in self.known_sweeps:
            raise unknown("sweep with records", sweep, self.known_sweeps)
        return [label for label in self.bytes if self.sweeps.get(label) == {sweep}]


def _existing_store(outputs: Path) -> Store:
    """The store of an outputs folder; a StoreError if there is none, instead of a new one."""
    root = outputs / "store"
    if not root.is_dir():
        raise StoreError(
            f"{root} does not exist: nothing was made there yet, or --outputs is another folder"
        )
    return Store(root)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what another process deletes counts nothing."""
    files = [path] if path.is_file() else []
    for folder, _, names in os.walk(path):
        files += [Path(folder) / name for name in names]
    total = 0
    for file in files:
        try:
            total += file.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def contents(outputs: Path) -> Contents:
    """Read manifests and records.

    Raises:
        StoreError: a record cannot be read: what it needs is not known.
    """
    store = _existing_store(outputs)
    inventory = Contents()
    needs: dict[str, list[str]] = {}
    for stage, key in store.labels():
        label = f"{stage}/{key}"
        inventory.bytes[label] = _size(store.path(stage, key))
        try:
            needs[label] = _needs(store, stage, key)
        except StoreError as error:
            needs[label] = []
            inventory.problems.append(str(error))
    for stage, key in store.leftovers():
        sizes = [_size(path) for path in store.remains(stage, key)]
        inventory.leftovers[f"{stage}/{key}"] = sum(sizes)
    by_sweep = _needed_by_sweep(outputs)
    inventory.known_sweeps = set(by_sweep)
    for sweep, labels in by_sweep.items():
        for label in _closure(labels, needs):
            inventory.sweeps[label].add(sweep)
    return inventory


def _needs(store: Store, stage: str, key: str) -> list[str]:
    """STAGE/KEY of what an artefact was made from. Manifests of old stores do not say it."""
    needs = store.manifest(stage, key).get("needs", [])
    if not isinstance(needs, list) or not all(isinstance(need, str) for need in needs):
        folder = store.path(stage, key)
        raise StoreError(f"{folder}: its manifest does not list what it needs: delete it")
    return needs


def _needed_by_sweep(outputs: Path) -> dict[str, set[str]]:
    """Sweep -> STAGE/KEY of what its records rest on."""
    needed: dict[str, set[str]] = defaultdict(set)
    of_run: dict[str, list[str]] = {}
    for record in runs_folder.iterate(outputs):
        of_run[record.key] = record.artefacts.used
        needed[record.sweep] |= set(record.artefacts.used)
    for note in (outputs / "sweeps").glob("*/*.json"):  # a run can stand in several sweeps
        needed[note.parent.name] |= set(of_run.get(note.stem, []))
    for shipped_record in shipped.iterate(outputs):
        needed[shipped.FOLDER] |= set(shipped_record.used)
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


def _table(title: str, first: str, sizes: dict[str, list[int]]) -> Sheet:
    table = Sheet(title, [text_column(first), Column("artefacts", rank=1), Column("bytes")])
    for name, all_bytes in sorted(sizes.items(), key=lambda item: -sum(item[1])):
        table.add_row(name, str(len(all_bytes)), human(sum(all_bytes)))
    return table


def show_usage(outputs: Path) -> None:
    """`luq store du`: bytes by stage, and by sweep (what several share counts for each)."""
    inventory = contents(outputs)
    by_sweep: dict[str, list[int]] = defaultdict(list)
    for label, size in inventory.bytes.items():
        for sweep in inventory.sweeps.get(label) or {NOBODY}:
            by_sweep[sweep].append(size)
    by_stage = _by_stage(inventory.bytes)
    console.out.print(_table("by stage", "stage", by_stage))
    console.out.print(_table("by sweep; what several need counts for each", "sweep", by_sweep))
    total = sum(inventory.bytes.values())
    console.out.print(f"{len(inventory.bytes)} artefacts, {human(total)}")
    if inventory.leftovers:
        total = sum(inventory.leftovers.values())
        console.out.print(f"{len(inventory.leftovers)} unfinished, {human(total)}")
    _show_problems(inventory)


def _by_stage(sizes: dict[str, int]) -> dict[str, list[int]]:
    by_stage: dict[str, list[int]] = defaultdict(list)
    for label, size in sizes.items():
        by_stage[label.partition("/")[0]].append(size)
    return by_stage


def _show_problems(inventory: Contents) -> None:
    for problem in inventory.problems:
        console.out.print(styled(("damaged", "yellow"), f" {problem}"), soft_wrap=True)


def clean(outputs: Path, sweep: str | None, yes: bool) -> int:
    """`luq store clean`: delete what no record needs, or what one sweep alone needs.

    Without a sweep, what killed processes left unfinished goes too.

    Returns:
        0 if it was done, 1 if the answer was no.
    """
    _check_idle(_existing_store(outputs))
    inventory = contents(outputs)
    _show_problems(inventory)
    labels = inventory.removable(sweep)
    leftovers = {} if sweep else inventory.leftovers
    condition = f"that only the sweep {sweep!r} needs" if sweep else "that no record needs"
    if not labels and not leftovers:
        console.out.print(f"there is nothing {condition}")
        return 0
    if labels:
        sizes = {label: inventory.bytes[label] for label in labels}
        console.out.print(_table(f"artefacts {condition}", "stage", _by_stage(sizes)))
    if leftovers:
        title = "unfinished; what a process is making stays"
        console.out.print(_table(title, "stage", _by_stage(leftovers)))
    if sweep:
        console.out.print("its records stay; what is deleted is made again when it is asked for")
    if not yes:
        if not click.confirm("delete them?"):
            return 1
        # A run may have begun or finished while the question stood there.
        _check_idle(_existing_store(outputs))
        removable = set(contents(outputs).removable(sweep))
        labels = [label for label in labels if label in removable]
    _delete(outputs, {label: inventory.bytes[label] for label in labels}, leftovers)
    return 0


def _delete(outputs: Path, artefacts: dict[str, int], leftovers: dict[str, int]) -> None:
    """Delete, and say what was freed and what is in use; both tables say bytes by STAGE/KEY."""
    store = _existing_store(outputs)
    freed = 0
    count = 0
    in_use = 0
    steps = [(label, size, store.remove) for label, size in artefacts.items()]
    steps += [(label, size, store.remove_leftover) for label, size in leftovers.items()]
    for label, size, remove in steps:
        stage, _, key = label.partition("/")
        if remove(stage, key):
            count += 1
            freed += size
        else:
            in_use += 1
    console.out.print(f"{count} deleted, {human(freed)} freed")
    if in_use:
        console.out.print(f"{in_use} left alone: a process is making them")


def _check_idle(store: Store) -> None:
    """A StoreError while a run is under way: no record says yet what it needs."""
    for name in store.busy("run-"):
        raise StoreError(
            f"a run is under way ({store.root / '.locks' / name}): clean when it has ended"
        )


def verify(outputs: Path) -> int:
    """`luq store verify`: compare every file with its manifest, and the checkpoints to which 16-bit
    layers refer with their digests.

    Returns:
        0 if nothing is damaged nor missing, else 1.
    """
    store = _existing_store(outputs)
    labels = list(store.labels())
    damaged = 0
    referring: dict[str, int] = defaultdict(int)  # artefacts by the checkpoint's digest
    with Display().bar("verify", len(labels)) as advance:
        for stage, key in labels:
            try:
                folder = store.verify(stage, key)
                references = References()
                if (folder / layer_header.FILE).exists():
                    references = layer_header.held_by_reference(folder)
                if references.tensors:
                    referring[references.checkpoint] += 1
            except StoreError as error:
                damaged += 1
                console.out.print(styled(("damaged", "red"), f" {error}"), soft_wrap=True)
            advance(stage, 1)
    missing = sum(not _is_whole(outputs, digest, count) for digest, count in referring.items())
    console.out.print(f"{len(labels)} artefacts verified, {damaged} damaged")
    return 1 if damaged or missing else 0


def _is_whole(outputs: Path, digest: str, count: int) -> bool:
    """Whether a checkpoint to which layers refer is where a record's config says, whole.

    Args:
        outputs: has the records.
        digest: of the checkpoint.
        count: layers and parts that refer to it.
    """
    refer = f"{count} artefacts refer to weights of the checkpoint {digest}"
    problems: list[str] = []
    sources: list[ModelConfig] = []
    for record in runs_folder.iterate(outputs):
        if record.model_fingerprint == digest and record.config.model not in sources:
            sources.append(record.config.model)
    for source in sources:
        try:
            folder = resolve_path(source, download=False)
            if fingerprint(folder, anew=True) == digest:
                console.out.print(f"{refer}, which is whole: {folder}", soft_wrap=True)
                return True
            problems.append(f"{folder} is another one")
        except LuqError as error:
            problems.append(str(error))
    if not problems:
        console.out.print(f"{refer}; no record says where it lies", soft_wrap=True)
        return True
    reasons = "; ".join(dict.fromkeys(problems))
    missing = f" {refer}: {reasons}. They cannot be read until it is back"
    console.out.print(styled(("missing", "red"), missing), soft_wrap=True)
    return False
