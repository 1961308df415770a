import json
from dataclasses import replace
from pathlib import Path

import pytest

from luq.allocation.plans import Allocation
from luq.config import EvaluationConfig, QuantizerConfig, RtnTier
from luq.errors import ModelError
from luq.evaluation import answers, collapse
from luq.evaluation import ask as harness
from luq.evaluation.predictions import Predictions, read_rows, write_rows
from luq.models.vlm import VLM
from luq.pocket import benchmarks
from luq.quantization.walk import Walk, install
from luq.questions import sources as data
from luq.questions import subsets
from luq.store.store import Store
from tests.conftest import BENCHMARKS

CONFIG = EvaluationConfig("pocket", BENCHMARKS, samples=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    benchmarks.write(made, "selection")
    return made


@pytest.fixture(scope="module")
def lm(vlm: VLM):
    return harness.make_lm(vlm, 32)


def load(name: str, folder: Path) -> data.Questions:
    return data.load(name, CONFIG, folder / "cache", folder)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_pocket_benchmark_is_asked_and_scored_through_lm_eval(
    lm, folder: Path, tmp_path: Path, name: str
) -> None:
    questions = load(name, folder)
    ids = subsets.choose(questions, CONFIG)
    rows = harness.ask(lm, questions, ids, Predictions(tmp_path / "kept.jsonl"), strict=True)
    assert rows == harness.ask(
        lm, questions, ids, Predictions(tmp_path / "again.jsonl"), strict=True
    )
    assert [row["id"] for row in rows] == ids
    scored = harness.with_docs(questions, rows)
    assert all("image" not in row["doc"] and "decoded_image" not in row["doc"] for row in scored)
    summary = answers.summarise(name, scored)
    assert 0 <= summary.score <= 100
    assert summary.n == 4 == len(answers.units(name, scored))
    write_rows(tmp_path / "rows.jsonl", scored)
    assert answers.summarise(name, read_rows(tmp_path / "rows.jsonl")) == summary


def test_answers_do_not_depend_on_the_batch_size(
    vlm: VLM, lm, folder: Path, tmp_path: Path
) -> None:
    questions = load("gqa", folder)
    one = harness.ask(
        harness.make_lm(vlm, 1), questions, list(range(6)), Predictions(tmp_path / "one.jsonl")
    )
    assert one == harness.ask(lm, questions, list(range(6)), Predictions(tmp_path / "all.jsonl"))


def test_answered_questions_are_not_asked_again(vlm: VLM, folder: Path, tmp_path: Path) -> None:
    """Half of the batches are there: only the others are generated, and the rows are those of an
    unbroken run.
    """
    lm, questions = harness.make_lm(vlm, 4), load("textvqa", folder)
    ids, file = list(range(16)), tmp_path / "kept.jsonl"
    whole = harness.ask(lm, questions, ids, Predictions(file))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:8]) + lines[8][:5])
    kept, seen = Predictions(file), []
    assert kept.reused == 8
    assert harness.ask(lm, questions, ids, kept, advance=seen.append) == whole
    assert file.read_text() == "".join(lines)
    kept, generated = Predictions(file), []
    lm._answer = generated.append
    assert harness.ask(lm, questions, ids, kept) == whole
    assert not generated
    assert sum(seen) == 16


def test_a_torn_line_is_cut_off_and_whole_ones_stay(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    kept = Predictions(file)
    kept.append([{"id": 3, "text": "a"}, {"id": 1, "text": "é\n"}])
    good = file.read_bytes()
    for torn in (b'{"id": 5, "te', b'{"id": 5, "text": "x"}', b"\x00\x00"):
        file.write_bytes(good + torn)
        again = Predictions(file)
        assert list(again.rows) == [3, 1]
        assert file.read_bytes() == good
    assert json.loads(good.splitlines()[1])["text"] == "é\n"


def test_more_samples_keep_the_answers_of_fewer(folder: Path) -> None:
    questions = load("gqa", folder)
    few, more = (subsets.choose(questions, replace(CONFIG, samples=n)) for n in (10, 20))
    assert set(few) < set(more)


def test_what_stands_is_checked_before_scoring(vlm: VLM, tmp_path: Path) -> None:
    """The tier of every layer, and every bit of its buffers against the stored file."""
    count = len(vlm.layers)
    config = QuantizerConfig("rtn4", "rtn4", "float", {"rtn4": RtnTier()})
    plan = Allocation(("rtn4",) * count)
    folders = Walk(vlm, lambda: pytest.fail("data free"), "", config, Store(tmp_path)).quantize(
        plan
    )
    with pytest.raises(ModelError, match="layer 0 should be in tier rtn4"):
        harness.assert_installed(vlm, plan, folders)
    install(vlm, plan, folders)
    try:
        harness.assert_installed(vlm, plan, folders)
        vlm.layers[3].get_submodule("mlp.up_proj").codes[1, 7] ^= 1
        with pytest.raises(
            ModelError, match=r"codes of layer 3 mlp\.up_proj in memory is not what .* holds"
        ):
            harness.assert_installed(vlm, plan, folders)
    finally:
        vlm.restore()


def test_collapse_is_seen() -> None:
    def rows(*texts: str) -> list[dict]:
        return [{"text": t} for t in texts]

    assert "'yes' to nearly every question" in collapse.collapsed(rows(*["Yes"] * 40))
    assert "gibberish" in collapse.collapsed(rows(*[""] * 25, *[str(i) for i in range(15)]))
    assert "gibberish" in collapse.collapsed(
        rows(*["!!!!", "the the the the", "aaaaaaaa", "--"] * 8, *[str(i) for i in range(9)])
    )
    assert not collapse.collapsed(rows(*["Yes", "No"] * 20))
    assert not collapse.collapsed(rows(*[f"{i} red" for i in range(30)]))
    assert not collapse.collapsed(rows("Yes", "Yes")), "too few to say"
    assert not collapse.collapsed([{"error": "x"}] * 40)
