"""What the report says of one model: its sections of charts, tables and sentences, from one study."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from analysis import ablations, compare, costs, layers, tables
from analysis import findings as story
from analysis.charts import Chart
from analysis.compare import Comparison, Reader
from analysis.frame import MEAN, Study
from analysis.pareto import ParetoInfo, pareto_info
from analysis.tables import Table

FEW = 3  # values of an axis that a figure by benchmark can show


@dataclass(frozen=True)
class Section:
    """A titled part of a chapter."""

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


class Chapter:
    """One study's part of the report."""

    def __init__(self, study: Study, reader: Reader):
        self.study, self.reader = study, reader

    @cached_property
    def infos(self) -> dict[str, ParetoInfo]:
        """The mean's and each benchmark's Pareto points."""
        return {name: pareto_info(self.study, name) for name in (MEAN, *self.study.benchmarks)}

    @property
    def info(self) -> ParetoInfo:
        return self.infos[MEAN]

    @cached_property
    def comparisons(self) -> dict[str, list[Comparison]]:
        return {axis: compare.along(self.study, axis, self.reader) for axis in compare.LABELS}

    @cached_property
    def findings(self) -> list[str]:
        """The headline, and what else the data say in a sentence."""
        found = story.headline(self.study, self.info, self.reader)
        return [
            *found,
            *story.calibration(self.comparisons["calibration"]),
            *story.orders(self.comparisons["order"]),
        ]

    @cached_property
    def sections(self) -> list[Section]:
        made = (
            self._memory(),
            self._calibration(),
            self._orders(),
            self._layers(),
            self._ablations(),
            self._costs(),
        )
        return [s for s in made if s.charts or s.tables]

    def _memory(self) -> Section:
        study, info = self.study, self.info
        charts = [
            ablations.pareto_chart(study, info),
            ablations.tradeoff_chart(study),
            costs.retention_chart(study, info),
        ]
        missing = [f"experiment={tier}" for tier in info.missing]
        text = [f"Baselines that nobody ran: luq run -m {', '.join(missing)}."] if missing else []
        chosen = info.points[info.points["front"] | info.points["baseline"]]["label"].tolist()
        shown = costs.readable(info, tables.FEW)
        made = [
            tables.overview(study, shown),
            tables.best_plans(info),
            tables.scores(study, info, chosen),
        ]
        return Section("memory", "Memory and score", text, _drawn(charts), made)

    def _calibration(self) -> Section:
        found = self.comparisons["calibration"]
        if not found:
            return Section("calibration", "")
        title = f"Other calibration sets against {found[0].a}"
        charts = [ablations.difference_chart("calibration", title, found, len(found) <= FEW)]
        made = [tables.differences(c) for c in found[:FEW]] + [tables.by_plan(found)]
        if len(found) > 1:
            made.insert(0, tables.ranking(found))
        return Section(
            "calibration",
            "Calibration: text-only against multimodal",
            story.calibration(found),
            _drawn(charts),
            made,
        )

    def _orders(self) -> Section:
        found = self.comparisons["order"]
        title = f"Orders against {found[0].a}, at equal bytes" if found else ""
        charts = [
            ablations.difference_chart("orders_difference", title, found, False),
            ablations.orders_chart(self.study),
            layers.correlation_chart(self.study),
            layers.places_chart(self.study),
        ]
        made = [tables.ranking(found), tables.by_plan(found)] if found else []
        return Section(
            "orders", "Orders: which layers go low", story.orders(found), _drawn(charts), made
        )

    def _layers(self) -> Section:
        charts = [layers.entropy_chart(self.study), ablations.stability_chart(self.study)]
        return Section("layers", "Layers: entropy", [], _drawn(charts))

    def _ablations(self) -> Section:
        alpha = (
            "share of multimodal tokens in the calibration set, alpha",
            "Mixing ratio of the calibration set",
        )
        clusters = "clusters of the K-means, K", "Number of clusters"
        charts = [
            ablations.along_chart(self.study, "alpha", "alpha", *alpha),
            ablations.along_chart(self.study, "clusters", "clusters", *clusters),
            ablations.tradeoff_chart(self.study, "nominal_bits"),
            ablations.paper_chart(self.study),
        ]
        found = [
            self.comparisons[axis]
            for axis in ("propagation", "quantizer")
            if self.comparisons[axis]
        ]
        return Section(
            "ablations",
            "Ablations, and the paper's figures",
            [],
            _drawn(charts),
            [tables.ranking(c) for c in found],
        )

    def _costs(self) -> Section:
        charts: list[Chart] = [
            costs.ledger_chart(self.study, self.info),
            costs.time_chart(self.study.records),
        ]
        return Section("costs", "Bytes and time", [], charts)


def _drawn(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]
