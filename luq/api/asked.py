"""`luq.evaluate`: benchmarks, asked of a packed model or of the 16-bit one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luq.api.graph import FLOAT, GraphSettings, LoadedGraph, quantizer_of
from luq.api.loaded import LoadedModel
from luq.api.packed import PackedModel
from luq.calibration.artefacts import Calibration, check_shared
from luq.config import EvaluationConfig
from luq.evaluation.answers import Scored, scored
from luq.graph import check_sight, question_set, shared_questions
from luq.quantization.artefacts import Parts


@dataclass(frozen=True)
class Score:
    """What a model scores on a benchmark: `score` and `stderr` in percent of the maximum.

    `metrics` go by their usual names. `errors` counts the rows that could not be asked, which count
    as wrong; `collapsed` says why the answers are no model's any more, and is empty if they are.
    """

    benchmark: str
    score: float
    stderr: float
    n: int
    metrics: dict[str, float] = field(repr=False)
    errors: int = 0
    collapsed: str = ""


def evaluate(
    model: LoadedModel | PackedModel,
    benchmarks: Sequence[str],
    *,
    data: str | Path = "hub",
    sources: Mapping[str, str | Path] | None = None,
    include_path: str | Path | None = None,
    metrics: Mapping[str, str] | None = None,
    samples: int | None = None,
    split: str = EvaluationConfig.split,
    protocol: str = EvaluationConfig.protocol,
    batch_size: int = EvaluationConfig.batch_size,
    strict: bool = False,
    seed: int = 0,
) -> dict[str, Score]:
    """Ask benchmarks' questions; what a packed model was calibrated on is refused.

    Args:
        model: A packed model, or a loaded one, which is asked in 16 bit.
        benchmarks: Their names, such as `textvqa` (`luq.config.evaluation.BENCHMARKS`), or tasks of
            lm-eval, such as `mmmu_val` or `arc_easy`.
        data: Where questions come from: hub, pocket, or a folder with BENCHMARK.parquet or the
            clone of a dataset as BENCHMARK/.
        sources: Benchmark -> a source for it alone.
        include_path: A folder with tasks of your own, as lm-eval's YAML.
        metrics: Task of lm-eval -> the metric that is its score; without one the task's first.
        samples: Questions (or units of questions) per benchmark; None: all.
        split: report, selection or all.
        protocol: Whose wording: llava or qwen.
        batch_size: Of questions; another one can change last bits.
        strict: The first question that cannot be asked is an error, instead of counting as wrong.
        seed: Of which questions `samples` chooses.

    Returns:
        Benchmark -> its score.

    Raises:
        ConfigError: A benchmark or a setting is unknown.
        DataError: Questions cannot be read, or the model was calibrated on some of them.
    """
    if isinstance(benchmarks, str):
        benchmarks = [benchmarks]
    config = EvaluationConfig(
        name="api",
        benchmarks=list(benchmarks),
        data=str(data),
        sources={name: str(source) for name, source in (sources or {}).items()},
        include_path=None if include_path is None else str(include_path),
        metrics=dict(metrics or {}),
        split=split,
        protocol=protocol,
        samples=samples,
        batch_size=batch_size,
        strict=strict,
        seed=seed,
    )
    calibrations: list[Calibration] = []
    if isinstance(model, LoadedModel):
        source = model
        graph = LoadedGraph(model, GraphSettings(quantizer_of(FLOAT, FLOAT)), None)
        layers = graph.float_layers
        parts: Parts = ()
    else:
        source = model.source
        graph = model.graph
        layers = model.layers
        parts = model.beside.parts
        calibrations = model.seen
    store = source.store
    check_sight(source.checkpoint, config.benchmarks)
    questions = question_set(config, store.root)
    for calibration in calibrations:
        for artefact in shared_questions(calibration, questions):
            check_shared(store.get(artefact))
    scores: dict[str, Score] = {}
    with _own_generation(source.vlm.model):
        for name, answers in graph.answers(layers, questions, parts).items():
            scores[name] = _score(name, scored(name, store.get(answers), answers.key))
    return scores


def _score(benchmark: str, result: Scored) -> Score:
    summary = result.summary
    return Score(
        benchmark=benchmark,
        score=summary.score,
        stderr=summary.stderr,
        n=summary.n,
        metrics=summary.metrics,
        errors=result.errors,
        collapsed=result.collapsed,
    )


@contextmanager
def _own_generation(model: Any) -> Iterator[None]:
    """Benchmarks are answered greedily; afterwards the model generates as its user set it."""
    config = model.generation_config
    try:
        yield
    finally:
        model.generation_config = config
