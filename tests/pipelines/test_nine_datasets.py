"""`luq run` on the nine datasets as the hub holds them, good rows and bad ones."""

from pathlib import Path

import pytest

from luq.evaluation.answers import ANSWERS
from luq.evaluation.predictions import AnswerRow, read_answers
from pipelines import runs_folder
from pipelines.record import RunRecord
from tests.conftest import BENCHMARKS
from tests.luq.questions.clones import ROWS, Row, clone
from tests.pipelines.command import luq_to as luq

QUICK = [
    "calibration.tokens=512",
    "profile.tokens=256",
    "profile.clusters=8",
    "profile.seeds=1",
    "quantizer.high=rtn4",
    "allocation=uniform",
    "evaluation.split=all",
    "evaluation.samples=null",
    "evaluation.text_tokens=0",
    "tracking=none",
    f"model.benchmarks=[{','.join(BENCHMARKS)}]",
]
MODELS = ["pocket_llava", "pocket_qwen"]
# What is wrong -> the columns of such a row.
POISON: dict[str, Row] = {
    "broken image": {"image": {"bytes": b"broken", "path": None}},
    "empty image": {"image": {"bytes": b"", "path": None}},
    "null question": {"question": None},
    "null answer": {"answer": None, "answers": None},
    "nan answer": {"answer": "nan", "answers": ["nan"]},
    "long question": {"question": "word " * 3000},
}


def poisoned(benchmark: str) -> list[Row]:
    """The benchmark's rows and one of each kind of bad ones, with ids of their own."""
    rows = list(ROWS[benchmark])
    # GQA's images are in a table of their own, where all is well
    kinds = {k: v for k, v in POISON.items() if benchmark != "gqa" or "image" not in v}
    for number, columns in enumerate(kinds.values()):
        row = {**rows[0], **columns}
        if benchmark == "vqav2" and columns.get("answers"):
            row["answers"] = [{"answer": answer} for answer in columns["answers"]]
        if benchmark == "mathvista" and "image" in columns:
            row |= {"image": "images/1.jpg", "decoded_image": columns["image"]}
        if benchmark == "mme":
            row["question_id"] = f"bad/{number}.png"
        if benchmark == "mmbench":
            row["index"] = 100 + number
        rows.append(row)
    if benchmark == "mathvista":
        rows.append(rows[0] | {"choices": None})
    if benchmark == "mmbench":
        rows.append(rows[0] | {"index": None, "A": None, "B": "nan", "C": "", "answer": None})
    return rows


def run(folder: Path, model: str, outputs: Path) -> RunRecord:
    done = luq(outputs, "run", *QUICK, f"model={model}", f"evaluation.data={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = runs_folder.iterate(outputs)
    assert set(record.scores) == set(BENCHMARKS)
    return record


def answers(outputs: Path, record: RunRecord, benchmark: str) -> list[AnswerRow]:
    key = record.artefacts.answers[benchmark]
    return read_answers(outputs / "store" / "evaluation" / key / ANSWERS)


@pytest.mark.parametrize("model", MODELS)
def test_the_layouts_of_the_hub_give_no_error(model: str, tmp_path: Path) -> None:
    for benchmark in BENCHMARKS:
        clone(tmp_path / "data", benchmark)
    record = run(tmp_path / "data", model, tmp_path / "outputs")
    for benchmark, score in record.scores.items():
        assert score.errors == 0, benchmark
        assert score.rows == len(ROWS[benchmark])
        assert record.fidelity[benchmark].left_out == 0


@pytest.mark.parametrize("model", MODELS)
def test_bad_rows_are_wrong_and_all_others_are_scored(model: str, tmp_path: Path) -> None:
    for benchmark in BENCHMARKS:
        clone(tmp_path / "data", benchmark, poisoned(benchmark))
    record = run(tmp_path / "data", model, tmp_path / "outputs")
    for benchmark in BENCHMARKS:
        good = len(ROWS[benchmark])
        rows = answers(tmp_path / "outputs", record, benchmark)
        assert ["error" in row for row in rows] == [id_ >= good for id_ in range(len(rows))]
        assert record.scores[benchmark].errors == len(rows) - good
        assert record.fidelity[benchmark].left_out == len(rows) - good
