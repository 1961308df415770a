"""What the report says of one model: its sections of charts, tables and sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from analysis import ablations, compare, costs, findings, layers, steadiness, tables
from analysis.charts import Chart
from analysis.compare import Comparison, Reader
from analysis.frame import Study
from analysis.pareto import ParetoInfo, pareto_info
from analysis.steadiness import Steadinesses
from analysis.steadiness_table import steadiness_table
from analysis.tables import Table
from luq.evaluation.compare import MEAN

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
        self.study = study
        self.reader = reader

    @cached_property
    def infos(self) -> dict[str, ParetoInfo]:
        """The mean's and each benchmark's Pareto points."""
        return {name: pareto_info(self.study, name) for name in (MEAN, *self.study.benchmarks)}

    @property
    def info(self) -> ParetoInfo:
        """The mean's Pareto points."""
        return self.infos[MEAN]

    @cached_property
    def comparisons(self) -> dict[str, list[Comparison]]:
        """Axis -> its values against one of them."""
        return {axis: compare.along(self.study, axis, self.reader) for axis in compare.LABELS}

    @cached_property
    def findings(self) -> list[str]:
        """The headline, and what else the data say in a sentence."""
        return [
            *findings.headline(self.study, self.info, self.reader),
            *findings.calibration(self.comparisons["calibration"]),
            *findings.orders(self.comparisons["order"]),
            *findings.steadiness(self.steadiness),
        ]

    @cached_property
    def steadiness(self) -> Steadinesses:
        """How steady each order is, and which one is the best."""
        return steadiness.measured(self.study, self.comparisons["order"], self.reader)

    @cached_property
    def overview(self) -> Table:
        """A row per plan, or per plan that matters most."""
        return tables.overview(self.study, costs.readable(self.info, tables.FEW))

    @cached_property
    def sections(self) -> list[Section]:
        """The parts that have something to show."""
        sections = (
            self._memory(),
            self._calibration(),
            self._orders(),
            self._layers(),
            self._ablations(),
            self._costs(),
        )
        return [section for section in sections if section.charts or section.tables]

    def _memory(self) -> Section:
        study = self.study
        info = self.info
        text = []
        if info.missing:
            experiments = ", ".join(f"experiment={tier}" for tier in info.missing)
            text.append(
                f"Baselines that are missing: {', '.join(info.missing)}. "
                f"To have them: luq run -m {experiments}"
            )
        important = info.points[info.points["front"] | info.points["baseline"]]
        section_tables = [self.overview, tables.smallest_plans(info), tables.best_plans(info)]
        retention = None
        if study.scores.empty:
            text.append(
                "No benchmark was asked: scores are the 16-bit model's perplexity over a plan's, "
                "in percent."
            )
        else:
            retention = costs.retention_chart(study, info)
            section_tables.append(tables.scores(study, info, important["label"].tolist()))
        return Section(
            "memory",
            "Memory and score",
            text,
            _present(
                ablations.pareto_chart(study, info), ablations.tradeoff_chart(study), retention
            ),
            section_tables,
        )

    def _calibration(self) -> Section:
        comparisons = self.comparisons["calibration"]
        if not comparisons:
            return Section("calibration", "")
        title = f"Other calibration sets against {comparisons[0].a}"
        per_benchmark = len(comparisons) <= FEW
        chart = ablations.difference_chart("calibration", title, comparisons, per_benchmark)
        section_tables: list[Table] = []
        if len(comparisons) > 1:
            section_tables.append(tables.ranking(comparisons))
        section_tables += [tables.differences(comparison) for comparison in comparisons[:FEW]]
        section_tables.append(tables.by_plan(comparisons))
        return Section(
            "calibration",
            "Calibration: text-only against multimodal",
            findings.calibration(comparisons),
            _present(chart),
            section_tables,
        )

    def _orders(self) -> Section:
        comparisons = self.comparisons["order"]
        differences = None
        section_tables: list[Table] = []
        if comparisons:
            title = f"Orders against {comparisons[0].a}, at equal bytes"
            differences = ablations.difference_chart(
                "orders_difference", title, comparisons, per_benchmark=False
            )
            section_tables = [tables.ranking(comparisons)]
        if self.steadiness.entries:
            section_tables.append(steadiness_table(self.steadiness))
        if comparisons:
            section_tables.append(tables.by_plan(comparisons))
        return Section(
            "orders",
            "Orders: which layers go low",
            [*findings.orders(comparisons), *findings.steadiness(self.steadiness)],
            _present(
                differences,
                ablations.orders_chart(self.study),
                layers.correlation_chart(self.study),
                layers.places_chart(self.study),
            ),
            section_tables,
        )

    def _layers(self) -> Section:
        charts = _present(
            layers.entropy_chart(self.study),
            ablations.stability_chart(self.study),
            layers.tiers_chart(self.study),
        )
        return Section("layers", "Layers: entropy, and tiers of linears", [], charts)

    def _ablations(self) -> Section:
        alpha = ablations.along_chart(
            self.study,
            "alpha",
            "alpha",
            "share of multimodal tokens in the calibration set, alpha",
            "Mixing ratio of the calibration set",
        )
        clusters = ablations.along_chart(
            self.study, "clusters", "clusters", "clusters of the K-means, K", "Number of clusters"
        )
        axes = [self.comparisons[axis] for axis in ("propagation", "quantizer")]
        paper_chart = ablations.paper_chart(self.study)
        rankings = [tables.ranking(comparisons) for comparisons in axes if comparisons]
        return Section(
            "ablations",
            "Ablations, and the paper's figures",
            [],
            _present(
                alpha,
                clusters,
                ablations.tradeoff_chart(self.study, "nominal_bits"),
                paper_chart,
            ),
            # the paper's numbers stand beside the figure that shows some of them
            [*rankings, tables.published()] if paper_chart else rankings,
        )

    def _costs(self) -> Section:
        charts: Sequence[Chart] = (
            costs.ledger_chart(self.study, self.info),
            costs.time_chart(self.study.records),
        )
        return Section("costs", "Bytes and time", [], list(charts))


def _present(*charts: Chart | None) -> list[Chart]:
    """The charts for which there was something to show."""
    return [chart for chart in charts if chart is not None]
