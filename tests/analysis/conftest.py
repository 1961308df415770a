"""Folders of records, with answers where a test compares questions."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from analysis import frame
from analysis.loading import load
from luq.evaluation.answers import ANSWERS, FIDELITY
from luq.evaluation.predictions import AnswerRow, write_rows
from luq.store.store import MANIFEST, Store, write_json
from pipelines import runs_folder
from pipelines.record import RunRecord
from tests.analysis.synthetic import ladder, mixed, record

Keep = Callable[..., RunRecord]


def _keep(
    store: Store, stage: str, key: str, file: str, rows: Iterable[Mapping[str, object]]
) -> None:
    """Put rows into the store, as an artefact does."""
    folder = store.path(stage, key)
    folder.mkdir(parents=True)
    write_rows(folder / file, rows)
    content = (folder / file).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(folder / MANIFEST, {"stage": stage, "key": key, "files": {file: entry}})


def _answers(marks: str) -> list[AnswerRow]:
    rows: list[AnswerRow] = []
    for i, mark in enumerate(marks):
        text = "yes" if mark == "1" else "no"
        rows.append({"id": i, "text": text, "doc": {"answer": "yes"}})
    return rows


def _keep_run(outputs: Path, run: RunRecord, right: str, original: str = "") -> RunRecord:
    store = Store(outputs / "store")
    answers = f"{run.key}-answers"
    float_answers = f"{run.key}-float-answers"
    divergences = f"kl-{run.key}"
    _keep(store, "evaluation", answers, ANSWERS, _answers(right))
    _keep(store, "evaluation", float_answers, ANSWERS, _answers(original or "1" * len(right)))
    measured = [{"id": i, "kl": 0.1 if m == "1" else 0.5} for i, m in enumerate(right)]
    _keep(store, "fidelity", divergences, FIDELITY, measured)
    artefacts = replace(
        run.artefacts, answers={"gqa": answers}, float_answers={"gqa": float_answers}
    )
    fidelity = {"gqa": replace(run.fidelity["gqa"], key=divergences)}
    answered = replace(run, artefacts=artefacts, fidelity=fidelity)
    runs_folder.write(outputs, answered)
    return answered


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Write a record that answered GQA: a 1 stands for each question that was answered rightly.

    `original` says the same of its 16-bit model; without it that answered all rightly.
    """
    return partial(_keep_run, tmp_path)


def write(outputs: Path, records: Iterable[RunRecord]) -> Path:
    """Write records into an outputs folder; returns it."""
    for run in records:
        runs_folder.write(outputs, run)
    return outputs


def studied(outputs: Path, records: Iterable[RunRecord]) -> frame.Study:
    """The largest study of some records."""
    return frame.studies(load(write(outputs, records)))[0]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The ladder, mixes with two calibrations and three seeds, a collapsed model; no answers."""
    runs = ladder()
    for seed in (0, 1, 2):
        for k, score in ((2, 74.0), (4, 60.0), (6, 40.0)):
            runs.append(mixed(k, score + seed, seed=seed))
            text = {"calibration.name": "text", "calibration.alpha": 0.0}
            runs.append(mixed(k, score - 5 + seed, seed=seed, **text))
    runs.append(record("billm", ["billm"] * 8, 3.0, collapsed="'yes' to nearly every question"))
    return write(tmp_path, runs)
