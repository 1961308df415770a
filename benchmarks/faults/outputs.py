"""Tiny runs, and what their outputs must be: equal to a reference, and never torn."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from luq.errors import LuqError
from luq.export import checksums
from luq.export.about import ABOUT
from luq.store.sealed import DIGEST, METHOD, read_table
from luq.store.store import JOURNAL, Store
from pipelines import runs_folder
from pipelines.record import PASSING, lasting

SETTINGS = [
    "calibration.tokens=256", "calibration.sample_tokens=64", "profile.tokens=64",
    "profile.seeds=1", "evaluation.samples=1", "evaluation.benchmarks=[gqa]",
    "evaluation.fidelity=1", "evaluation.text_tokens=256", "quantizer.low=rtn4",
    "quantizer.high=gptq3", "allocation.k=9", "evaluation.data=../questions",
]  # fmt: skip
GGUF = ("--format", "gguf", "--recode", "q4_0")  # of `luq export`
QUIET = "tracking=none"
RUN = ["run", *SETTINGS, "profile.clusters=4"]
SWEEP = ["sweep", "clusters", *SETTINGS, "profile.clusters=4,5"]
# Of all processes that were ever started, for the locks that they hold, or a cache of others.
IGNORED = re.compile(r"^logs/|^store/(\.locks|datasets)/|^wandb/(?!mirrored/)|(^|/)\.[^/]+\.lock$")
PASSING_OF_EXPORTS = (*PASSING, "memory", METHOD, DIGEST)  # `memory` holds the peak of a process
# Of figures and pages: when they were made.
DATES = re.compile(rb"/CreationDate \([^)]*\)|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?")
STATE = ".pt"  # suffix of the states of a training
SHOWN = ("report/", "checkpoint/")  # what people open while it is made
OLD = b"old\n"  # what stands for the file of an earlier report
OLD_DIGEST = hashlib.sha256(OLD).hexdigest()

Snapshot = dict[str, str]  # relative name -> digest of what lasts of the content


def to(outputs: Path) -> str:
    """The override that says where outputs go."""
    return f"paths.outputs={outputs}"


def snapshot(root: Path) -> Snapshot:
    """What a folder holds, but for what differs between two runs that did the same."""
    contents: Snapshot = {}
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if IGNORED.search(name) or file.name == JOURNAL:
            continue
        if file.is_file():
            contents[name] = hashlib.sha256(_lasting(file, root)).hexdigest()
        elif not any(file.iterdir()):
            contents[f"{name}/"] = "empty"
    return contents


def _lasting(file: Path, root: Path) -> bytes:
    """The bytes of a file that must be the same again; all of one that is torn."""
    content = file.read_bytes()
    try:
        if file.name == runs_folder.FILE:
            return _json(lasting(runs_folder.read(file)))
        if file.parent.name == "mirrored":
            return _json(read_table(file)["error"])
        if file.name == ABOUT:
            table = read_table(file)
            return _json({name: table[name] for name in table if name not in PASSING_OF_EXPORTS})
        if file.suffix == STATE:
            return _tensors(file)
    except Exception:  # noqa: BLE001  # readers of torn files raise what they like
        return content
    if "report" in file.parts:
        content = DATES.sub(b"", content).replace(str(root).encode(), b"")
    return content


def _tensors(file: Path) -> bytes:
    """What a state of a training says: how its tensors share memory is not in it."""
    parts: list[str] = []
    _describe(torch.load(file, weights_only=True), parts)
    return "\n".join(parts).encode()


def _describe(value: Any, parts: list[str]) -> None:
    if isinstance(value, torch.Tensor):
        parts.append(hashlib.sha256(value.numpy().tobytes()).hexdigest())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            parts.append(str(name))
            _describe(value[name], parts)
    elif isinstance(value, list | tuple):
        for item in value:
            _describe(item, parts)
    else:
        parts.append(repr(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def differences(expected: Snapshot, actual: Snapshot) -> list[str]:
    """In what a folder differs from what it should be: a line for each file."""
    lines = [f"{name} is missing" for name in expected if name not in actual]
    lines += [f"{name} was left behind" for name in actual if name not in expected]
    for name in expected:
        if name in actual and actual[name] != expected[name]:
            lines.append(f"{name} has other content")
    return lines


def torn(outputs: Path) -> list[str]:
    """What is there and is not whole: a line for each."""
    lines: list[str] = []
    for check in (_torn_artefacts, _torn_tables, _torn_folders):
        lines += check(outputs)
    return lines


def _torn_artefacts(outputs: Path) -> Iterator[str]:
    if not (outputs / "store").exists():
        return
    store = Store(outputs / "store")
    store.built()
    for stage, key in store.labels():
        yield from _problem(partial(store.verify, stage, key))


def _torn_tables(outputs: Path) -> Iterator[str]:
    for file in outputs.glob(f"runs/*/{runs_folder.FILE}"):
        yield from _problem(partial(runs_folder.read, file))
    for pattern in ("sweeps/*/*.json", "failed/*.json", "wandb/mirrored/*.json"):
        for file in outputs.glob(pattern):
            if not file.name.startswith("."):
                yield from _problem(partial(read_table, file))


def _torn_folders(outputs: Path) -> Iterator[str]:
    for folder in outputs.glob("checkpoints/*"):
        if not folder.name.startswith("."):
            yield from _problem(partial(checksums.verify, folder))


def torn_files(folder: Path, expected: Snapshot) -> list[str]:
    """What of a report, or of a trained checkpoint, is neither an old file nor the new one.

    Args:
        folder: The outputs, or the folder of a training.
        expected: What it holds in the end.
    """
    lines: list[str] = []
    for name, digest in snapshot(folder).items():
        is_shown = name.startswith(SHOWN) and "/." not in name
        if is_shown and digest not in (expected.get(name), OLD_DIGEST, "empty"):
            lines.append(f"{name} is torn")
    return lines


def _problem(act: Callable[[], object]) -> Iterator[str]:
    """What reading something raises."""
    try:
        act()
    except (LuqError, OSError, ValueError, KeyError) as error:
        yield f"{type(error).__name__}: {error}"


def copy(source: Path, target: Path) -> Path:
    """A copy of an outputs folder, in which records say that they are of the first."""
    shutil.copytree(source, target, symlinks=True)
    return target
