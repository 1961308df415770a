"""Records of strangers: what stands in them is text in the page, Markdown, CSV and terminal."""

import csv
import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import runs_folder
from pipelines.record import RunRecord
from pipelines.runs_folder import Failure
from tests.analysis.synthetic import ladder, mixed
from tests.pipelines.command import Done, luq

TAG = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e"
HALF = "\ud800"  # of a character
MARKUP = "[/a] [red]x[/red] `c` |d| $e$"
FORMULA = "=1+1"


class Page(html.parser.HTMLParser):
    """The tags of a page with the names of their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, frozenset[str]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, frozenset(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile(record: RunRecord, number: int) -> RunRecord:
    """The same record, from someone who wants to do harm."""
    config = record.config
    caveat = f"{TAG}{SCRIPT}{MARKUP}{ESCAPES}{HALF}"
    model = replace(config.model, name=f"../../{TAG}{SCRIPT}{ESCAPES}", caveat=caveat)
    calibration = replace(config.calibration, name=f"{config.calibration.name}{TAG}{MARKUP}")
    scores = {f"{name}{TAG}{ESCAPES}|": score for name, score in record.scores.items()}
    return replace(
        record,
        name=f"{FORMULA} {record.name} {SCRIPT}{TAG}{MARKUP}{ESCAPES}{HALF} {number}",
        command=f"{FORMULA}{TAG}{ESCAPES}{HALF}",
        sweep=FORMULA,
        device=f"{TAG}{ESCAPES}",
        split=f"{TAG}{MARKUP}",
        subset=dict.fromkeys(scores, "q1"),
        scores=scores,
        config=replace(config, model=model, calibration=calibration, group=FORMULA),
    )


def hostile_records() -> list[RunRecord]:
    """The ladder and two mixes."""
    records = [*ladder(), mixed(2, 74.0), mixed(4, 60.0)]
    return [hostile(record, number) for number, record in enumerate(records)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hostile records and failures, in a folder whose name is hostile, too."""
    folder = tmp_path_factory.mktemp("out") / "a[" / f"a] <b>{ESCAPES}"
    for record in hostile_records():
        runs_folder.write(folder, record)
    words = f"{TAG}{SCRIPT}{ESCAPES}{MARKUP}"
    runs_folder.write_failure(folder, Failure("k1", words, FORMULA, words, f"{words}\n# x"))
    return folder


@pytest.fixture(scope="module")
def reported(outputs: Path) -> tuple[Done, Path]:
    return luq("report", "--outputs", str(outputs), width=300), outputs / "report" / "all"


def test_the_terminal_is_not_commanded(reported: tuple[Done, Path]) -> None:
    done, folder = reported
    assert done.returncode == 0, done.stderr
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.stdout + done.stderr)
    for piece in ("␛[2J", "[/a] [red]x[/red] `c` |d| $e$", "report.html"):
        assert piece in done.stdout.replace("\n", "")
    assert (folder / "report.html").exists()


def test_the_page_has_no_tag_of_theirs(reported: tuple[Done, Path]) -> None:
    _, folder = reported
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [tag for tag in page.tags if tag[0] == "img"]
    assert not [names for _, names in page.tags if "onerror" in names]
    assert TAG in "".join(page.text)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202e]", text)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data
    # their sweep is the same in all runs: it stands below the table, as text
    assert f"sweep {FORMULA}" in json.loads(data[1])["runs"]["alike"]


def test_the_markdown_has_no_markup_of_theirs(reported: tuple[Done, Path]) -> None:
    _, folder = reported
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(img|script|/script)", text)
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert max(widths) < 20


def test_no_cell_is_a_formula(reported: tuple[Done, Path]) -> None:
    _, folder = reported
    for name in ("runs.csv", "scores.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["sweep"] == f"'{FORMULA}"
        for row in rows:
            for value in row.values():
                is_number = re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", value)
                assert is_number or not value.startswith(("=", "+", "-", "@"))


def test_nothing_is_written_elsewhere(reported: tuple[Done, Path], outputs: Path) -> None:
    _, folder = reported
    assert {path.name for path in outputs.iterdir()} == {"runs", "sweeps", "failed", "report"}
    assert [path.name for path in (outputs / "report").iterdir()] == ["all"]
    assert not [path for path in folder.rglob("*") if not re.fullmatch(r"[\w.-]+", path.name)]


def test_several_models_have_figures_in_the_folder(tmp_path: Path) -> None:
    for number, record in enumerate([*ladder(), mixed(2, 74.0)]):
        runs_folder.write(tmp_path, hostile(record, number))
        other = replace(record, key=f"other{number}", model_fingerprint="f2")
        runs_folder.write(tmp_path, hostile(other, number))
    done = luq("report", "--outputs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    figures = list((tmp_path / "report" / "all" / "figures").iterdir())
    assert len(figures) > 4
    page = (tmp_path / "report" / "all" / "report.html").read_text(encoding="utf-8")
    assert [tag for tag, _ in Page(page).tags].count("script") == 3
