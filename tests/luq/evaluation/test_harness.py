from pathlib import Path

import pytest

from luq.allocation.plans import Allocation
from luq.config import EvaluationConfig
from luq.errors import DataError, ModelError
from luq.evaluation import harness
from luq.models.vlm import VLM
from luq.pocket import benchmarks
from tests.conftest import BENCHMARKS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    benchmarks.write(folder, "selection")
    return folder


def config(samples: int | None) -> EvaluationConfig:
    return EvaluationConfig("pocket", BENCHMARKS, samples=samples)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_asked_and_scored_through_lm_eval(vlm: VLM, data: Path, tmp_path: Path, name: str) -> None:
    rows = harness.ask(vlm, name, data, tmp_path, config(4))
    again = harness.ask(vlm, name, data, tmp_path, config(4))
    assert rows == again
    units = {"mme": 8, "mmbench": 16}.get(name, 4)
    assert len(rows) == units or name == "mmbench"
    assert all("image" not in row["doc"] and "decoded_image" not in row["doc"] for row in rows)
    summary = harness.summarise(name, rows)
    assert 0 <= summary.score <= 100
    assert summary.n == 4
    harness.write_rows(tmp_path / "rows.jsonl", rows)
    assert harness.read_rows(tmp_path / "rows.jsonl") == rows


def test_answers_do_not_depend_on_the_batch_size(vlm: VLM, data: Path, tmp_path: Path) -> None:
    one = EvaluationConfig("pocket", BENCHMARKS, samples=6, batch_size=1)
    assert harness.ask(vlm, "gqa", data, tmp_path, one) == harness.ask(vlm, "gqa", data, tmp_path, config(6))


def test_subsets_keep_pairs_and_rotations_whole(data: Path) -> None:
    for name, unit in (("mme", lambda d: d["question_id"]), ("mmbench", lambda d: d["index"] % 1_000_000)):
        docs = benchmarks.build(name, "selection", bases=30)
        chosen = harness.choose(docs, name, config(14))
        assert chosen is not None
        units = {unit(docs[i]) for i in chosen}
        assert len(units) == 14
        assert {i for i, d in enumerate(docs) if unit(d) in units} == set(chosen)
        assert len({docs[i]["category"] for i in chosen}) == len({d["category"] for d in docs})
    assert harness.choose([], "gqa", config(None)) is None


def test_more_samples_extend_fewer(data: Path) -> None:
    docs = benchmarks.build("gqa", "selection", bases=40)
    few, more = harness.choose(docs, "gqa", config(10)), harness.choose(docs, "gqa", config(20))
    assert few is not None
    assert more is not None
    assert set(few) < set(more)


def test_the_tier_is_checked_before_scoring(vlm: VLM) -> None:
    with pytest.raises(ModelError, match="layer 0 should be in tier billm"):
        harness.assert_installed(vlm, Allocation(("billm",) * len(vlm.layers)))


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gqa\.parquet is missing"):
        harness.data_file(tmp_path, "gqa")


def test_collapse_is_seen() -> None:
    def rows(*texts: str) -> list[dict]:
        return [{"text": t} for t in texts]

    assert harness.collapsed(rows(*["Yes"] * 40))
    assert harness.collapsed(rows(*[""] * 25, *[str(i) for i in range(15)]))
    assert not harness.collapsed(rows(*["Yes", "No"] * 20))
    assert not harness.collapsed(rows("Yes", "Yes"))  # too few to say
