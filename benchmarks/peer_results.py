"""Results of `peers.py`: a file of JSON lines, their table and their figure. Needs no torch.

A line is added as soon as a row is measured. What was cut off while it was written is left out when
the file is read, so that a run which was killed goes on with that row.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from rich import box
from rich.table import Table

from analysis import figures
from analysis.charts import Lines
from luq.config.building import build, plain
from luq.errors import ConfigError
from luq.evaluation.compare import bootstrap
from luq.evaluation.measures import perplexity, perplexity_ratio

FLOAT = "16 bit"
LARGE = 1000
COLUMNS = ("row", "bits", "ppl", "ratio to 16 bit", "KL, nats", "CPU s", "GB")
NOISE = (
    0.05  # nats between two makes of one row that differ in last bits alone (docs/quantizers.md)
)


@dataclass(frozen=True)
class Scene:
    """What rows must have in common to stand beside each other.

    `linears` are those that are packed, by names within a layer; none: all of them.
    """

    model: str
    texts: str  # digest of both
    tokens: int  # of calibration
    windows: int
    length: int  # of windows and calibration samples
    linears: list[str]

    @property
    def title(self) -> str:
        """In words."""
        what = "all linears" if not self.linears else ", ".join(self.linears)
        return f"{self.model}, {what}, {self.windows} windows of {self.length} tokens"


@dataclass(frozen=True)
class Result:
    """One row of the table. Lists are by window of text."""

    scene: Scene
    row: str
    family: str  # whose method it is
    stored_bits: float  # of a packed weight, with all that decoding needs
    losses: list[float]  # nats per token
    divergences: list[float]  # KL to the 16-bit model, nats per token
    cpu_seconds: float  # of calibration and quantization, all threads
    peak_bytes: int  # of the process until everything was quantized, the 16-bit model included
    note: str = ""


def results_of(file: Path) -> list[Result]:
    """What a file holds; of several results of a row the last."""
    latest: dict[str, Result] = {}
    if file.is_file():
        for line in file.read_text(encoding="utf-8").split("\n"):
            result = _result(line)
            if result is not None:
                latest[json.dumps([plain(result.scene), result.row])] = result
    return list(latest.values())


def _result(line: str) -> Result | None:
    """What a line holds; None if it was cut off, or holds something else."""
    try:
        result = build(Result, json.loads(line), "result")
    except (ValueError, ConfigError):
        return None
    counts = {len(result.losses), len(result.divergences)}
    return result if counts == {result.scene.windows} else None


def keep(result: Result, file: Path) -> None:
    """Add a line; one that was cut off before it ends here."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as lines:
        size = lines.seek(0, 2)
        lines.seek(max(0, size - 1))
        cut = lines.read() not in (b"", b"\n")
        text = json.dumps(plain(result)) + "\n"
        lines.write((b"\n" if cut else b"") + text.encode())


def of_scene(results: list[Result], scene: Scene) -> list[Result]:
    """The rows of a scene, the 16-bit model first, then by family and falling bits."""
    rows = [result for result in results if result.scene == scene]
    families = list(dict.fromkeys(result.family for result in rows))
    return sorted(
        rows,
        key=lambda result: (
            result.row != FLOAT,
            families.index(result.family),
            -result.stored_bits,
        ),
    )


def measured_elsewhere(results: list[Result], scene: Scene) -> Result | None:
    """The 16-bit model's row from a scene of other packed linears or calibration tokens."""
    for result in results:
        matched_scene = replace(result.scene, tokens=scene.tokens, linears=scene.linears)
        if result.row == FLOAT and matched_scene == scene:
            return replace(result, scene=scene)
    return None


def reference_of(rows: list[Result]) -> Result:
    """The 16-bit model's row.

    Raises:
        ConfigError: It has not been measured.
    """
    for result in rows:
        if result.row == FLOAT:
            return result
    raise ConfigError(f"the row {FLOAT!r} is missing: measure it first, all others are beside it")


def cells_of(result: Result, reference: Result) -> list[str]:
    """A row of the table, in words."""
    value = perplexity(result.losses, result.scene.length).value
    if result.row == FLOAT:
        return [FLOAT, "16", f"{value:.2f}", "1", "0", "", ""]
    ratio = perplexity_ratio(result.losses, reference.losses)
    return [
        result.row,
        f"{result.stored_bits:.2f}",
        f"{value:.2f}" if value < LARGE else f"{value:.0f}",
        _interval(ratio),
        _interval(bootstrap(result.divergences)),
        f"{result.cpu_seconds:.0f}",
        f"{result.peak_bytes / 1e9:.1f}",
    ]


def _interval(values: tuple[float, float, float]) -> str:
    middle, low, high = (_number(value) for value in values)
    return f"{middle} [{low}, {high}]"


def _number(value: float) -> str:
    """Three digits, or all of a large number's."""
    return f"{value:.3g}" if value < LARGE else f"{value:.0f}"


def table_of(rows: list[Result]) -> Table:
    """Rows of one scene, for a terminal of 80 columns."""
    reference = reference_of(rows)
    table = Table(title=reference.scene.title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "row" else "right")
    for result in rows:
        table.add_row(*cells_of(result, reference))
    return table


def markdown_of(rows: list[Result]) -> str:
    """The same table in Markdown, with the rows' notes."""
    reference = reference_of(rows)
    lines = [
        "| " + " | ".join([*COLUMNS, "note"]) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1) + "---|",
    ]
    for result in rows:
        lines.append("| " + " | ".join([*cells_of(result, reference), result.note]) + " |")
    return "\n".join(lines)


def chart_of(rows: list[Result]) -> Lines:
    """KL against stored bits, a series for each family."""
    reference = reference_of(rows)
    points: list[dict[str, object]] = []
    for result in rows:
        if result.row == FLOAT:
            continue
        middle, low, high = bootstrap(result.divergences)
        name = result.row.removeprefix(f"{result.family} ")
        points.append(
            {
                "series": result.family,
                "x": result.stored_bits,
                "y": middle,
                "low": low,
                "high": high,
                "label": name,
            }
        )
    caption = (
        f"{reference.scene.tokens} calibration tokens; intervals are over windows. Differences "
        f"below {NOISE} nats may be luck."
    )
    return Lines(
        "peers",
        reference.scene.title,
        caption,
        pd.DataFrame(points),
        "stored bits of a packed weight",
        "KL to the 16-bit model, nats per token",
        logarithmic=True,
    )


def draw(rows: list[Result], file: Path) -> None:
    """The figure of one scene."""
    with plt.rc_context(figures.STYLE):
        figure = figures.DRAW[Lines](chart_of(rows))
        figure.savefig(file, dpi=130)
        plt.close(figure)
