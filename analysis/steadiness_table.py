"""The report's table of how steady the orders are."""

from dataclasses import replace

from analysis.steadiness import Steadinesses
from analysis.tables import NO_NUMBER, Cell, Number, Table, count, interval, number
from luq.allocation.steadiness import Agreement

FIXED = Number("fixed", 1.0)  # of what is the same whatever was drawn


def steadiness_table(measured: Steadinesses) -> Table:
    """How steady the orders are, a row per order and kind of calibration; the best one first."""
    best = measured.best
    columns = ["order", "calibration", "rankings", "tau with itself", "pairs"]
    columns += ["tau with text-only", "pairs", "halves of the draws", "K-means alone"]
    columns += [f"tau with {best}", f"score minus {best}", "95 % interval"] if best else []
    rows: list[list[Cell]] = []
    for entry in measured.entries:
        cells: list[Cell] = [entry.order, entry.kind, count(entry.rankings)]
        cells += _agreement_cells(entry.same) if entry.needs_samples else [FIXED, NO_NUMBER]
        cells += _agreement_cells(entry.across)
        cells += [_agreement_cells(entry.halves)[0], _mean_cell(entry.expected)]
        if best:
            cells.append(number(entry.best, 2))
            difference = entry.difference
            if difference is None:
                cells += [NO_NUMBER, NO_NUMBER]
            else:
                cells += [number(difference.mean, 1, sign=True), interval(difference)]
        rows.append(cells)
    note = (
        "Kendall's tau between two rankings of the layers: 1 the same, 0 unrelated, -1 reversed. "
        "With itself: between draws of the calibration set; with text-only: between this "
        "calibration and text-only; mean [range] over the pairs. fixed: the order sees no samples. "
        "Halves of the draws: between means over one half and over the other. K-means alone: "
        "expected between two repetitions on the same samples, from the spread over K-means seeds; "
        "real draws differ more. Random orders are left out."
    )
    if best:
        note += f" {best} has the best mean score at equal bytes, over all calibration sets."
    title = "How steady the orders are"
    return _without_empty(Table("steadiness", title, columns, rows, note, words=2))


def _agreement_cells(agreement: Agreement | None) -> list[Cell]:
    """Mean tau with its range, and the number of pairs."""
    if agreement is None:
        return [NO_NUMBER, NO_NUMBER]
    edges = f"[{agreement.low:.2f}, {agreement.high:.2f}]" if agreement.pairs > 1 else ""
    mean = Number(f"{agreement.mean:.2f}", round(agreement.mean, 6), edges)
    return [mean, count(agreement.pairs)]


def _mean_cell(agreement: Agreement | None) -> Number:
    return NO_NUMBER if agreement is None else number(agreement.mean, 2)


def _without_empty(table: Table) -> Table:
    """The table without columns in which nothing was measured."""
    kept: list[int] = []
    for column in range(len(table.columns)):
        is_measured = any(row[column] not in (NO_NUMBER, FIXED) for row in table.rows)
        if column < table.words or is_measured:
            kept.append(column)
    return replace(
        table,
        columns=[table.columns[column] for column in kept],
        rows=[[row[column] for column in kept] for row in table.rows],
    )
