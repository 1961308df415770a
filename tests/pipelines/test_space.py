"""Room on the disk, and questions, before any work."""

import shutil
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest

from luq.pocket import benchmarks
from tests.pipelines.command import luq

SMALL = [
    "evaluation.samples=4", "evaluation.fidelity=0", "evaluation.text_tokens=0", "tracking=none",
    "evaluation.benchmarks=[gqa]", "allocation=uniform", "quantizer.high=rtn4",
]  # fmt: skip
Usage = namedtuple("Usage", "total used free")


def limit(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 10**12 - free, free))


def test_a_run_that_has_no_room_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path / "outputs"
    words = [*SMALL, f"paths.outputs={outputs}"]
    limit(monkeypatch, 100_000)
    refused = luq("run", *words, width=1000)
    assert refused.returncode == 1
    assert "has 100.00 kB left, and this run writes 1." in refused.stderr
    assert "0 bytes of 16-bit layers" in refused.stderr, "they are the checkpoint's"
    assert not (outputs / "store" / "layers").exists()
    monkeypatch.undo()
    assert luq("run", *words).returncode == 0
    limit(monkeypatch, 1_000)
    again = luq("run", *words)
    assert again.returncode == 0, "what the store has needs no room: " + again.stderr
    refused = luq("run", *words, "checkpoint=true", width=1000)
    assert refused.returncode == 1
    assert "0 bytes of packed ones" in refused.stderr


def test_what_is_said_to_be_needed_is_no_more_than_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luq.store.store import Store
    from pipelines import space

    amounts = []
    check = space.needed
    monkeypatch.setattr(
        space, "needed", lambda graph, store: amounts.append(check(graph, store)) or amounts[-1]
    )
    words = [*SMALL, "checkpoint=true", f"paths.outputs={tmp_path}"]
    assert luq("run", *words).returncode == 0
    first = amounts[0]
    store = Store(tmp_path / "store")
    layers = sum(file.stat().st_size for file in (store.root / "layers").rglob("*.safetensors"))
    exported = sum(
        file.stat().st_size for file in (tmp_path / "checkpoints").rglob("*.safetensors")
    )
    assert 0.9 * layers < first.float_layers + first.packed_layers <= layers
    assert 0.8 * exported < first.checkpoint <= exported


def test_a_source_without_a_column_is_refused_before_any_layer_is_packed(tmp_path: Path) -> None:
    benchmarks.write(tmp_path / "questions", "report")
    file = tmp_path / "questions" / "gqa.parquet"
    pd.read_parquet(file).drop(columns=["answer"]).to_parquet(file)
    outputs = tmp_path / "outputs"
    words = [*SMALL, f"evaluation.data={tmp_path / 'questions'}", f"paths.outputs={outputs}"]
    refused = luq("run", *words, width=1000)
    assert refused.returncode == 1
    assert "answer" in refused.stderr
    assert not (outputs / "store" / "layers").exists()
