"""Language models without a vision tower: calibrated on text, scored by perplexity and text tasks."""

from pathlib import Path

import pytest

from analysis.__main__ import Request, write_report
from pipelines import runs_folder
from tests.luq.models import tiny_families
from tests.own_tasks import write_tasks
from tests.pipelines.command import Done, luq

SMALL = [
    "model=pocket_llava", "calibration=text", "calibration.tokens=512", "calibration.sample_tokens=32", "profile.tokens=128",
    "profile.clusters=8", "profile.seeds=1", "quantizer.low=rtn4", "tracking=none", "evaluation.fidelity=0",
]  # fmt: skip
PERPLEXITY = [
    "evaluation.benchmarks=[]",
    "evaluation.text_tokens=512",
    "evaluation.text_length=64",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.write(tmp_path_factory.mktemp("llama") / "tiny", "llama")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text_outputs")


@pytest.fixture(scope="module")
def done(folder: Path, outputs: Path) -> Done:
    """Two plans, of which nothing is measured but perplexity."""
    words = [f"model.path={folder}", f"paths.outputs={outputs}", "group=text", *PERPLEXITY]
    return luq("run", "-m", "allocation.k=1,3", *SMALL, *words)


def test_a_run_without_questions_is_scored_by_perplexity(done: Done, outputs: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "perplexity" in done.stdout
    records = list(runs_folder.iterate(outputs, "text"))
    assert len(records) == 2
    for record in records:
        perplexity = record.perplexity
        assert perplexity is not None
        assert perplexity.float_value is not None
        assert record.scores == {}
        assert record.mean_retention == pytest.approx(perplexity.float_value / perplexity.value)
        assert record.mean_score == pytest.approx(100 * record.mean_retention)
        interval = record.score_interval
        assert interval.low <= record.mean_score <= interval.high
        assert {entry.modality for entry in record.profile} == {"all", "text"}
        assert record.calibration is not None
        assert record.calibration.alpha == 0


def test_its_runs_are_reported(done: Done, outputs: Path) -> None:
    assert done.returncode == 0
    write_report(Request(["text"], outputs))
    page = (outputs / "report" / "text" / "report.html").read_text(encoding="utf-8")
    assert "perplexity" in page


def test_a_text_task_is_asked(folder: Path, outputs: Path, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    words = [f"model.path={folder}", f"paths.outputs={outputs}", "group=tasks", "allocation.k=1"]
    asked = [
        f"evaluation.include_path={tasks}", "evaluation.benchmarks=[my_sums]", "evaluation.samples=6", "evaluation.split=all",
        "evaluation.text_tokens=0", "checkpoint=true",
    ]  # fmt: skip
    finished = luq("run", *SMALL, *words, *asked)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (record,) = runs_folder.iterate(outputs, "tasks")
    assert set(record.scores) == {"my_sums"}
    assert record.scores["my_sums"].n == 6
    exported = outputs / "checkpoints" / record.key
    assert luq("info", str(exported), "--verify").returncode == 0
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForCausalLM" in card


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["calibration=multimodal", *PERPLEXITY], "sees no images. Use calibration=text"),
        (["evaluation.benchmarks=[gqa]"], "sees no images, but gqa ask about them"),
        (["evaluation.benchmarks=[]", "evaluation.text_tokens=0"], "nothing would be measured"),
        (["model.do_pad=true", *PERPLEXITY], "model.do_pad=True: llama is a language model"),
    ],
)
def test_what_needs_images_is_refused(
    folder: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    words = [f"model.path={folder}", f"paths.outputs={tmp_path}", "allocation.k=1"]
    refused = luq("run", *SMALL, *words, *overrides)
    assert refused.returncode == 1
    assert message in " ".join(refused.stderr.split())


def test_an_exported_folder_is_asked_without_an_image(
    folder: Path, done: Done, outputs: Path, tmp_path: Path
) -> None:
    key = next(runs_folder.iterate(outputs, "text")).key
    exported = tmp_path / "packed"
    printed = luq("export", key, str(exported), "--outputs", str(outputs))
    assert printed.returncode == 0, printed.stderr
    assert "AutoModelForCausalLM.from_pretrained" in printed.stdout
    assert "--image" not in printed.stdout
    assert luq("chat", str(exported), "--question", "Who are you?").returncode == 0
    image = str(tmp_path / "none.png")
    refused = luq("chat", str(exported), "--question", "What is it?", "--image", image)
    assert refused.returncode == 1
    assert "sees no images: leave it out" in " ".join(refused.stderr.split())
