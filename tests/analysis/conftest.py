"""Folders of records, with answers where a test compares questions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from luq.evaluation.answers import ANSWERS, FIDELITY
from luq.evaluation.predictions import write_rows
from luq.store.store import Store
from pipelines import results
from pipelines.results import Record
from tests.analysis.synthetic import ladder, mixed, record

Keep = Callable[..., Record]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Write a record that answered GQA: `right` says of each question whether it was answered rightly."""

    def keep(made: Record, right: str, original: str = "") -> Record:
        store = Store(tmp_path / "store")
        for stage, marks in (
            ("evaluate", right),
            ("evaluate 16-bit", original or "1" * len(right)),
        ):
            made["artefacts"][stage] = {"gqa": f"{made['key']}-{stage.replace(' ', '-')}"}
            rows = [
                {"id": i, "text": "yes" if m == "1" else "no", "doc": {"answer": "yes"}}
                for i, m in enumerate(marks)
            ]
            store.get(
                "evaluation",
                made["artefacts"][stage]["gqa"],
                lambda folder, rows=rows: write_rows(folder / ANSWERS, rows),
            )
        measured = [{"id": i, "kl": 0.1 if m == "1" else 0.5} for i, m in enumerate(right)]
        made["fidelity"]["gqa"]["key"] = f"kl-{made['key']}"
        store.get(
            "fidelity", f"kl-{made['key']}", lambda folder: write_rows(folder / FIDELITY, measured)
        )
        results.write(tmp_path, made)
        return made

    return keep


def write(outputs: Path, records: list[Record]) -> Path:
    for made in records:
        results.write(outputs, made)
    return outputs


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The ladder, mixes with two calibrations and three seeds, and a collapsed model; no answers."""
    runs = ladder()
    for seed in (0, 1, 2):
        for k, score in ((2, 74.0), (4, 60.0), (6, 40.0)):
            runs.append(mixed(k, score + seed, seed=seed))
            text = {"calibration.name": "text", "calibration.alpha": 0.0}
            runs.append(mixed(k, score - 5 + seed, seed=seed, **text))
    runs.append(record("billm", ["billm"] * 8, 3.0, collapsed="'yes' to nearly every question"))
    return write(tmp_path, runs)
