"""What a person reads when work is done: tables, lines, errors; and the logs."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Group
from rich.text import Text

from luq.allocation.orders import Correlation
from luq.allocation.steadiness import Agreement
from luq.escaping import VisibleFormatter
from luq.evaluation.intervals import Estimate
from luq.formats.sizes import Memory
from luq.profiling.entropies import LayerEntropy
from pipelines.objectives import mean_divergence
from pipelines.record import BenchmarkFidelity, BenchmarkScore, Perplexity, RunRecord
from pipelines.screen import Screen, styled
from pipelines.sheet import Column, Sheet, text_column
from pipelines.units import human, percent

out = Screen()
RULE_MARGIN = 4  # columns that a rule takes beside its title
WARNING = ("!", "red")  # before what a reader must know of a score
WITHIN_NOISE = ", within its noise"  # after a tau of an order with itself
STATE_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}


def show_title(name: str) -> None:
    """A rule with the name of what begins; one that is too long for it stands above it, whole."""
    title = Text(name, "bold")
    if title.cell_len + RULE_MARGIN > out.width:
        out.print(title, overflow="fold")
        title = Text()
    out.rule(title, align="left")


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


def entropy_table(profile: list[LayerEntropy], order: list[int], draws: int = 1) -> Sheet:
    """Entropy in bits per layer, and each layer's place in the order.

    Args:
        profile: means and spreads: over K-means seeds, or over several draws.
        order: the layers, most compressible first.
        draws: of the calibration set.
    """
    entropies = {(entry.layer, entry.modality): entry for entry in profile}
    present = {entry.modality for entry in profile}
    modalities = [name for name in ("all", "image", "text") if name in present]
    first = profile[0]
    measured = f"{first.tokens} vectors each, K = {first.clusters}"
    if draws > 1:
        measured += f"; mean and spread of {draws} draws"
    title = f"Activation entropy, bits ({measured})"
    columns = [Column(name) for name in ("layer", *modalities, "place")]
    table = Sheet(title, columns)
    for layer in range(len(order)):
        cells = [str(layer)]
        for modality in modalities:
            entry = entropies[layer, modality]
            cells.append(f"{entry.mean:.3f} ± {entry.spread:.3f}")
        table.add_row(*cells, str(order.index(layer) + 1))
    return table


def k_means_noise(agreement: Agreement | None) -> str:
    """How steady the order of entropy is, by one calibration set; None: one K-means, no spread."""
    if agreement is None:
        return (
            "how steady the order of entropy is cannot be said by one K-means: profile.seeds=3, or "
            "order.draws=8"
        )
    line = (
        "order of entropy, measured again on the same samples: Kendall's tau "
        f"{agreement.mean:.2f} with itself is to be expected of K-means alone, "
        f"{100 * agreement.swapped:.0f} % of the pairs of layers change places; other samples move "
        "it more"
    )
    if agreement.is_noise:
        line += (
            ". It is within its noise: order.draws=8 ranks by the mean of eight calibration sets"
        )
    return line


def draws_noise(draws: int, single: Agreement | None, halves: Agreement | None) -> str:
    """How steady the order of entropy is, by several calibration sets."""
    lines: list[str] = [f"order of entropy over {draws} draws of the calibration set"]
    if single is not None:
        pairs = f"{single.pairs} pair{'s' if single.pairs > 1 else ''}"
        lines.append(
            f"Kendall's tau between single ones {single.mean:.2f} ({single.low:.2f} to "
            f"{single.high:.2f}, {pairs}){WITHIN_NOISE if single.is_noise else ''}"
        )
    if halves is not None:
        lines.append(
            f"between means of {draws // 2} and of {draws // 2} others {halves.mean:.2f}"
            f"{WITHIN_NOISE if halves.is_noise else ''}"
        )
    return f"{lines[0]}: {'; '.join(lines[1:])}"


def order_tables(orders: dict[str, list[int]], correlations: list[Correlation]) -> Group:
    """The orders, and how alike they rank: tau above the diagonal, rho below it."""
    layers = Sheet(
        "Orders, most compressible layer first", [text_column("order"), text_column("layers")]
    )
    for name, order in orders.items():
        layers.add_row(name, " ".join(str(layer) for layer in order))
    by_pair = {(item.a, item.b): item for item in correlations}
    names = list(orders)
    title = "Rank correlation: Kendall's tau above the diagonal, Spearman's rho below it"
    columns = [text_column("order")]
    # the last orders leave first where not all fit
    columns += [Column(str(index + 1), rank=index) for index in range(len(names))]
    alike = Sheet(title, columns)
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
        f" bits per weight; decoder linears {human(memory.stored_bytes)}, all else "
        f"{human(memory.rest_bytes)}, whole checkpoint {human(memory.checkpoint_bytes)}",
    )


def result_table(record: RunRecord) -> Sheet:
    """Per benchmark: 16-bit, this run, retention, and how far the probabilities moved."""
    columns = [
        text_column("benchmark"),
        Column("16-bit", rank=2),
        Column("this run"),
        Column("95 % interval", rank=3),
        Column("n", rank=4),
        Column("retention %", rank=1),
        Column("KL", rank=5),
        Column("top-1 %", rank=6),
    ]
    table = Sheet("scores, % of the maximum", columns)
    last = len(record.scores) - 1
    for index, (name, score) in enumerate(record.scores.items()):
        cells = _score_cells(name, score, record.fidelity.get(name))
        table.add_row(*cells, ends_section=index == last)
    float_mean = f"{record.float_mean_score:.1f}"
    mean = f"{record.mean_score:.1f}"
    retention = percent(record.mean_retention)
    name = "mean"
    if len(record.averaged) < len(record.scores):
        name = f"mean of {len(record.averaged)}"
    interval = _brackets(record.score_interval)
    table.add_row(name, float_mean, mean, interval, "", retention, "", "", style="bold")
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
    if record.scores:
        out.print(result_table(record))
    for line in (*flags(record), error_line(record), fidelity_line(record)):
        if line:
            out.print(line)
    out.print(memory_line(record.memory))


def sweep_table(records: dict[str, RunRecord]) -> Sheet:
    """Finished runs, smallest file first; * where no smaller or equal one scores higher."""
    title = "finished runs, smallest first; * on the Pareto front of bytes and score"
    columns = [
        text_column("run"),
        Column("stored bits", rank=2),
        Column("checkpoint"),
        Column("score"),
        Column("retention %", rank=1),
        Column("KL", rank=3),
    ]
    table = Sheet(title, columns)
    best_score = float("-inf")

    def smallest_first(item: tuple[str, RunRecord]) -> tuple[int, float]:
        return item[1].memory.checkpoint_bytes, -item[1].mean_score

    for name, record in sorted(records.items(), key=smallest_first):
        on_front = record.mean_score > best_score
        best_score = max(best_score, record.mean_score)
        divergence = mean_divergence(record)
        table.add_row(
            name + (" *" if on_front else ""),
            f"{record.memory.stored_bits:.3f}",
            human(record.memory.checkpoint_bytes),
            f"{record.mean_score:.1f}",
            percent(record.mean_retention),
            "-" if divergence is None else f"{divergence:.3f}",
        )
    return table


def status_table(sweep: str, states: dict[str, str]) -> Sheet:
    """The state of every run of a sweep."""
    table = Sheet(f"sweep {sweep}", [text_column("run"), text_column("state")])
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


def show_next(commands: Sequence[tuple[str, str]]) -> None:
    """What a person may want to type next, whole; and what it does, where there is room."""
    width = max(len(command) for command, _ in commands)
    for index, (command, meaning) in enumerate(commands):
        lead = "next: " if index == 0 else "      "
        gap = " " * (width - len(command) + 2)
        line = styled(lead, (command, "bold"), gap, (meaning, "dim"))
        if line.cell_len > out.width:
            line = styled(lead, (command, "bold"))
        out.print(line, soft_wrap=True)
