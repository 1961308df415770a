"""The records on disk: outputs/runs/KEY/result.json, which sweeps they belong to, what failed.

outputs/runs/KEY/result.json      one finished run
outputs/sweeps/SWEEP/KEY.json     that the run counts among those of a sweep, and its name there
outputs/failed/KEY.json           why the run of a config failed last
"""

import glob
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from luq.config.building import build
from luq.config.checks import is_plain_name, require
from luq.errors import ConfigError, StoreError, unknown
from luq.escaping import encodable
from luq.store.sealed import read_table, sealed
from luq.store.store import write_json
from pipelines import run_names
from pipelines.record import RunRecord, from_json, to_json

FILE = "result.json"


@dataclass(frozen=True)
class Failure:
    """Why the run of a config failed last. `key`: of the config."""

    key: str
    name: str
    sweep: str
    error: str  # the exception's class
    message: str
    traceback: str = ""

    @property
    def log(self) -> str:
        """The run's log file, from the outputs folder on."""
        return f"logs/{self.key}.log"


class _Place(NamedTuple):
    """A record's file, and the note that counts it among the runs of a sweep, if one was asked."""

    file: Path
    note: Path | None


def write(outputs: Path, record: RunRecord) -> Path:
    """Write a record under its key, and note it in its sweep; returns the file."""
    file = record_file(outputs, record.key)
    write_json(file, sealed(to_json(record)))
    note(outputs, record.sweep, record.key, record.name)
    return file


def record_file(outputs: Path, key: str) -> Path:
    """Where the record of a key stands, or would stand."""
    return outputs / "runs" / key / FILE


def note(outputs: Path, sweep: str, key: str, name: str) -> None:
    """Count a record among the runs of a sweep, under a name."""
    entry = {"run": key, "name": name}
    write_json(outputs / "sweeps" / sweep / f"{key}.json", sealed(entry))


def read(file: Path) -> RunRecord:
    """One record.

    Raises:
        StoreError: it names the file that cannot be read, or that another version wrote.
    """
    try:
        record = from_json(read_table(file))
        if record.key != file.parent.name:
            raise ValueError(f"it is the record of {record.key!r}")
        return record
    except (OSError, ValueError) as error:
        message = f"{file} cannot be read ({error}): delete it and run again, or update"
        raise StoreError(message) from error


def iterate(
    outputs: Path,
    sweep: str | None = None,
    problems: list[str] | None = None,
    skip: Collection[str] = (),
) -> Iterator[RunRecord]:
    """All records by key, or those of one sweep under the names they have in it.

    Args:
        outputs: the folder that holds `runs` and `sweeps`.
        sweep: None for all records.
        problems: takes a line for each record that cannot be read, and the others go on.
        skip: keys of records that are not read.

    Raises:
        StoreError: a record cannot be read, and there is no list of problems.
    """
    for place in _places(outputs, sweep):
        if place.file.parent.name in skip:
            continue
        if place.note is not None and not place.file.exists():
            if problems is not None:
                problems.append(
                    f"{place.file} is missing, and {place.note} counts on it: start the sweep again"
                )
            continue
        try:
            record = read(place.file)
            if place.note is not None:
                sweep_name = encodable(place.note.parent.name)  # a folder's may be any bytes
                record = replace(record, name=_noted_name(place.note), sweep=sweep_name)
        except StoreError as error:
            if problems is None:
                raise
            problems.append(str(error))
            continue
        yield record


def find(outputs: Path, name: str) -> RunRecord:
    """The record of SWEEP/NAME, or whose key begins with `name`.

    NAME is what the record is called, or its label among the runs of its sweep.

    Raises:
        ConfigError: there is none, or more than one; it says the nearest names.
    """
    sweep, _, run = name.partition("/")
    if run:
        return _find_in_sweep(outputs, sweep, run)
    files = sorted((outputs / "runs").glob(f"{glob.escape(name)}*/{FILE}"))
    if len(files) != 1:
        raise ConfigError(
            f"{len(files)} runs in {outputs} have a key that begins with {name!r}: "
            "give SWEEP/NAME or a longer key"
        )
    return read(files[0])


def _find_in_sweep(outputs: Path, sweep: str, run: str) -> RunRecord:
    check_sweep(outputs, sweep)
    problems: list[str] = []
    records = list(iterate(outputs, sweep, problems))
    names = [record.name for record in records]
    named = [record for record in records if record.name == run]
    # of one name the latest, as in reports
    if named:
        return max(named, key=lambda record: record.finished)
    labels = run_names.labels(names)
    if run in labels:
        return records[labels.index(run)]
    if problems:
        raise StoreError(f"no run {run!r} of sweep {sweep!r} can be read: {problems[0]}")
    raise unknown(f"run of sweep {sweep!r}", run, labels)


def check_sweep(outputs: Path, sweep: str) -> None:
    """Refuse a sweep of which there are no runs.

    Raises:
        ConfigError: it says the nearest names.
    """
    names = [folder.name for folder in (outputs / "sweeps").glob("*") if folder.is_dir()]
    if not names:
        raise ConfigError(f"{outputs} holds no runs of a sweep {sweep!r}, nor of any other")
    if sweep not in names:
        raise unknown("sweep with runs", sweep, names)


def write_failure(outputs: Path, failure: Failure) -> None:
    """Note why the run of a config failed; the next success of the same config clears it."""
    write_json(_failure_file(outputs, failure.key), sealed(asdict(failure)))


def clear_failure(outputs: Path, key: str) -> None:
    """Forget that the run of a config failed."""
    _failure_file(outputs, key).unlink(missing_ok=True)


def failure(outputs: Path, key: str) -> Failure | None:
    """Why the run of a config failed last; None if it did not."""
    file = _failure_file(outputs, key)
    return _read_failure(file) if file.exists() else None


def failures(
    outputs: Path, sweep: str | None = None, problems: list[str] | None = None
) -> list[Failure]:
    """What failed last and did not succeed since, of a sweep or of all; `problems` as `iterate`."""
    entries = []
    for file in sorted((outputs / "failed").glob("*.json")):
        try:
            entries.append(_read_failure(file))
        except StoreError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return [entry for entry in entries if sweep is None or entry.sweep == sweep]


def _places(outputs: Path, sweep: str | None) -> list[_Place]:
    if sweep is None:
        files = sorted((outputs / "runs").glob(f"*/{FILE}"))
        return [_Place(file, None) for file in files]
    require(is_plain_name(sweep), "sweep", sweep, "a plain name, without folders")
    notes = sorted((outputs / "sweeps" / sweep).glob("*.json"))
    return [_Place(record_file(outputs, file.stem), file) for file in notes]


def _noted_name(file: Path) -> str:
    try:
        return str(read_table(file)["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{file} cannot be read ({error}): delete it and start the sweep again"
        raise StoreError(message) from error


def _failure_file(outputs: Path, key: str) -> Path:
    return outputs / "failed" / f"{key}.json"


def _read_failure(file: Path) -> Failure:
    try:
        data = read_table(file)
        return build(Failure, data | {"key": file.stem}, "failure", strict=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}): delete it") from error
