"""One run, whole: from a config to its record. Reads from top to bottom as the arrow line does."""

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from luq.allocation.plans import Chosen
from luq.calibration.artefacts import check_shared
from luq.config import RunConfig
from luq.errors import ConfigError
from luq.evaluation import scorers
from luq.evaluation.answers import Kept, Scored, rows_of, scored
from luq.evaluation.artefacts import Answers, Fidelity, Layers
from luq.evaluation.measures import perplexity, perplexity_ratio, summarise_fidelity
from luq.formats.memory import peak_bytes, reset_peak
from luq.formats.sizes import LayerSize, memory
from luq.models import devices
from luq.models.weight_files import shards_of
from luq.planning import LayerScores, allocate
from luq.quantization.artefacts import Parts, end_walk
from luq.questions import prompts
from luq.store.artefact import Artefact, Holdings
from luq.store.keys import digest
from luq.store.store import Store
from luq.tower import PlannedParts, planned_parts
from pipelines import console
from pipelines.clock import StageClock
from pipelines.display import Display
from pipelines.graph import Graph
from pipelines.record import (
    ArtefactKeys,
    BenchmarkFidelity,
    CalibrationSummary,
    Interval,
    Perplexity,
    RunRecord,
)
from pipelines.scores import score_part
from pipelines.space import check_space
from pipelines.units import human
from pipelines.version import git_sha

# The last loaded model, so that the jobs of a multirun that use the same one load it once.
HOLDINGS = Holdings()
SHORT_PLAN = 60  # characters that stand beside the word in 80 columns


class RunIdentity(NamedTuple):
    """How people call a run: its name in its sweep, and the command that gives it again."""

    name: str
    command: str


@dataclass(frozen=True)
class Workbench:
    """A run's graph, the store that makes its artefacts, and the clock that times them."""

    graph: Graph
    store: Store
    clock: StageClock

    def quantize(self, layers: Layers, stage: str) -> list[LayerSize]:
        """Make packed layers where they are missing; their sizes."""
        sizes: list[LayerSize] = []
        with self.clock.stage(stage), self.clock.bar(stage, len(layers)) as advance:
            for layer in layers:
                sizes.append(self.store.get(layer).size())
                advance(layer.description, 1)
        return sizes

    def evaluate(self, answers: dict[str, Artefact[Kept]], stage: str) -> dict[str, Scored]:
        """Ask the benchmarks; their scores."""
        scores: dict[str, Scored] = {}
        with self.clock.stage(stage):
            for benchmark, artefact in answers.items():
                scores[benchmark] = scored(benchmark, self.store.get(artefact), artefact.key)
        return scores

    def measure(self, artefacts: dict[str, Fidelity]) -> dict[str, BenchmarkFidelity]:
        """How far probabilities moved, by benchmark."""
        measured: dict[str, BenchmarkFidelity] = {}
        for artefact in artefacts.values():  # the 16-bit model first: it is installed once
            self.store.get(artefact.reference)
        for benchmark, artefact in artefacts.items():
            rows = self.store.get(artefact)
            summary = summarise_fidelity(rows.measured)
            measured[benchmark] = BenchmarkFidelity(
                n=summary.n,
                kl=_interval(summary.kl),
                agreement=_interval(summary.agreement),
                loglik=_interval(summary.loglik),
                left_out=len(rows.left_out),
                key=artefact.key,
            )
        return measured

    def pack_parts(self, parts: Parts) -> dict[str, LayerSize]:
        """Make what is packed beside the decoder's linears; sizes by part."""
        sizes: dict[str, LayerSize] = {}
        if not parts:
            return sizes
        stage = "quantize the rest"
        with self.clock.stage(stage), self.clock.bar(stage, len(parts)) as advance:
            for part in parts:
                sizes[part.part] = self.store.get(part).size()
                advance(part.description, 1)
        return sizes

    def perplexity(self, layers: Layers, parts: Parts) -> Perplexity | None:
        """Perplexity on held-out text beside the 16-bit model's; None if none is asked for."""
        reference = self.graph.text_losses(self.graph.float_layers)
        artefact = self.graph.text_losses(layers, parts)
        if reference is None or artefact is None:
            return None
        float_losses = self.store.get(reference)
        losses = self.store.get(artefact)
        return Perplexity(
            *perplexity(losses, artefact.length),
            float_value=perplexity(float_losses, reference.length).value,
            ratio=Interval(*perplexity_ratio(losses, float_losses)),
        )

    def check_text(self) -> None:
        """A DataError if the text for perplexity is too short."""
        reference = self.graph.text_losses(self.graph.float_layers)
        if reference is not None and not self.store.has(reference):
            reference.check(self.store.tools)

    def check_questions(self) -> None:
        """A DataError if questions lack a column or cannot be read; what is open stays open."""
        for artefact in self.graph.answers(self.graph.float_layers, self.graph.questions).values():
            if isinstance(artefact, Answers) and not self.store.has(artefact):
                artefact.table.check(self.store.tools)

    def check_leaks(self) -> None:
        """A DataError if questions are asked that the model is calibrated on."""
        for artefact in self.graph.shared_questions():
            check_shared(self.store.get(artefact))


def workbench(config: RunConfig) -> Workbench:
    """What a run is made with."""
    clock = StageClock(Display())
    store = Store(Path(config.paths.outputs) / "store", clock, HOLDINGS)
    clock.store = store
    with clock.display.working(f"reading {config.model.name}"):  # all its bytes, the first time
        graph = Graph(config, store.root)
    store.about = graph.checkpoint.digest
    folder = graph.checkpoint.folder
    weights = sum((folder / name).stat().st_size for name in shards_of(folder))
    clock.announcements["load"] = f"loading {config.model.name}, {human(weights)}"
    return Workbench(graph, store, clock)


def check_before(bench: Workbench) -> None:
    """A LuqError if a run cannot succeed, as far as that is known without its model."""
    _check_measured(bench.graph.config)
    check_space(bench.graph, bench.store)
    bench.check_questions()


class Plans(NamedTuple):
    """What is stored how: the decoder's layers, and what is packed beside them."""

    decoder: Chosen
    beside: PlannedParts


def choose(bench: Workbench) -> Plans:
    """Calibrate, profile, allocate: what the plans do not need is left out."""
    graph, store, clock = bench.graph, bench.store, bench.clock
    if graph.is_calibrated:
        with clock.stage("calibrate"):
            for calibration in graph.calibrations:
                store.get(calibration)
            bench.check_leaks()
    if graph.is_profiled:
        with clock.stage("profile"):
            for profile in graph.profiles:
                store.get(profile)
    with clock.stage("allocate"):
        part_plans = planned_parts(graph, store.get)
        chosen = allocate(graph, store.get)
    _show("allocation", str(chosen.allocation))
    if part_plans.parts:
        part_tiers = [f"{part} in {tier}" for part, tier in part_plans.tiers.items()]
        _show("beside it", ", ".join(part_tiers))
    return Plans(chosen, part_plans)


def _show(name: str, plan: str) -> None:
    """Print a plan; a long one on lines of its own, broken between layers."""
    if len(plan) <= SHORT_PLAN:
        console.out.print(f"  {name:<15}  {plan}")
        return
    console.out.print(f"  {name}")
    lines = textwrap.wrap(
        plan,
        console.out.width,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        console.out.print(line)


def execute(bench: Workbench, identity: RunIdentity) -> RunRecord:
    """The whole chain; returns the record."""
    started = time.time()
    reset_peak()
    graph, store, clock = bench.graph, bench.store, bench.clock
    config = graph.config
    check_before(bench)
    bench.check_text()
    chosen, part_plans = choose(bench)
    layers = graph.layers(chosen.allocation)
    sizes = bench.quantize(layers, "quantize")
    bench.quantize(graph.float_layers, "quantize 16-bit")
    end_walk(store.tools)
    part_sizes = bench.pack_parts(part_plans.parts)
    float_rest = store.get(graph.rest)
    answers = graph.answers(layers, graph.questions, part_plans.parts)
    float_answers = graph.answers(graph.float_layers, graph.questions)
    float_scores = bench.evaluate(float_answers, "evaluate 16-bit")
    scores = bench.evaluate(answers, "evaluate")
    with clock.stage("fidelity"):
        float_losses = graph.text_losses(graph.float_layers)
        if float_losses is not None:  # before the fidelity, which installs the 16-bit model too
            store.get(float_losses)
        fidelity = bench.measure(graph.fidelity(layers, graph.questions, part_plans.parts))
        measured_perplexity = bench.perplexity(layers, part_plans.parts)
    layer_scores = LayerScores(graph, store.get)
    seconds = dict(clock.seconds)
    low, high = config.quantizer.low, config.quantizer.high
    return RunRecord(
        key=graph.key,
        name=identity.name,
        command=identity.command,
        sweep=config.group,
        config=config,
        versions=store.used_versions(),
        git_sha=git_sha(),
        model_fingerprint=graph.checkpoint.digest,
        model_commit=graph.checkpoint.commit,
        device=devices.resolve(config.model.device),
        split=config.evaluation.split,
        subset=_asked_rows(bench, answers),
        prompt_version=prompts.VERSION,
        scorer_version=scorers.VERSION,
        calibration=_calibration_summary(bench),
        profile=layer_scores.profile if graph.is_profiled else [],
        order=layer_scores.order() if graph.is_profiled else [],
        allocation=str(chosen.allocation),
        tiers=list(chosen.allocation.tiers),
        other_tiers=list(chosen.allocation.others),
        plan=chosen.report,
        vision=part_plans.vision,
        layer_scores=layer_scores.recorded() if graph.is_profiled else {},
        draw_scores=layer_scores.recorded_draws() if graph.is_profiled else {},
        k=chosen.allocation.count(low) if low != high else len(layers),
        memory=memory(sizes, float_rest.ledger, peak_bytes(), part_sizes),
        **score_part(scores, float_scores, measured_perplexity)._asdict(),
        fidelity=fidelity,
        perplexity=measured_perplexity,
        artefacts=ArtefactKeys(
            calibration=graph.calibration.key if graph.is_calibrated else None,
            profile=graph.profile.key if graph.is_profiled else None,
            layers=_keys(layers),
            float_layers=_keys(graph.float_layers),
            parts={part.part: part.key for part in part_plans.parts},
            answers={name: artefact.key for name, artefact in answers.items()},
            float_answers={name: artefact.key for name, artefact in float_answers.items()},
            used=store.used(),
        ),
        seconds=seconds,
        cached=dict(clock.cached),
        wall_seconds=sum(seconds.values()),
        finished=started + sum(seconds.values()),
    )


def _check_measured(config: RunConfig) -> None:
    """A ConfigError if nothing would be known of the packed model but its size."""
    if not config.evaluation.benchmarks and not config.evaluation.text_tokens:
        raise ConfigError(
            "nothing would be measured: evaluation.benchmarks is empty and "
            "evaluation.text_tokens is 0. Name benchmarks, or set evaluation.text_tokens=131072"
        )


def _calibration_summary(bench: Workbench) -> CalibrationSummary | None:
    """What the model was calibrated on; None if nothing of the run needs data."""
    if not bench.graph.is_calibrated:
        return None
    calibration = bench.store.get(bench.graph.calibration)
    return CalibrationSummary(calibration.hash, calibration.tokens, calibration.alpha)


def _interval(values: tuple[float, float, float] | None) -> Interval | None:
    return None if values is None else Interval(*values)


def _keys(layers: Layers) -> list[str]:
    return [layer.key for layer in layers]


def _asked_rows(bench: Workbench, answers: dict[str, Artefact[Kept]]) -> dict[str, str]:
    """Digest of the rows that were asked, by benchmark."""
    rows: dict[str, str] = {}
    for benchmark, artefact in answers.items():
        stored_answers = bench.store.get(artefact)
        rows[benchmark] = digest([row["id"] for row in rows_of(stored_answers)])
    return rows
