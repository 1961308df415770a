"""What a person sees: bars while it works, one line per finished stage, tables at the end."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from luq.allocation.orders import Correlation
from luq.profiling.entropy import LayerEntropy
from pipelines.results import Record

log = logging.getLogger(__name__)
out = Console(highlight=False)


class Progress:
    """Bars on a terminal, silence elsewhere; one line per stage in both."""

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar of `total` steps; the yielded function takes what was just done, and how many steps that was."""
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
        )
        with bars.Progress(
            *columns, console=out, transient=True, disable=not sys.stdout.isatty()
        ) as shown:
            task = shown.add_task(name, total=total)
            yield lambda what, steps=1: shown.update(
                task, advance=steps, description=f"{name} {what}".strip()
            )

    def note(self, text: str) -> None:
        out.print(f"  [dim]{text}[/dim]")

    def stage(self, name: str, seconds: float, cached: bool, made: int) -> None:
        how = "from the store" if cached else f"{made} made" if made else "done"
        log.info("%s: %.1f s, %s", name, seconds, how)
        out.print(f"  {name:<16} {seconds:7.1f} s  [dim]{how}[/dim]")


class Silent(Progress):
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def stage(self, name: str, seconds: float, cached: bool, made: int) -> None: ...


def log_warnings() -> None:
    """Warnings of all loggers to the terminal."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[handler]
    )


@contextmanager
def log_file(file: Path) -> Iterator[None]:
    """A job's own log: its stages, warnings, and the traceback of its failure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def human(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def entropy_table(profile: list[LayerEntropy], order: list[int]) -> Table:
    """Entropy in bits per layer, and each layer's place in the order."""
    modalities = [m for m in ("all", "image", "text") if any(e.modality == m for e in profile)]
    tokens, clusters = profile[0].tokens, profile[0].clusters
    table = Table(
        title=f"Activation entropy, bits ({tokens} vectors each, K = {clusters})",
        title_justify="left",
    )
    table.add_column("layer", justify="right")
    for modality in modalities:
        table.add_column(modality, justify="right")
    table.add_column("place", justify="right")
    for layer in range(len(order)):
        cells = [
            f"{e.mean:.3f} ± {e.spread:.3f}"
            for m in modalities
            for e in profile
            if (e.layer, e.modality) == (layer, m)
        ]
        table.add_row(str(layer), *cells, str(order.index(layer) + 1))
    return table


def order_tables(orders: dict[str, list[int]], correlations: list[Correlation]) -> Group:
    """The orders, and how alike they rank: Kendall's tau above the diagonal, Spearman's rho below it."""
    listed = Table(title="Orders, most compressible layer first", title_justify="left")
    listed.add_column("order")
    listed.add_column("layers")
    for name, order in orders.items():
        listed.add_row(name, " ".join(map(str, order)))
    names, found = list(orders), {(c.a, c.b): c for c in correlations}
    shown = Table(
        title="Rank correlation: Kendall's tau above the diagonal, Spearman's rho below it",
        title_justify="left",
    )
    shown.add_column("order")
    for i in range(len(names)):
        shown.add_column(str(i + 1), justify="right")
    for i, a in enumerate(names):
        cells = []
        for j, b in enumerate(names):
            value = found[a, b].kendall if i < j else found[b, a].spearman if i > j else None
            cells.append("" if value is None else f"{value:+.1f}")
        shown.add_row(f"{i + 1} {a}", *cells)
    return Group(listed, shown)


def memory_line(memory: dict[str, Any]) -> str:
    return (
        f"nominal [bold]{memory['nominal_bits']:.2f}[/bold] bits, stored [bold]{memory['stored_bits']:.3f}[/bold] bits "
        f"per weight; decoder linears {human(memory['stored_bytes'])}, whole checkpoint {human(memory['checkpoint_bytes'])}"
    )


def result_table(record: Record) -> Table:
    """Per benchmark: 16-bit, this run, retention, and how far the answers' probabilities moved."""
    table = Table(title="scores, % of the maximum", title_justify="left")
    table.add_column("benchmark")
    for name in ("16-bit", "this run", "±", "n", "retention %", "KL", "top-1 %"):
        table.add_column(name, justify="right")
    for name, s in record["scores"].items():
        flag = " [red]![/red]" if s["collapsed"] or s["errors"] else ""
        kept = "-" if s["retention"] is None else f"{100 * s['retention']:.1f}"
        measured = record["fidelity"].get(name)
        far = (
            (f"{measured['kl'][0]:.3f}", f"{100 * measured['agreement'][0]:.1f}")
            if measured and measured["n"]
            else ("", "")
        )
        cells = (
            f"{s['float_score']:.1f}",
            f"{s['score']:.1f}",
            f"{s['stderr']:.1f}",
            str(s["n"]),
            kept,
        )
        table.add_row(name + flag, *cells, *far)
    kept = "-" if record["mean_retention"] is None else f"{100 * record['mean_retention']:.1f}"
    table.add_section()
    table.add_row(
        "mean",
        f"{record['float_mean_score']:.1f}",
        f"{record['mean_score']:.1f}",
        "",
        "",
        kept,
        style="bold",
    )
    return table


def flags(record: Record) -> list[str]:
    """What a reader must know of single benchmarks before he believes their scores."""
    lines = []
    for name, s in record["scores"].items():
        if s["collapsed"]:
            lines.append(f"[red]![/red] {name} collapsed: {escape(s['collapsed'])}")
        if s["errors"]:
            key = record["artefacts"]["evaluate"][name]
            lines.append(
                f"[red]![/red] {name}: {s['errors']} rows were errors and count as wrong: store/evaluation/{key}"
            )
    return lines


def fidelity_line(record: Record) -> str:
    """Perplexity with its interval, and what KL and top-1 are."""
    parts = []
    if record["perplexity"]:
        p = record["perplexity"]
        parts.append(
            f"perplexity [bold]{p['value']:.2f}[/bold] ({p['low']:.2f} .. {p['high']:.2f}, {p['tokens']} tokens of held-out text)"
        )
    if record["fidelity"]:
        parts.append("KL in nats per answer token from the 16-bit model, top-1: same first choice")
    return "; ".join(parts)


def fail(message: str) -> None:
    """An error for people, on stderr."""
    Console(stderr=True, highlight=False).print(
        f"[bold red]error[/bold red] {escape(message)}", soft_wrap=True
    )
