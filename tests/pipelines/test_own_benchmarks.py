"""Benchmarks of a user's own beside the built-in ones: run, compared, scored again, reported."""

import json
from pathlib import Path

import pytest

from analysis.compare import Reader
from luq.evaluation.compare import paired
from pipelines import runs_folder
from tests.own_tasks import write_tasks
from tests.pipelines.command import Done, luq

OWN = ("my_sums", "my_colours", "my_both")
SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=6", "evaluation.fidelity=2", "evaluation.text_tokens=0", "tracking=none",
    "evaluation.split=all", "evaluation.batch_size=4", "quantizer.low=rtn4", "quantizer.high=float16",
]  # fmt: skip


def words(tasks: Path, outputs: Path, benchmarks: tuple[str, ...]) -> list[str]:
    return [
        *SMALL,
        f"evaluation.include_path={tasks}",
        f"evaluation.benchmarks=[{','.join(benchmarks)}]",
        f"paths.outputs={outputs}",
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("own") / "tasks")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own_outputs")


@pytest.fixture(scope="module")
def done(tasks: Path, outputs: Path) -> Done:
    """Two plans, asked a built-in benchmark and three of the user's own."""
    return luq("run", "-m", "group=own", "allocation.k=2,6", *words(tasks, outputs, ("gqa", *OWN)))


def test_own_benchmarks_stand_in_the_record_beside_built_in_ones(done: Done, outputs: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in ("gqa", *OWN))
    for record in runs_folder.iterate(outputs, "own"):
        assert set(record.scores) == {"gqa", *OWN}
        assert set(record.fidelity) == {"gqa"}
        score = record.scores["my_sums"]
        assert score.n == score.rows == 6
        assert score.score == pytest.approx(100 * score.metrics["acc"])
        folder = outputs / "store" / "evaluation" / record.artefacts.answers["my_sums"]
        results = json.loads((folder / "results.json").read_text())
        assert results["lm_eval"]["my_sums"]["acc,none"] == score.metrics["acc"]
        means = [item.score for item in record.scores.values()]
        assert record.mean_score == pytest.approx(sum(means) / 4)


def test_own_benchmarks_are_compared_question_by_question(done: Done, outputs: Path) -> None:
    first, second = runs_folder.iterate(outputs, "own")
    reader = Reader(outputs)
    reader.know([first, second])
    differences = paired(reader.scores(first.key) or {}, reader.scores(second.key) or {})
    assert [d.name for d in differences] == ["gqa", *sorted(OWN), "mean"]
    assert all(d.n == 6 for d in differences[:-1])


def test_a_second_run_makes_nothing_and_scoring_again_changes_nothing(
    done: Done, tasks: Path, outputs: Path
) -> None:
    again = luq("run", "allocation.k=2", *words(tasks, outputs, ("gqa", *OWN)))
    assert " 0 made" in again.stdout.replace("\n", " "), again.stdout + again.stderr
    scored = luq("rescore", "own", "--outputs", str(outputs))
    assert scored.returncode == 0, scored.stderr
    assert "0 changed" in scored.stdout


def test_a_report_has_own_benchmarks(done: Done, outputs: Path) -> None:
    made = luq("report", "own", "--outputs", str(outputs))
    assert made.returncode == 0, made.stdout + made.stderr
    page = next(outputs.rglob("*.html")).read_text(encoding="utf-8")
    assert all(name in page for name in OWN)


def test_a_plan_that_chooses_by_quality_asks_own_benchmarks_alone(
    tasks: Path, tmp_path: Path
) -> None:
    chosen = luq(
        "run", "allocation=quality", "allocation.drop=50",
        *words(tasks, tmp_path, ("my_sums",)), "evaluation.split=report", "allocation.samples=1",
    )  # fmt: skip
    assert chosen.returncode == 0, chosen.stdout + chosen.stderr
    (record,) = runs_folder.iterate(tmp_path)
    assert set(record.scores) == {"my_sums"}


def test_a_plan_by_divergence_needs_a_built_in_benchmark(tasks: Path, tmp_path: Path) -> None:
    refused = luq("run", "order=kl", "allocation.k=2", *words(tasks, tmp_path, ("my_sums",)))
    assert refused.returncode == 1
    assert "which only built-in benchmarks have" in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "store" / "layers").exists()
