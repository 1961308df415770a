import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from analysis import __main__ as command
from analysis import figures, report
from analysis.charts import Chart
from analysis.loading import load
from luq.store.writers import sole_writer
from pipelines import runs_folder
from pipelines.runs_folder import Failure
from tests.analysis.conftest import Keep
from tests.analysis.synthetic import BENCHMARKS, LAYERS, mixed, record


class Done(NamedTuple):
    """What a command gave back."""

    returncode: int
    stdout: str
    stderr: str


Luq = Callable[..., Done]


@pytest.fixture
def luq(capsys: pytest.CaptureFixture[str]) -> Luq:
    """`luq report` with some arguments."""

    def report_command(*arguments: str) -> Done:
        code = command.main(arguments)
        return Done(code, *capsys.readouterr())

    return report_command


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty files: drawing them takes most of a report's time."""

    def save(chart: Chart, folder: Path, prefix: str = "") -> list[Path]:
        file = folder / f"{prefix}{chart.name}.png"
        file.touch()
        return [file]

    monkeypatch.setattr(figures, "save", save)


def data(page: str) -> dict:
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert script
    return json.loads(script[1])


def test_everything_is_written(demo: Path, luq: Luq) -> None:
    done = luq("demo", "--outputs", str(demo))
    assert done.returncode == 0, done.stderr
    folder = demo / "report" / "demo"
    assert str(folder / "report.html") in done.stdout.replace("\n", "")
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for text in (page, markdown, done.stdout.replace("\n", " ")):
        assert "smallest plan within 10 %" in text
        assert "gptq3" in text
    for text in (page, markdown):
        assert "proves nothing about 7B models" in text
        assert "Pocket models" in text
        assert "calibration: text-only" in text.lower()
    images = re.findall(r"!\[.*?\]\((.*?)\)", markdown)
    assert len(images) > 6
    assert all((folder / image).stat().st_size > 5000 for image in images)
    assert len(list((folder / "figures").glob("*.pdf"))) == len(images)
    assert not [f for f in folder.rglob("*") if ".tmp" in f.name]


def test_the_page_needs_nothing_from_outside(demo: Path) -> None:
    report.build(demo, "demo", load(demo, ["demo"]), demo / "r")
    page = (demo / "r" / "report.html").read_text()
    assert len(page) < 3_000_000
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:|#)', markup)
    assert "@import" not in page
    assert not re.findall(r"url\(\s*[\"']?https?:", page.split("<script>")[0])
    page_data = data(page)
    points = page_data["charts"]["pareto"]["data"]["values"]
    assert {p["plan"] for p in points} <= set(page_data["plans"])
    for plan in page_data["plans"].values():
        assert page_data["runs"]["rows"][plan["run"]][-1].startswith("luq run ")
    assert {f"pareto-{b}" for b in BENCHMARKS} <= set(page_data["charts"])
    assert len(page_data["runs"]["rows"]) == 24


@pytest.mark.usefixtures("undrawn")
def test_frames_as_data(demo: Path) -> None:
    report.build(demo, "demo", load(demo, ["demo"]), demo / "r")
    scores = pd.read_parquet(demo / "r" / "scores.parquet")
    assert len(scores) == 24 * len(BENCHMARKS)
    assert len(pd.read_csv(demo / "r" / "scores.csv")) == len(scores)
    runs = pd.read_csv(demo / "r" / "runs.csv")
    assert len(runs) == 24
    assert set(runs["command"].str[:8]) == {"luq run "}


@pytest.mark.usefixtures("undrawn")
def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    bad = replace(mixed(2, 60.0), name="</script><b onclick=x>|", command="luq run 'a</script>'")
    runs_folder.write(tmp_path, bad)
    report.build(tmp_path, "<i>", load(tmp_path), tmp_path / "r")
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<b onclick" not in page
    assert "<i>" not in page.split("<script>")[0].split("<main>")[0]
    assert data(page)["runs"]["rows"][0][-1] == "luq run 'a</script>'"
    assert r"\|" in (tmp_path / "r" / "report.md").read_text()


def test_several_models_are_chapters(demo: Path) -> None:
    for k in (2, 4):
        run = mixed(k, 60.0, sweep="demo", fingerprint="other", **{"model.name": "second"})
        runs_folder.write(demo, run)
    built = report.build(demo, "demo", load(demo, ["demo"]), demo / "r")
    assert [c.study.name for c in built.chapters] == ["pocket_test", "second"]
    page = built.html.read_text()
    assert 'id="second-2-top"' in page
    assert "not compared with each other" in page
    assert (demo / "r" / "figures" / "second-2-pareto.png").exists()
    assert len(built.rows()) == 26
    assert built.summary()["second/runs"] == 2


@pytest.mark.usefixtures("undrawn")
def test_paired_comparisons_are_in_the_report(tmp_path: Path, keep: Keep) -> None:
    scores = {"gqa": 50.0}
    keep(mixed(2, scores), "1111" * 10)
    keep(mixed(2, scores, **{"calibration.name": "text"}), "1100" * 10)
    keep(mixed(4, scores), "1111" * 10)
    keep(mixed(4, scores, **{"calibration.name": "text"}), "1111" * 10)
    report.build(tmp_path, "x", load(tmp_path), tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "2 runs, 2 plans: multimodal 0.5 better in 1, tie in 1, worse in 0" in text
    assert "paired by question" in text
    assert "| gqa | 75.0 | 100.0 | +25.0 |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no finished run found for sweep 'nothing'"),
        ((), "no finished run found"),
        (("--wandb", "a/b/c/d"), "W&B project"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, luq: Luq, arguments: tuple[str, ...], message: str
) -> None:
    done = luq(*arguments, "--outputs", str(tmp_path))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("undrawn")
def test_what_is_left_out_is_said_and_the_rest_reported(demo: Path, luq: Luq) -> None:
    next((demo / "runs").glob("*/result.json")).write_text('{"schema": 3, "key": "half')
    runs_folder.write_failure(demo, Failure("k", "luq_k9", "demo", "DataError", "no images"))
    done = luq("demo", "--outputs", str(demo))
    assert done.returncode == 0
    assert "left out" in done.stdout
    assert "failed demo, luq_k9: no images" in done.stdout
    for file in ("report.html", "report.md"):
        text = (demo / "report" / "demo" / file).read_text()
        assert "Left out or failed" in text
        assert "luq_k9" in text
        assert "cannot be read" in text


@pytest.mark.usefixtures("undrawn")
def test_two_plans_of_one_tier_are_two_rows_of_the_report(demo: Path, luq: Luq) -> None:
    settings = {"allocation.name": "uniform", "quantizer.propagation": "exact"}
    for tokens, score in ((2000, 78.0), (4000, 77.0)):
        changes = {**settings, "calibration.tokens": tokens}
        run = record(f"gptq4 {tokens}", ["gptq4"] * LAYERS, score, **changes)
        runs_folder.write(demo, run)
    done = luq("demo", "--outputs", str(demo))
    assert done.returncode == 0, done.stderr
    text = (demo / "report" / "demo" / "report.md").read_text()
    for tokens in (1000, 2000, 4000):
        assert f"| gptq4, calibration.tokens={tokens} |" in text


def test_a_record_of_schema_3_is_reported(tmp_path: Path, luq: Luq) -> None:
    golden = Path(__file__).parent.parent / "golden" / "records" / "schema_3.json"
    file = runs_folder.record_file(tmp_path, json.loads(golden.read_text())["key"])
    file.parent.mkdir(parents=True)
    file.write_text(golden.read_text())
    done = luq("--outputs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report" / "all" / "report.md").read_text()
    assert "smallest plan within 10 %" in text
    assert "pocket_llava" in text


@pytest.mark.usefixtures("undrawn")
def test_a_mirror_of_the_report_gets_plain_rows(demo: Path, monkeypatch, luq: Luq) -> None:
    """What the tracker is given: flat rows and numbers."""
    calls = []

    class Tracker:
        def track_report(self, *arguments: object) -> None:
            calls.append(arguments)

    monkeypatch.setattr(command, "make_tracker", lambda config, outputs: Tracker())
    assert luq("demo", "--outputs", str(demo), "--tracking", "wandb_offline").returncode == 0
    ((title, summary, rows, images),) = calls
    assert title == "demo"
    assert summary["pocket_test/runs"] == len(rows) == 24
    json.dumps([summary, rows], allow_nan=False)
    assert images["pareto"].exists()


@pytest.mark.usefixtures("undrawn")
def test_a_second_report_into_the_folder_says_so_and_leaves_nothing(demo: Path, luq: Luq) -> None:
    folder = demo / "report" / "demo"
    with sole_writer(folder, "report"):
        done = luq("demo", "--outputs", str(demo))
        assert done.returncode == 1
        assert "another report is writing" in done.stderr
        assert not folder.exists()
    assert luq("demo", "--outputs", str(demo)).returncode == 0
    assert [path.name for path in (demo / "report").iterdir()] == ["demo"]
