"""The report: one HTML file that needs nothing else, the same in Markdown, the figures, and the tables as data."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import ablations, figures, interactive, tables
from analysis import findings as story
from analysis.charts import Chart
from analysis.compare import Reader
from analysis.frame import MEAN, Results, studies
from analysis.sections import Chapter

POINTS = 200  # of each single benchmark's Pareto figure; the mean's shows all
RUN_COLUMNS = {  # column of the runs' frame -> title, places (None: text)
    "label": ("run", None), "sweep": ("sweep", None), "seed": ("seed", 0), "calibration": ("calibration", None),
    "order": ("order", None), "k": ("k", 0), "low_tier": ("low", None), "high_tier": ("high", None),
    "nominal_bits": ("nominal", 2), "stored_bits": ("stored", 3), "megabytes": ("MB", 3), "percent_saved": ("saved %", 1),
    "score": ("score", 1), "stderr": ("±", 1), "percent": ("retention %", 1), "kl": ("KL", 3),
    "agreement_percent": ("top-1 %", 1),
    "perplexity": ("perplexity", 1), "collapsed": ("collapsed", 0), "seconds": ("s", 0),
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What was built: its chapters, the files, and what a person should know of what was left out."""

    chapters: list[Chapter]
    html: Path
    markdown: Path
    figures: dict[str, Path]
    problems: list[str]
    failures: list[dict[str, Any]]

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per run of all chapters, for a tracker."""
        kept = [
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
        ]
        kept += [
            "nominal_bits",
            "stored_bits",
            "checkpoint_bytes",
            "score",
            "stderr",
            "retention",
            "kl",
            "collapsed",
        ]
        return [
            row for c in self.chapters for row in interactive.values(c.study.runs[kept], keep=True)
        ]

    def summary(self) -> dict[str, Any]:
        """The numbers and sentences of all chapters, flat."""
        found: dict[str, Any] = {"problems": len(self.problems), "failures": len(self.failures)}
        for c in self.chapters:
            found |= {
                f"{c.study.name}/hypervolume/{name}": info.hypervolume
                for name, info in c.infos.items()
            }
            found |= {
                f"{c.study.name}/findings": " ".join(c.findings),
                f"{c.study.name}/runs": len(c.study.runs),
            }
        return found


def build(outputs: Path, title: str, loaded: Results, folder: Path) -> Report:
    """Write report.html, report.md, figures/ and the tables as data into a folder, each file whole or not at all."""
    scratch = folder / ".tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
    reader = Reader(outputs)
    chapters = [Chapter(study, reader) for study in studies(loaded)]
    drawn, made = {}, {}
    for place in (folder, scratch):
        (place / "figures").mkdir(parents=True, exist_ok=True)
    for prefix, chapter in zip(prefixes(chapters), chapters, strict=True):
        for chart in (chart for section in chapter.sections for chart in section.charts):
            made[prefix + chart.name] = (
                folder / "figures" / figures.save(chart, scratch / "figures", prefix)[0].name
            )
            drawn[prefix + chart.name] = interactive.spec(chart)
        drawn |= {
            f"{prefix}pareto-{b}": interactive.spec(c) for b, c in benchmark_charts(chapter).items()
        }
    export(chapters, scratch)
    report = Report(
        chapters,
        folder / "report.html",
        folder / "report.md",
        made,
        loaded.problems,
        loaded.failures,
    )
    rows = {key: i for i, key in enumerate(key for c in chapters for key in c.study.runs["key"])}
    plans = {plan: told for c in chapters for plan, told in plan_details(c, rows).items()}
    data = {"charts": drawn, "plans": plans, "runs": run_table(chapters)}
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"text": tables.text, "key": _key, "cell": _markdown}
    told = {
        "title": title, "report": report, "chapters": list(zip(prefixes(chapters), chapters, strict=True)), "mean": MEAN,
        "story": story, "data": interactive.script(data), "library": interactive.library(), "when": datetime.now(UTC),
        "pocket": any(c.study.name.startswith("pocket") for c in chapters),
    }  # fmt: skip
    for file in (report.html, report.markdown):
        (scratch / file.name).write_text(environment.get_template(f"{file.name}.j2").render(told))
    for file in (f for f in scratch.rglob("*") if f.is_file()):
        file.replace(folder / file.relative_to(scratch))
    shutil.rmtree(scratch)
    return report


def prefixes(chapters: Sequence[Chapter]) -> list[str]:
    """What the names of each chapter's charts begin with; nothing if there is one chapter."""
    return [f"{c.study.name}-{i + 1}-" if len(chapters) > 1 else "" for i, c in enumerate(chapters)]


def benchmark_charts(chapter: Chapter) -> dict[str, Chart]:
    """The Pareto figure of each benchmark; of very many plans the front, the baselines and evenly chosen others."""
    found: dict[str, Chart] = {}
    for name, info in chapter.infos.items():
        if name != MEAN:
            table = info.points
            if len(table) > POINTS:
                step = math.ceil(len(table) / POINTS)
                kept = table["front"] | table["baseline"] | (pd.RangeIndex(len(table)) % step == 0)
                info = info._replace(points=table[kept])
            found[name] = ablations.pareto_chart(chapter.study, info)
    return found


def plan_details(chapter: Chapter, rows: dict[str, int]) -> dict[str, dict[str, Any]]:
    """What hovering over and clicking on a plan shows; `run` is its first run's row in the table of runs."""
    found = {}
    scores = chapter.study.scores.groupby(["plan", "benchmark"])["score"].mean()
    many = len(chapter.study.plans) > POINTS
    for _, plan in chapter.study.plans.iterrows():
        told = {
            "label": plan["label"],
            "allocation": plan["allocation"],
            "seeds": int(plan["seeds"]),
            "run": rows[plan["key"]],
        }
        numbers = {
            "score": plan["score"],
            "stderr": plan["stderr"],
            "retention": 100 * plan["retention"],
            "bits": plan["stored_bits"],
        }
        numbers |= {
            "nominal": plan["nominal_bits"],
            "bytes": plan["checkpoint_bytes"],
            "kl": plan["kl"],
        }
        told |= {n: round(float(v), 4) for n, v in numbers.items() if math.isfinite(v)}
        if not many:
            told["scores"] = {
                b: round(float(scores[plan["plan"], b]), 1)
                for b in chapter.study.benchmarks
                if (plan["plan"], b) in scores
            }
        found[str(plan["plan"])] = told
    return found


def run_table(chapters: Sequence[Chapter]) -> dict[str, Any]:
    """All runs, as compact rows for the page's own table: the last cell of a row is its command."""
    frame = pd.concat([c.study.runs for c in chapters], ignore_index=True)
    frame = frame.assign(
        megabytes=frame["checkpoint_bytes"] / 1e6, percent=100 * frame["retention"]
    )
    frame = frame.assign(
        percent_saved=100 * frame["checkpoint_saved"], agreement_percent=100 * frame["agreement"]
    )
    rows = []
    for row in frame[[*RUN_COLUMNS, "command"]].itertuples(index=False):
        kinds = [places for _, places in RUN_COLUMNS.values()]
        cells = [
            v if p is None else round(float(v), p) if math.isfinite(v) else None
            for v, p in zip(row, kinds, strict=False)
        ]
        rows.append([*cells, row[-1]])
    columns = [{"title": title, "places": places} for title, places in RUN_COLUMNS.values()]
    return {"columns": columns, "rows": rows}


def export(chapters: Sequence[Chapter], folder: Path) -> None:
    """The frames as data: a row per run, and the tidy one, a row per run x benchmark."""
    scores = pd.concat([c.study.scores for c in chapters], ignore_index=True)
    pd.concat([c.study.runs for c in chapters], ignore_index=True).to_csv(
        folder / "runs.csv", index=False
    )
    scores.to_csv(folder / "scores.csv", index=False)
    scores.to_parquet(folder / "scores.parquet", index=False)


def _key(cell: tables.Cell) -> str:
    """What a cell sorts by, as an attribute; infinity sorts last."""
    value = cell if isinstance(cell, str) else cell[1]
    return value if isinstance(value, str) else json.dumps(value if math.isfinite(value) else 1e308)


def _markdown(cell: tables.Cell) -> str:
    return tables.text(cell).replace("|", "\\|")
