"""The report's section on the paper's claims: a table over models, and one for each claim."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from analysis import claims, promise
from analysis.claims import NO, OPEN, YES, Contrast, Entropies, estimate_of, together
from analysis.promise import ANY_MIX, PROMISE_LOSS, PROMISE_SIZE, Size
from analysis.sections import Chapter, Section
from analysis.settings import is_entropy
from analysis.tables import (
    NO_NUMBER,
    Cell,
    Number,
    Table,
    change,
    count,
    number,
)
from luq.evaluation.intervals import Estimate

HIGHER = "image tokens' entropy lies above text tokens'"
FIRST = "low entropy first beats the other orders"
MULTIMODAL = "multimodal calibration beats text-only"
SMALLER = (
    f"a mix {100 * PROMISE_SIZE:.0f} % smaller than 4-bit loses less than {PROMISE_LOSS:.0f} %"
)
NOT_RUN = Number("not run", float("inf"))
OF_SCORES = (
    "In brackets: 95 % intervals, of the bootstrap and paired by question; with draws: and with "
    "what calibration sets and random orders add (Student's interval over their mean scores), "
    "where several were drawn. Verdicts go by the wider one; those on an order within its noise "
    "need several draws."
)


@dataclass(frozen=True)
class ModelClaims:
    """What one chapter says of the four claims."""

    chapter: Chapter

    @property
    def model(self) -> str:
        return self.chapter.study.name

    @property
    def caveat(self) -> str:
        return self.chapter.study.caveat

    @cached_property
    def entropies(self) -> list[Entropies]:
        return claims.entropies(self.chapter.study)

    @cached_property
    def orders(self) -> list[Contrast]:
        chapter = self.chapter
        return claims.orders(chapter.study, chapter.steadiness, chapter.reader)

    @cached_property
    def calibrations(self) -> list[Contrast]:
        chapter = self.chapter
        return claims.calibrations(chapter.study, chapter.steadiness, chapter.reader)

    @cached_property
    def sizes(self) -> list[Size]:
        return promise.sizes(self.chapter.study, self.chapter.reader)

    @property
    def paper_calibrations(self) -> list[Contrast]:
        """In the order of entropy: the paper's."""
        return [c for c in self.calibrations if is_entropy(c.setting)]

    @property
    def mixes(self) -> list[Size]:
        return [plan for plan in self.sizes if plan.is_mixed]


def section(chapters: Sequence[Chapter]) -> Section:
    """The four claims over all models; empty if none of them was tested."""
    models = [ModelClaims(chapter) for chapter in chapters]
    tables = [_entropies(models), _orders(models), _calibrations(models), _sizes(models)]
    tables = [table for table in tables if table.rows]
    if len(models) == 1:
        tables = [_without_model(table) for table in tables]
    if tables:
        tables = [summary(models), *tables]
    return Section("claims", "The paper's claims", [], [], tables)


def _without_model(table: Table) -> Table:
    """The table without its first column, where all rows are of one model."""
    rows = [row[1:] for row in table.rows]
    return replace(table, columns=table.columns[1:], rows=rows, words=table.words - 1)


def summary(models: Sequence[ModelClaims]) -> Table:
    """A row per claim and pair of tiers, a verdict per model."""
    rows: list[list[Cell]] = [[HIGHER, "", *(_entropy_verdict(model) for model in models)]]
    for claim, contrasts_of in (
        (FIRST, lambda model: model.orders),
        (MULTIMODAL, lambda model: model.paper_calibrations),
    ):
        rows += _rows_by_tiers(models, claim, contrasts_of)
    for size, verdict_of in (
        ("linears", lambda plan: plan.of_linears),
        ("whole file", lambda plan: plan.of_whole),
    ):
        cells = [_size_verdict(model, verdict_of) for model in models]
        rows.append([SMALLER, size, *cells])
    note = (
        "no: the interval lies on the other side; cannot tell: it holds 0 (of a loss: 10 %), or "
        "the order is within its noise and was drawn once. Beside it: how many of the other orders "
        "or sets it beats, ties with, loses to. The report's tables of the claims have the numbers."
    )
    note += "".join(model.caveat for model in models)
    columns = ["claim", "of", *(model.model for model in models)]
    return Table("claims", "Verdicts", columns, rows, note, words=len(columns))


def _entropy_verdict(model: ModelClaims) -> Cell:
    if not model.entropies:
        return NOT_RUN
    row = model.entropies[0]
    return _verdict_cell(row.verdict, f"{row.higher} of {row.layers} layers")


def _rows_by_tiers(
    models: Sequence[ModelClaims],
    claim: str,
    contrasts_of: Callable[[ModelClaims], list[Contrast]],
) -> list[list[Cell]]:
    """A row per pair of tiers that one of the models ran."""
    pairs = dict.fromkeys(c.tiers for model in models for c in contrasts_of(model))
    rows: list[list[Cell]] = []
    for tiers in pairs or ("",):
        cells: list[Cell] = []
        for model in models:
            verdicts = [c.verdict for c in contrasts_of(model) if c.tiers == tiers]
            cells.append(_contrast_cell(verdicts))
        rows.append([claim, tiers, *cells])
    return rows


def _contrast_cell(verdicts: list[str]) -> Cell:
    if not verdicts:
        return NOT_RUN
    counts = (verdicts.count(verdict) for verdict in (YES, OPEN, NO))
    return _verdict_cell(together(verdicts), "/".join(str(n) for n in counts))


def _size_verdict(model: ModelClaims, verdict_of: Callable[[Size], str]) -> Cell:
    if not model.mixes:
        return NOT_RUN
    verdict = promise.best([verdict_of(plan) for plan in model.mixes])
    return _verdict_cell(verdict, "see below" if model.caveat else "")


def _verdict_cell(verdict: str, detail: str) -> Number:
    """A verdict that sorts from yes to no."""
    return Number(verdict, (YES, OPEN, NO).index(verdict), f"({detail})" if detail else "")


def _edges(estimate: Estimate, places: int = 1) -> Number:
    """The ends of an interval."""
    low = f"{estimate.low:+.{places}f}"
    return Number(f"[{low}, {estimate.high:+.{places}f}]", estimate.low)


def _with_edges(estimate: Estimate, places: int = 1) -> Number:
    """A difference, and the ends of its interval small below it."""
    return Number(f"{estimate.score:+.{places}f}", estimate.score, _edges(estimate, places).text)


def _entropies(models: Sequence[ModelClaims]) -> Table:
    rows: list[list[Cell]] = []
    for model in models:
        for row in model.entropies:
            rows.append(
                [
                    model.model,
                    row.kind,
                    count(row.draws),
                    count(row.vectors),
                    Number(f"{row.higher} of {row.layers}", row.higher / row.layers),
                    _with_edges(row.difference, 2),
                    row.verdict,
                ]
            )
    columns = ["model", "calibration", "draws", "vectors", "layers above", "bits"]
    note = (
        "Image tokens' entropy minus text tokens', mean over layers, of as many vectors of either "
        "in each layer. Student's interval over draws of the calibration set; of one draw over the "
        "seeds of K-means. 95 % intervals."
    )
    title = f"First claim: {HIGHER}"
    return Table("claims_entropy", title, [*columns, "verdict"], rows, note, words=2)


def _orders(models: Sequence[ModelClaims]) -> Table:
    rows: list[list[Cell]] = []
    for model in models:
        for contrast in model.orders:
            rows.append(
                [
                    model.model,
                    contrast.tiers,
                    contrast.other,
                    count(contrast.other_draws),
                    *_difference_cells(contrast),
                    number(contrast.tau, 2),
                    contrast.verdict,
                ]
            )
    columns = ["model", "tiers", "other order", "draws", "its score", *DIFFERENCE]
    title = f"Second claim: {FIRST}, at equal bytes"
    note = f"Entropy's score minus the other's. {OF_SCORES} Tau: of the other order's ranking with "
    note += f"that by each layer's own measured KL. {' '.join(_own_rankings(models))}"
    columns += ["tau", "verdict"]
    return Table("claims_orders", title, columns, rows, note.strip(), words=3)


def _own_rankings(models: Sequence[ModelClaims]) -> list[str]:
    """What is known of the claimed order itself, a sentence per model and pair of tiers."""
    sentences: dict[str, None] = {}
    for model in models:
        for contrast in model.orders:
            sentence = f"{model.model}, {contrast.tiers}: {contrast.draws} draws of entropy"
            if contrast.own_tau is not None:
                sentence += f", tau {contrast.own_tau:.2f}"
            if contrast.is_noise:
                sentence += ", within its noise"
            sentences[f"{sentence}."] = None
    return list(sentences)


DIFFERENCE = ["difference", "with draws", "n", "KL difference"]


def _difference_cells(contrast: Contrast) -> list[Cell]:
    """The other's score, and the differences to it."""
    pooled = contrast.comparison.pooled
    cells: list[Cell] = [
        number(pooled.a),
        _with_edges(estimate_of(pooled)),
        _edges(contrast.interval) if contrast.has_draws else NO_NUMBER,
        count(pooled.n),
    ]
    divergence = contrast.comparison.divergence
    if divergence is None:
        return [*cells, NO_NUMBER]
    return [*cells, _with_edges(estimate_of(divergence), 3)]


def _calibrations(models: Sequence[ModelClaims]) -> Table:
    rows: list[list[Cell]] = []
    for model in models:
        for contrast in model.calibrations:
            rows.append(
                [
                    model.model,
                    contrast.tiers,
                    contrast.setting,
                    contrast.claimed,
                    count(contrast.draws),
                    *_difference_cells(contrast),
                    contrast.verdict,
                ]
            )
    columns = ["model", "tiers", "order", "calibration", "draws", "text-only", *DIFFERENCE]
    note = (
        f"The multimodal set's score minus that of text-only. {OF_SCORES} In an order that needs "
        "no samples calibration changes how layers are quantized; in the order of entropy also "
        "which of them are low."
    )
    title = f"Third claim: {MULTIMODAL}"
    return Table("claims_calibration", title, [*columns, "verdict"], rows, note, words=4)


def _sizes(models: Sequence[ModelClaims]) -> Table:
    rows: list[list[Cell]] = []
    for model in models:
        for plan in model.sizes:
            rows.append(
                [
                    model.model,
                    plan.of,
                    plan.label,
                    number(plan.stored_bits, 2),
                    change(plan.linears),
                    change(plan.whole),
                    number(plan.score),
                    _with_edges(plan.loss),
                    plan.of_linears,
                    plan.of_whole,
                ]
            )
    columns = ["model", "best of", "plan", "stored bits", "linears %", "whole file %", "score"]
    columns += ["loss %", "by linears", "by file"]
    note = (
        "Sizes against the plan all in 4-bit GPTQ whose rest is in 16 bit. Best: the highest score "
        f"of those {100 * PROMISE_SIZE:.0f} % smaller, or the smallest if none is. Loss: percent "
        "of the 16-bit mean score, its interval over questions and draws; then the verdicts by "
        f"the two sizes. The best of many plans ({ANY_MIX}) was chosen by the questions that it is "
        "scored on, so its loss looks smaller than it is."
    )
    note += "".join(model.caveat for model in models if model.sizes)
    title = f"Fourth claim: {SMALLER}"
    return Table("claims_sizes", title, columns, rows, note, words=3)
