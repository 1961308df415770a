"""The report: one HTML file that needs nothing else, the same in Markdown, figures, and data."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import ablations, claims_tables, figures, findings, interactive, tables
from analysis.charts import Chart
from analysis.compare import Reader
from analysis.frame import studies
from analysis.interactive import Plain, Spec
from analysis.loading import Results
from analysis.pareto import COLLAPSED
from analysis.sections import Chapter, Section
from luq.escaping import cell, file_name, markdown, markdown_code, visible
from luq.evaluation.compare import MEAN
from luq.store.writers import sole_writer
from pipelines.runs_folder import Failure

POINTS = 200  # of each single benchmark's Pareto figure; the mean's shows all
LAST = 1e308  # sorts after every number: JSON has no infinity


class RunColumn(NamedTuple):
    """A column of the page's table of runs."""

    name: str  # of the frame's column
    title: str
    places: int | None  # after the point; None: text
    scale: float = 1.0  # what the frame's value is multiplied by


RUN_COLUMNS = (
    RunColumn("label", "run", None),
    RunColumn("sweep", "sweep", None),
    RunColumn("seed", "seed", 0),
    RunColumn("calibration", "calibration", None),
    RunColumn("order", "order", None),
    RunColumn("k", "k", 0),
    RunColumn("low_tier", "low tier", None),
    RunColumn("high_tier", "high tier", None),
    RunColumn("tier", "tier of all", None),
    RunColumn("beside", "beside the layers", None),
    RunColumn("nominal_bits", "nominal bits", 2),
    RunColumn("stored_bits", "stored bits", 3),
    RunColumn("checkpoint_bytes", "MB", 3, 1e-6),
    RunColumn("checkpoint_change", "vs 4-bit %", 1, 100),
    RunColumn("score", "score", 1),
    RunColumn("score_low", "95 % low", 1),
    RunColumn("score_high", "95 % high", 1),
    RunColumn("retention", "retention %", 1, 100),
    RunColumn("kl", "KL nats", 3),
    RunColumn("agreement", "top-1 %", 1, 100),
    RunColumn("perplexity", "perplexity", 1),
    RunColumn("float_perplexity", "16-bit perplexity", 1),
    RunColumn("perplexity_ratio", "perplexity / 16-bit", 3),
    RunColumn("collapsed", "collapsed", 0),
    RunColumn("seconds", "seconds", 0),
)
ALWAYS = ("label", "checkpoint_bytes", "score", "retention")  # columns that stay if all are alike
TRACKED = [  # columns of the runs that a tracker gets
    "sweep",
    "name",
    "key",
    "model",
    "calibration",
    "order",
    "k",
    "low_tier",
    "high_tier",
    "allocation",
    "command",
    "nominal_bits",
    "stored_bits",
    "checkpoint_bytes",
    "score",
    "score_low",
    "score_high",
    "stderr",
    "retention",
    "kl",
    "collapsed",
]


@dataclass(frozen=True)
class Report:
    """What was built: its chapters, the files, and what was left out or failed."""

    chapters: list[Chapter]
    claims: Section  # of the paper, over all chapters
    html: Path
    markdown: Path
    figures: dict[str, Path]
    problems: list[str]
    failures: list[Failure]

    def rows(self) -> list[dict[str, Plain]]:
        """A flat row per run of all chapters, for a tracker."""
        rows = []
        for chapter in self.chapters:
            rows += interactive.values(chapter.study.runs[TRACKED], with_empty=True)
        return rows

    def summary(self) -> dict[str, Plain]:
        """The numbers and sentences of all chapters, flat, for a tracker."""
        summary: dict[str, Plain] = {
            "problems": len(self.problems),
            "failures": len(self.failures),
        }
        for chapter in self.chapters:
            name = chapter.study.name
            for benchmark, info in chapter.infos.items():
                summary[f"{name}/hypervolume/{benchmark}"] = info.hypervolume
            summary[f"{name}/findings"] = " ".join(chapter.findings)
            summary[f"{name}/runs"] = len(chapter.study.runs)
        return summary


def build(outputs: Path, title: str, loaded: Results, folder: Path) -> Report:
    """Write report.html, report.md, figures/ and the tables as data.

    Args:
        outputs: the folder of runs, for their answers.
        title: of the report.
        loaded: its records.
        folder: where it goes; each file is there whole or not at all.

    Raises:
        StoreError: another process is writing a report into the folder.
    """
    with sole_writer(folder, "report"):
        return _build(outputs, title, loaded, folder)


def _build(outputs: Path, title: str, loaded: Results, folder: Path) -> Report:
    """`build`, while no other process writes the folder."""
    scratch = folder / ".tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
    for place in (folder, scratch):
        (place / "figures").mkdir(parents=True, exist_ok=True)
    reader = Reader(outputs)
    chapters = [Chapter(study, reader) for study in studies(loaded)]
    images = {}
    for prefix, chapter in zip(prefixes(chapters), chapters, strict=True):
        for section in chapter.sections:
            for chart in section.charts:
                image = figures.save(chart, scratch / "figures", prefix)[0]
                images[prefix + chart.name] = folder / "figures" / image.name
    export(chapters, scratch)
    report = Report(
        chapters,
        claims_tables.section(chapters),
        folder / "report.html",
        folder / "report.md",
        images,
        loaded.problems,
        loaded.failures,
    )
    _render(report, title, scratch)
    # renaming is atomic: who reads meanwhile sees an old or a new file, never half of one
    for file in scratch.rglob("*"):
        if file.is_file():
            file.replace(folder / file.relative_to(scratch))
    shutil.rmtree(scratch)
    return report


def _render(report: Report, title: str, folder: Path) -> None:
    """Write the page and its Markdown."""
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        finalize=_printed,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["text"] = tables.text
    environment.filters["value"] = tables.value
    environment.filters["detail"] = tables.detail
    environment.filters["key"] = _sort_key
    environment.filters["unbroken"] = _unbroken
    environment.filters["md"] = markdown
    environment.filters["md_code"] = markdown_code
    chapters = report.chapters
    variables = {
        "title": title,
        "report": report,
        "chapters": list(zip(prefixes(chapters), chapters, strict=True)),
        "mean": MEAN,
        "findings": findings,
        "data": interactive.script(page_data(chapters)),
        "library": interactive.library(),
        "when": datetime.now(UTC),
        "pocket": any(chapter.study.name.startswith("pocket") for chapter in chapters),
    }
    for file in (report.html, report.markdown):
        text = environment.get_template(f"{file.name}.j2").render(variables)
        (folder / file.name).write_text(text, encoding="utf-8")


def _printed(value: Any) -> Any:
    """What a template prints of a value; Jinja escapes it afterwards where it must."""
    is_plain_text = type(value) is str  # not Markup, which holds our own scripts
    return visible(value) if is_plain_text else value


def page_data(chapters: Sequence[Chapter]) -> dict[str, Any]:
    """What the page's script draws: charts by name, details of plans, the table of runs."""
    # rows are numbered over all chapters, as they stand in the one table of runs
    row_of_run: dict[str, int] = {}
    for chapter in chapters:
        for key in chapter.study.runs["key"]:
            row_of_run[key] = len(row_of_run)
    charts: dict[str, Spec] = {}
    plans: dict[str, dict[str, Any]] = {}
    float_scores: dict[str, float] = {}  # prefix of a chapter -> its 16-bit model's mean score
    for prefix, chapter in zip(prefixes(chapters), chapters, strict=True):
        for section in chapter.sections:
            for chart in section.charts:
                charts[prefix + chart.name] = interactive.spec(chart)
        for benchmark, chart in benchmark_charts(chapter).items():
            charts[f"{prefix}pareto-{benchmark}"] = interactive.spec(chart)
        for plan, details in plan_details(chapter, row_of_run).items():
            plans[plan] = {"chapter": prefix, **details}
        float_scores[prefix] = round(chapter.study.records[0].float_mean_score, 4)
    return {
        "charts": charts,
        "plans": plans,
        "floatScores": float_scores,
        "runs": run_table(chapters),
    }


def prefixes(chapters: Sequence[Chapter]) -> list[str]:
    """What the names of each chapter's charts begin with; nothing if there is one chapter."""
    if len(chapters) == 1:
        return [""]
    return [
        f"{file_name(chapter.study.name)}-{number}-"
        for number, chapter in enumerate(chapters, start=1)
    ]


def benchmark_charts(chapter: Chapter) -> dict[str, Chart]:
    """The Pareto figure of each benchmark.

    Of very many plans the front, the baselines and evenly chosen others.
    """
    charts: dict[str, Chart] = {}
    for benchmark in chapter.study.benchmarks:
        info = chapter.infos[benchmark]
        points = info.points
        if len(points) > POINTS:
            is_nth = pd.RangeIndex(len(points)) % math.ceil(len(points) / POINTS) == 0
            info = info._replace(points=points[points["front"] | points["baseline"] | is_nth])
        charts[benchmark] = ablations.pareto_chart(chapter.study, info)
    return charts


def plan_details(chapter: Chapter, row_of_run: dict[str, int]) -> dict[str, dict[str, Any]]:
    """What hovering over and clicking on a plan shows.

    Args:
        chapter: its plans are described.
        row_of_run: key of a run -> its row in the table of runs; `run` is that of a plan's first.
    """
    details: dict[str, dict[str, Any]] = {}
    scores = chapter.study.scores.groupby(["plan", "benchmark"])["score"].mean()
    # scores of thousands of plans would be most of the page
    few = len(chapter.study.plans) <= POINTS
    for _, plan in chapter.study.plans.iterrows():
        entry: dict[str, Any] = {
            "label": plan["label"],
            "allocation": plan["allocation"],
            "beside": plan["beside"],
            "seeds": int(plan["seeds"]),
            "mixed": bool(plan["mixed"]),
            "collapsed": bool(plan["collapsed"] >= COLLAPSED * plan["benchmarks"]),
            "run": row_of_run[plan["key"]],
        }
        numbers = {
            "score": plan["score"],
            "low": plan["score_low"],
            "high": plan["score_high"],
            "retention": 100 * plan["retention"],
            "bits": plan["stored_bits"],
            "nominal": plan["nominal_bits"],
            "bytes": plan["checkpoint_bytes"],
            "kl": plan["kl"],
        }
        for name, value in numbers.items():
            if math.isfinite(value):
                entry[name] = round(float(value), 4)
        if few:
            of_plan = {b: (plan["plan"], b) for b in chapter.study.benchmarks}
            entry["scores"] = {
                benchmark: round(float(scores[place]), 1)
                for benchmark, place in of_plan.items()
                if place in scores
            }
        details[str(plan["plan"])] = entry
    return details


def run_table(chapters: Sequence[Chapter]) -> dict[str, Any]:
    """All runs, as compact rows for the page's own table: a row's last cell is its command.

    Columns in which all runs are alike are left out: `alike` says of each the one value.
    """
    runs = pd.concat([chapter.study.runs for chapter in chapters], ignore_index=True)
    # of plans of one tier the quantizer's other tier was not used
    runs["high_tier"] = runs["high_tier"].where(runs["mixed"], "")
    columns = []
    alike = []
    for column in RUN_COLUMNS:
        values = runs[column.name].unique()
        if len(values) > 1 or column.name in ALWAYS:
            columns.append(column)
        elif (cell := _run_cell(column, values[0])) not in (None, ""):
            shown = f"{cell:.{column.places}f}" if isinstance(cell, float) else cell
            alike.append(f"{column.title} {shown}")
    rows = []
    for run in runs.to_dict("records"):
        cells = [_run_cell(column, run[column.name]) for column in columns]
        rows.append([*cells, run["command"]])
    heads = [{"title": column.title, "places": column.places} for column in columns]
    return {"columns": heads, "rows": rows, "alike": alike}


def _run_cell(column: RunColumn, value: Any) -> Plain:
    """A cell of the table of runs: text, or a number rounded as it is shown, or nothing."""
    if column.places is None:
        return str(value)
    if pd.isna(value):
        return None
    number = float(value) * column.scale
    return round(number, column.places)


def export(chapters: Sequence[Chapter], folder: Path) -> None:
    """The frames as data: a row per run, and the tidy one, a row per run x benchmark."""
    runs = pd.concat([chapter.study.runs for chapter in chapters], ignore_index=True)
    scores = pd.concat([chapter.study.scores for chapter in chapters], ignore_index=True)
    for name, frame in (("runs", runs), ("scores", scores)):
        frame.map(_csv_cell).to_csv(folder / f"{name}.csv", index=False)
    scores.to_parquet(folder / "scores.parquet", index=False)


def _csv_cell(value: Any) -> Any:
    """A value of a frame as it stands in a CSV file."""
    return cell(value) if isinstance(value, str) else value


def _unbroken(title: str) -> str:
    """The title of a column, which may break at its blanks and not within `4-bit`."""
    return title.replace("-", "\u2011")


def _sort_key(entry: tables.Cell) -> str:
    """What a cell sorts by, as an attribute."""
    if isinstance(entry, str):
        return entry
    return json.dumps(entry.order if math.isfinite(entry.order) else LAST)
