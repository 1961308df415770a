"""Tasks of lm-eval asked of the model in memory: scores, interruptions, rows that cannot be asked."""

from pathlib import Path

import pytest

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.evaluation.answers import TaskResult, read_kept, units_of, write_result
from luq.evaluation.lm_eval_tasks import TaskLM, run_task
from luq.evaluation.predictions import Predictions
from luq.models.vlm import VLM
from luq.questions.lm_eval_tasks import OpenTask, task_table
from luq.questions.subsets import Subset
from luq.store.artefact import Silent
from tests.own_tasks import write_colours, write_tasks

ALL = Subset("all")


@pytest.fixture(scope="module")
def task_lm(vlm: VLM) -> TaskLM:
    return TaskLM(vlm, 4)


def opened(folder: Path, name: str) -> OpenTask:
    return task_table(name, EvaluationConfig("own", [name], include_path=str(folder))).opened()


def asked(
    lm: TaskLM, task: OpenTask, file: Path, subset: Subset = ALL, strict: bool = False
) -> TaskResult:
    lm.begin_task(Predictions(file), strict, Silent())
    return run_task(lm, task, subset)[0]


@pytest.mark.parametrize(("name", "questions"), [("my_sums", 12), ("my_colours", 8)])
def test_a_task_is_scored_by_lm_eval_and_each_question_has_its_share(
    task_lm: TaskLM, tmp_path: Path, name: str, questions: int
) -> None:
    task = opened(write_tasks(tmp_path / "tasks"), name)
    result = asked(task_lm, task, tmp_path / "partial.jsonl")
    summary = result.summary
    assert summary.n == len(result.rows) == questions
    assert summary.score == pytest.approx(100 * summary.metrics["acc"])
    assert summary.stderr == pytest.approx(100 * summary.metrics["acc_stderr"])
    assert summary.score == pytest.approx(100 * sum(summary.units) / questions)
    assert [row["id"] for row in result.rows] == list(range(questions))
    assert all(row["text"].strip() for row in result.rows)
    again = asked(task_lm, task, tmp_path / "again.jsonl")
    assert again == result, "the same examples before the same questions"


def test_a_group_has_the_score_of_its_parts(task_lm: TaskLM, tmp_path: Path) -> None:
    task = opened(write_tasks(tmp_path / "tasks"), "my_both")
    result = asked(task_lm, task, tmp_path / "partial.jsonl")
    assert len(result.rows) == 20
    assert len({row["id"] for row in result.rows}) == 20
    values: dict[str, list[float]] = {"my_sums": [], "my_colours": []}
    for name, value in zip(result.names, result.summary.units, strict=True):
        values[name.partition("/")[0]].append(value)
    means = [sum(of_part) / len(of_part) for of_part in values.values()]
    assert result.summary.score == pytest.approx(100 * sum(means) / 2)  # weight_by_size: false
    weighted = sum(value * weight for value, weight in units_of("my_both", result).values())
    assert result.summary.score == pytest.approx(100 * weighted)


def test_a_result_that_is_read_is_the_one_that_was_written(task_lm: TaskLM, tmp_path: Path) -> None:
    task = opened(write_tasks(tmp_path / "tasks"), "my_sums")
    result = asked(task_lm, task, tmp_path / "partial.jsonl", Subset("all", 5))
    write_result(tmp_path, result, {})
    assert read_kept(tmp_path) == result
    assert len(result.rows) == 5


def test_an_interrupted_task_goes_on_and_ends_alike(
    vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = TaskLM(vlm, 4)
    task = opened(write_tasks(tmp_path / "tasks"), "my_sums")
    whole = asked(lm, task, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 36, "a line for each choice"
    (tmp_path / "killed.jsonl").write_bytes(b"".join(lines[:16]) + lines[16][:20])
    batches: list[int] = []
    measure = lm._measure
    monkeypatch.setattr(lm, "_measure", lambda batch: batches.append(len(batch)) or measure(batch))
    assert asked(lm, task, tmp_path / "killed.jsonl") == whole
    assert batches == [4] * 5
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_question_that_is_too_long_is_wrong_and_the_others_are_asked(
    task_lm: TaskLM, tmp_path: Path
) -> None:
    folder = write_tasks(tmp_path / "tasks")
    write_colours(folder, ["What colour is it?", "colour " * 3000, "What does <image> say?"])
    task = opened(folder, "my_colours")
    result = asked(task_lm, task, tmp_path / "partial.jsonl")
    assert ["error" in row for row in result.rows] == [False, True, True]
    assert "longer than the context" in result.rows[1]["error"]
    assert result.summary.units[1:] == [0, 0]
    assert result.summary.n == 3
    with pytest.raises(DataError, match=r"evaluation\.strict"):
        asked(task_lm, task, tmp_path / "strict.jsonl", strict=True)


def test_a_split_without_a_question_is_said(task_lm: TaskLM, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    write_colours(folder, ["What colour is it?"])
    task = opened(folder, "my_colours")
    with pytest.raises(DataError, match=r"no question of my_colours .*evaluation\.split=all"):
        asked(task_lm, task, tmp_path / "partial.jsonl", Subset("selection"))
