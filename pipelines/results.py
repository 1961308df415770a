"""The record of a run: outputs/runs/<key>/result.json. Plain data; reading it needs nothing but the standard library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luq.errors import ConfigError, StoreError, unknown
from luq.store import keys
from luq.store.store import write_json

SCHEMA = 3
FILE = "result.json"
Record = dict[str, Any]
VOLATILE = (
    "seconds",
    "cached",
    "wall_seconds",
    "finished",
    "git_sha",
    "versions",
    "device",
)  # differ between equal runs


def write(outputs: Path, record: Record) -> Path:
    """Write a record under its key, and note it in its sweep; returns the file."""
    file = outputs / "runs" / record["key"] / FILE
    write_json(file, {"schema": SCHEMA, **record})
    note(outputs, record["sweep"], record["key"], record["name"])
    return file


def lasting(record: Record) -> Record:
    """A record without what differs between two runs that did the same."""
    kept = {name: value for name, value in record.items() if name not in VOLATILE}
    memory = {name: value for name, value in record["memory"].items() if name != "peak_bytes"}
    return kept | {"config": json.loads(keys.canonical(record["config"])), "memory": memory}


def note(outputs: Path, sweep: str, key: str, name: str) -> None:
    """Count a record among the runs of a sweep, under a name."""
    write_json(outputs / "sweeps" / sweep / f"{key}.json", {"run": key, "name": name})


def failure(outputs: Path, key: str) -> dict[str, Any] | None:
    """Why the run of a config failed last; None if it did not."""
    file = _failure(outputs, key)
    return json.loads(file.read_text()) if file.exists() else None


def failures(outputs: Path, sweep: str | None = None) -> list[dict[str, Any]]:
    """What failed last and did not succeed since: {name, sweep, error, message, log}, of a sweep or of all."""
    found = [
        json.loads(f.read_text()) | {"log": f"logs/{f.stem}.log"}
        for f in sorted((outputs / "failed").glob("*.json"))
    ]
    return [entry for entry in found if sweep in (None, entry["sweep"])]


def _failure(outputs: Path, key: str) -> Path:
    return outputs / "failed" / f"{key}.json"


def write_failure(outputs: Path, key: str, entry: dict[str, Any]) -> None:
    """Note why the run of a config failed; the next success of the same config clears it."""
    write_json(_failure(outputs, key), entry)


def clear_failure(outputs: Path, key: str) -> None:
    _failure(outputs, key).unlink(missing_ok=True)


def read(file: Path) -> Record:
    """One record; a StoreError names a file that cannot be read or that a newer version wrote."""
    try:
        record: Record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}): delete it and run again") from error
    if not isinstance(record, dict):
        raise StoreError(f"{file} holds no record: delete it and run again")
    if record.get("schema") != SCHEMA:
        raise StoreError(
            f"{file} has schema {record.get('schema')}, this version reads {SCHEMA}: run again or update"
        )
    return record


def iterate(
    outputs: Path, sweep: str | None = None, problems: list[str] | None = None
) -> Iterator[Record]:
    """All records by key, or those of one sweep under the names they have in it.

    What cannot be read is a StoreError; or, where a list of `problems` is given, a line in it, and the rest is read.
    """
    found: list[tuple[Path, Path | None]]
    if sweep is None:
        found = [(file, None) for file in sorted((outputs / "runs").glob(f"*/{FILE}"))]
    else:
        found = [
            (outputs / "runs" / n.stem / FILE, n)
            for n in sorted((outputs / "sweeps" / sweep).glob("*.json"))
        ]
    for file, noted in found:
        if noted and not file.exists():
            if problems is not None:
                problems.append(
                    f"{file} is missing, and {noted} counts on it: start the sweep again"
                )
            continue
        try:
            record = read(file)
            yield record | {"name": _name(noted), "sweep": sweep} if noted else record
        except StoreError as error:
            if problems is None:
                raise
            problems.append(str(error))


def _name(note: Path) -> str:
    try:
        return str(json.loads(note.read_text())["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{note} cannot be read ({error}): delete it and start the sweep again"
        ) from error


def find(outputs: Path, name: str) -> Record:
    """The record of SWEEP/NAME, or whose key begins with `name`; a ConfigError with the nearest names if there is none."""
    sweep, _, run = name.partition("/")
    if run:
        named = {record["name"]: record for record in iterate(outputs, sweep)}
        if run not in named:
            raise unknown(f"run of sweep {sweep!r}", run, named)
        return named[run]
    files = sorted((outputs / "runs").glob(f"{name}*/{FILE}"))
    if len(files) != 1:
        raise ConfigError(
            f"{len(files)} runs in {outputs} have a key that begins with {name!r}: give SWEEP/NAME or a longer key"
        )
    return read(files[0])
