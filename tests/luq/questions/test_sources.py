from pathlib import Path

import pytest
from datasets import Dataset

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.evaluation import answers
from luq.evaluation import ask as harness
from luq.evaluation.predictions import Predictions
from luq.models.vlm import VLM
from luq.questions import sources as data
from luq.questions import subsets
from tests.conftest import BENCHMARKS
from tests.luq.questions.clones import ROWS, clone, picture


def config(folder: Path | str, **more) -> EvaluationConfig:
    return EvaluationConfig("test", BENCHMARKS, data=str(folder), split="all", **more)


@pytest.mark.parametrize("name", [*BENCHMARKS, "textvqa_ocr"])
def test_the_real_layouts_run_through_lm_eval(lm, tmp_path: Path, name: str) -> None:
    """A clone of the dataset repository, as it lies on the hub: configurations, splits, columns, grey and RGBA pictures."""
    clone(tmp_path, data.spec(name).data)
    questions = data.load(name, config(tmp_path), tmp_path / "cache")
    ids = subsets.choose(questions, config(tmp_path))
    rows = harness.ask(lm, questions, ids, Predictions(tmp_path / "kept.jsonl"), strict=True)
    assert [row["id"] for row in rows] == list(range(len(ROWS[data.spec(name).data])))
    summary = answers.summarise(name, harness.with_docs(questions, rows))
    units = {"mme": 3, "mmbench": 2}.get(name, len(rows))
    assert summary.n == len(summary.units) == units
    assert sum(summary.weights) == pytest.approx(1)


def test_gqa_finds_its_images_in_the_second_table(tmp_path: Path) -> None:
    clone(tmp_path, "gqa")
    questions = data.load("gqa", config(tmp_path), tmp_path / "cache")
    assert list(questions.image_rows) == [0, 1, 0, 1]
    assert len(questions.images) == 2, "images are not copied per question"
    assert questions.image(0).convert("RGB").size == (90, 60)


def test_a_lost_image_and_a_broken_one_name_their_row(tmp_path: Path) -> None:
    rows = [
        {
            "question": "?",
            "answer": "1",
            "type": "human_test",
            "image": {"bytes": b"no png", "path": None},
        }
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "chartqa.parquet")
    questions = data.load("chartqa", config(tmp_path), tmp_path / "cache")
    with pytest.raises(DataError, match="chartqa row 0: the image does not decode"):
        questions.image(0).convert("RGB")
    lost = data.LazyImage(questions.images, -1, "gqa row 7")
    with pytest.raises(DataError, match="gqa row 7: there is no such image"):
        lost.convert()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    Dataset.from_list([{"question": "?", "image": picture(0)}]).to_parquet(
        tmp_path / "chartqa.parquet"
    )
    with pytest.raises(DataError, match=r"questions of chartqa .* lack the column answer, type"):
        data.load("chartqa", config(tmp_path), tmp_path / "cache")


def test_missing_data_names_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"gqa\.parquet is missing: give a parquet file, .* clone of lmms-lab-encoder/GQA",
    ):
        data.load("gqa", config(tmp_path), tmp_path / "cache")


def test_the_organisation_is_one_value_with_the_old_name_as_fallback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def refuse(path: str, *args) -> None:
        tried.append(path)
        raise ConnectionError("offline")

    monkeypatch.setattr(data, "_read", refuse)
    with pytest.raises(
        DataError, match=r"cannot be read .*offline.*: connect to the hub, or set evaluation.data"
    ):
        data.load("pope", config("hub"), tmp_path)
    with pytest.raises(DataError):
        data.load("pope", config("hub", organisation="mine"), tmp_path)
    with pytest.raises(DataError):
        data.load("mathvista", config("hub"), tmp_path)
    assert tried == [
        "lmms-lab-encoder/POPE",
        "lmms-lab/POPE",
        "mine/POPE",
        "lmms-lab/POPE",
        "AI4Math/MathVista",
    ]


def test_one_benchmark_can_have_its_own_file(tmp_path: Path) -> None:
    for name, answer in (("a", "1"), ("b", "2")):
        row = {"question": "?", "answer": answer, "type": "human_test", "image": picture(0)}
        (tmp_path / name).mkdir()
        Dataset.from_list([row]).to_parquet(tmp_path / name / "chartqa.parquet")
    file = str(tmp_path / "b" / "chartqa.parquet")
    own = data.load(
        "chartqa", config(tmp_path / "a", sources={"chartqa": file}), tmp_path / "cache"
    )
    assert own.docs[0]["answer"] == "2"
    other = data.load("chartqa", config(tmp_path / "a"), tmp_path / "cache")
    assert own.identity != other.identity


def test_identity_is_the_content_not_the_place(tmp_path: Path) -> None:
    clone(tmp_path / "one", "gqa")
    clone(tmp_path / "two", "gqa")
    one, two = (
        data.load("gqa", config(tmp_path / n), tmp_path / "cache").identity for n in ("one", "two")
    )
    assert one == two


def bad_rows(folder: Path) -> Path:
    """Five questions: three of them with something wrong."""
    good = {
        "question": "What is the value of UK?",
        "answer": "3",
        "type": "human_test",
        "image": picture(1),
    }
    broken = good | {"image": {"bytes": b"broken", "path": None}}
    rows = [good, broken, good | {"answer": ""}, good | {"question": "word " * 3000}, good]
    Dataset.from_list(rows).to_parquet(folder / "chartqa.parquet")
    return folder


def test_bad_rows_are_counted_as_errors_and_never_dropped(lm, tmp_path: Path) -> None:
    questions = data.load("chartqa", config(bad_rows(tmp_path)), tmp_path / "cache")
    rows = harness.ask(lm, questions, [0, 1, 2, 3, 4], Predictions(tmp_path / "kept.jsonl"))
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert "chartqa row 1: the image does not decode" in rows[1]["error"]
    assert rows[2]["error"] == "the answer is empty"
    assert "longer than the context allows" in rows[3]["error"]
    summary = answers.summarise("chartqa", harness.with_docs(questions, rows))
    assert summary.n == 5
    assert summary.units[1:4] == [0, 0, 0]


@pytest.mark.parametrize(
    ("row", "match"),
    [(1, "row 1: .*does not decode"), (2, "row 2: the answer is"), (3, "row 3: a prompt of")],
)
def test_strict_stops_at_a_bad_row(lm, tmp_path: Path, row: int, match: str) -> None:
    questions = data.load("chartqa", config(bad_rows(tmp_path)), tmp_path / "cache")
    with pytest.raises(DataError, match=match):
        harness.ask(lm, questions, [0, row], Predictions(tmp_path / "kept.jsonl"), strict=True)


@pytest.fixture(scope="module")
def lm(vlm: VLM):
    return harness.make_lm(vlm, 4)
