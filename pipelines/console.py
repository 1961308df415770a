"""What a person sees: bars while it works, one line per finished stage, tables at the end."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich import progress as bars
from rich.console import Group
from rich.table import Table
from rich.text import Text

from luq.allocation.orders import Correlation
from luq.escaping import VisibleFormatter
from luq.evaluation import intervals
from luq.evaluation.intervals import Estimate
from luq.formats.sizes import Memory
from luq.profiling.entropies import LayerEntropy
from pipelines.record import BenchmarkFidelity, BenchmarkScore, Perplexity, RunRecord
from pipelines.screen import Screen, styled
from pipelines.units import human, percent

log = logging.getLogger(__name__)
out = Screen()
Advance = Callable[[str, int], None]
WARNING = ("!", "red")  # before what a reader must know of a score
STATE_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}


class Display:
    """Bars on a terminal, silence elsewhere; one line per stage in both."""

    def __init__(self) -> None:
        self._bars: bars.Progress | None = None  # rich can show one group of bars at a time

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """A bar of `total` steps; a bar inside a bar is another line."""
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
        )
        if self._bars is not None:
            with self._task(self._bars, name, total) as advance:
                yield advance
            return
        is_terminal = sys.stdout.isatty()
        with bars.Progress(*columns, console=out, transient=True, disable=not is_terminal) as group:
            self._bars = group
            try:
                with self._task(group, name, total) as advance:
                    yield advance
            finally:
                self._bars = None

    @contextmanager
    def _task(self, group: bars.Progress, name: str, total: int) -> Iterator[Advance]:
        task = group.add_task(name, total=total)

        def advance(what: str, steps: int) -> None:
            group.update(task, advance=steps, description=f"{name} {what}".strip())

        try:
            yield advance
        finally:
            group.remove_task(task)

    def note(self, text: str) -> None:
        """One line that people should see."""
        out.print(styled("  ", (text, "dim")))

    def stage(self, name: str, seconds: float, cached: bool, made: int) -> None:
        """A finished stage."""
        how = "done"
        if cached:
            how = "from the store"
        elif made:
            how = f"{made} made"
        log.info("%s: %.1f s, %s", name, seconds, how)
        out.print(styled(f"  {name:<16} {seconds:7.1f} s  ", (how, "dim")))


def log_warnings() -> None:
    """Warnings of all loggers to the terminal."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(VisibleFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class JobLog(logging.FileHandler):
    """A log that no job fails for: what it cannot write, on a full disk, is lost."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the job's own writes fail too, and say why."""

    def close(self) -> None:
        """Close the file; what is left to write may be lost."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(file: Path) -> Iterator[None]:
    """A job's own log: its stages, warnings, and the traceback of its failure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = JobLog(file, encoding="utf-8")
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A table whose first `left` columns are text, the others numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < left else "right")
    return table


def entropy_table(profile: list[LayerEntropy], order: list[int]) -> Table:
    """Entropy in bits per layer, and each layer's place in the order."""
    entropies = {(entry.layer, entry.modality): entry for entry in profile}
    present = {entry.modality for entry in profile}
    modalities = [name for name in ("all", "image", "text") if name in present]
    first = profile[0]
    title = f"Activation entropy, bits ({first.tokens} vectors each, K = {first.clusters})"
    table = _table(title, ["layer", *modalities, "place"], left=0)
    for layer in range(len(order)):
        cells = [str(layer)]
        for modality in modalities:
            entry = entropies[layer, modality]
            cells.append(f"{entry.mean:.3f} ± {entry.spread:.3f}")
        table.add_row(*cells, str(order.index(layer) + 1))
    return table


def order_tables(orders: dict[str, list[int]], correlations: list[Correlation]) -> Group:
    """The orders, and how alike they rank: tau above the diagonal, rho below it."""
    layers = _table("Orders, most compressible layer first", ["order", "layers"], left=2)
    for name, order in orders.items():
        layers.add_row(name, " ".join(str(layer) for layer in order))
    by_pair = {(item.a, item.b): item for item in correlations}
    names = list(orders)
    title = "Rank correlation: Kendall's tau above the diagonal, Spearman's rho below it"
    numbers = [str(index + 1) for index in range(len(names))]
    alike = _table(title, ["order", *numbers])
    for row, name in enumerate(names):
        cells = [f"{row + 1} {name}"]
        for column, neighbour in enumerate(names):
            if row < column:
                cells.append(f"{by_pair[name, neighbour].kendall:+.1f}")
            elif row > column:
                cells.append(f"{by_pair[neighbour, name].spearman:+.1f}")
            else:
                cells.append("")
        alike.add_row(*cells)
    return Group(layers, alike)


def memory_line(memory: Memory) -> Text:
    """Bits per weight and bytes."""
    return styled(
        "nominal ",
        (f"{memory.nominal_bits:.2f}", "bold"),
        " bits, stored ",
        (f"{memory.stored_bits:.3f}", "bold"),
        f" bits per weight; decoder linears {human(memory.stored_bytes)}, whole checkpoint "
        f"{human(memory.checkpoint_bytes)}",
    )


def result_table(record: RunRecord) -> Table:
    """Per benchmark: 16-bit, this run, retention, and how far the probabilities moved."""
    # in two lines the titles leave room for an interval in one: 80 columns are enough
    columns = [
        "benchmark",
        "16-bit",
        "this\nrun",
        "95 %\ninterval",
        "n",
        "retention\n%",
        "KL",
        "top-1\n%",
    ]
    table = _table("scores, % of the maximum", columns)
    for name, score in record.scores.items():
        table.add_row(*_score_cells(name, score, record.fidelity.get(name)))
    table.add_section()
    float_mean = f"{record.float_mean_score:.1f}"
    mean = f"{record.mean_score:.1f}"
    retention = percent(record.mean_retention)
    name = "mean"
    if len(record.averaged) < len(record.scores):
        name = f"mean of {len(record.averaged)}"
    interval = _brackets(intervals.of_mean([score.interval for score in record.averaged]))
    table.add_row(name, float_mean, mean, interval, "", retention, style="bold")
    return table


def _brackets(estimate: Estimate) -> str:
    """The ends of a score's 95 % interval."""
    return f"[{estimate.low:.1f}, {estimate.high:.1f}]"


def error_line(record: RunRecord) -> Text:
    """How many of all rows behind the mean were errors; empty for none."""
    errors = sum(score.errors for score in record.averaged)
    rows = sum(score.rows for score in record.averaged)
    if not errors:
        return Text()
    return styled(WARNING, f" mean: {errors} of {rows} rows were errors")


def _score_cells(
    name: str, score: BenchmarkScore, fidelity: BenchmarkFidelity | None
) -> list[str | Text]:
    is_flagged = score.collapsed or score.errors
    cells: list[str | Text] = [
        styled(name, " ", WARNING) if is_flagged else name,
        f"{score.float_score:.1f}",
        f"{score.score:.1f}",
        _brackets(score.interval),
        str(score.n),
        percent(score.retention),
    ]
    if not score.was_asked:
        cells[1:4] = ["-", "-", "-"]
    if fidelity is None or fidelity.kl is None or fidelity.agreement is None:
        return [*cells, "", ""]
    return [*cells, f"{fidelity.kl.mean:.3f}", percent(fidelity.agreement.mean)]


def flags(record: RunRecord) -> list[Text]:
    """What a reader must know of single benchmarks before he believes their scores."""
    lines: list[Text] = []
    for name, score in record.scores.items():
        if score.collapsed:
            lines.append(styled(WARNING, f" {name} collapsed: {score.collapsed}"))
        if score.errors:
            of_rows = f" of {score.rows}" if score.rows else ""
            verdict = "count as wrong" if score.was_asked else "it is not in the mean"
            fidelity = record.fidelity.get(name)
            if fidelity is not None and fidelity.left_out:
                verdict += f", KL leaves out {fidelity.left_out}"
            place = f"store/evaluation/{record.artefacts.answers[name]}"
            rows = f"{score.errors}{of_rows} rows were errors"
            lines.append(styled(WARNING, f" {name}: {rows} and {verdict}: {place}"))
    return lines


def perplexity_words(perplexity: Perplexity) -> Text:
    """Perplexity beside the 16-bit model's, and their ratio with its paired interval."""
    interval = f"{perplexity.low:.2f} .. {perplexity.high:.2f}"
    compared = ""
    ratio = perplexity.ratio
    if perplexity.float_value is not None and ratio is not None:
        compared = (
            f", 16-bit {perplexity.float_value:.2f}: {ratio.mean:.3f} times "
            f"({ratio.low:.3f} .. {ratio.high:.3f})"
        )
    return styled(
        "perplexity ",
        (f"{perplexity.value:.2f}", "bold"),
        f" ({interval}){compared}, {perplexity.tokens} tokens of held-out text",
    )


def fidelity_line(record: RunRecord) -> Text:
    """Perplexity with its interval, and what KL and top-1 are."""
    parts: list[Text] = []
    if record.perplexity:
        parts.append(perplexity_words(record.perplexity))
    if record.fidelity:
        meaning = "KL in nats per answer token from the 16-bit model, top-1: same first choice"
        parts.append(Text(meaning))
    return Text("; ").join(parts)


def show_record(record: RunRecord) -> None:
    """A finished run: scores, what to know of them, sizes."""
    out.print(result_table(record))
    for line in (*flags(record), error_line(record), fidelity_line(record)):
        if line:
            out.print(line)
    out.print(memory_line(record.memory))


def sweep_table(records: dict[str, RunRecord]) -> Table:
    """Finished runs, smallest file first; * where no smaller or equal one scores higher."""
    title = "finished runs, smallest first; * on the Pareto front of bytes and score"
    columns = ["run", "stored bits", "checkpoint", "score", "retention %", "KL"]
    table = _table(title, columns)
    best_score = float("-inf")

    def smallest_first(item: tuple[str, RunRecord]) -> tuple[int, float]:
        return item[1].memory.checkpoint_bytes, -item[1].mean_score

    for name, record in sorted(records.items(), key=smallest_first):
        on_front = record.mean_score > best_score
        best_score = max(best_score, record.mean_score)
        divergences = [item.kl.mean for item in record.fidelity.values() if item.kl]
        mean_divergence = "-"
        if divergences:
            mean_divergence = f"{sum(divergences) / len(divergences):.3f}"
        table.add_row(
            name + (" *" if on_front else ""),
            f"{record.memory.stored_bits:.3f}",
            human(record.memory.checkpoint_bytes),
            f"{record.mean_score:.1f}",
            percent(record.mean_retention),
            mean_divergence,
        )
    return table


def status_table(sweep: str, states: dict[str, str]) -> Table:
    """The state of every run of a sweep."""
    table = _table(f"sweep {sweep}", ["run", "state"], left=2)
    for name, state in states.items():
        table.add_row(name, Text(state, STATE_COLOURS[state]))
    return table


def failure_line(name: str, reason: str, log: str) -> Text:
    """A failed run in one line."""
    return styled(("failed", "bold red"), f" {name}: {reason}{log}")


def note_line(name: str, reason: str) -> Text:
    """What is to be said of a run that did not fail."""
    return Text(f"{name}: {reason}")


def fail(message: str) -> None:
    """An error for people, on stderr."""
    Screen(stderr=True).print(styled(("error", "bold red"), f" {message}"), soft_wrap=True)
