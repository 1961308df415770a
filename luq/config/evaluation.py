"""Which questions are asked, and how many."""

from dataclasses import dataclass, field

from luq.config.checks import (
    is_plain_name,
    require,
    require_compute,
    require_count,
    require_distinct,
    require_seed,
    require_text,
)
from luq.errors import unknown

# Each has a task in luq/questions/tasks and a scorer in luq/evaluation/scorers.
BENCHMARKS = (
    "mme",
    "mmbench",
    "textvqa",
    "textvqa_ocr",
    "vqav2",
    "gqa",
    "pope",
    "chartqa",
    "docvqa",
    "mathvista",
)
# Whose wording questions have. Those that have none of a protocol's own are asked as in the first.
PROTOCOLS = ("llava", "qwen")
SPLITS = ("report", "selection", "all")


def require_benchmark(name: str) -> None:
    """A ConfigError unless there is a built-in benchmark of this name."""
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)


def require_task_names(key: str, names: list[str]) -> None:
    """A ConfigError for what is no name of a benchmark, or stands there twice.

    Names that are none of `BENCHMARKS` are tasks of lm-eval: a run looks them up before any work.
    """
    for name in names:
        is_name = is_plain_name(name) and name == name.strip()
        require(is_name, key, name, "a list of names of benchmarks")
    require_distinct(key, names)


@dataclass(frozen=True)
class EvaluationConfig:
    """Which questions are asked, and how many."""

    name: str
    benchmarks: list[str]
    # Where questions come from: a plug-in (pocket), hub, or a folder that holds
    # <benchmark>.parquet or <benchmark>/ for each.
    data: str = "pocket"
    # benchmark -> a source for it alone: a file, or anything that `data` may be
    sources: dict[str, str] = field(default_factory=dict)
    # A folder with benchmarks of the user's own: tasks as lm-eval's YAML, by their names.
    include_path: str | None = None
    # task of lm-eval -> the metric that is its score, else its first one: acc_norm
    metrics: dict[str, str] = field(default_factory=dict)
    # Whose copies of the datasets on the hub are read, and under which name if there are none.
    organisation: str = "lmms-lab-encoder"
    fallback: str = "lmms-lab"
    # report, selection (for choosing a plan) or all
    split: str = "report"
    # whose wording: llava (LLaVA-1.5's and lmms-eval's) or qwen (Qwen2.5-VL's in VLMEvalKit)
    protocol: str = PROTOCOLS[0]
    # units per benchmark; None for all
    samples: int | None = None
    batch_size: int = 32
    # How questions and texts go through the model: model (in its own type), or bfloat16, whose
    # products are several times as fast where the processor has them. The head stays.
    compute: str = "model"
    # The first bad row stops the evaluation, instead of counting as wrong.
    strict: bool = False
    # units per benchmark for KL and likelihoods; None for as many as `samples`
    fidelity: int | None = 0
    # Held-out text for perplexity: a plug-in (pocket), wikitext, or a text file.
    text: str = "pocket"
    # how much of it; 0 for no perplexity
    text_tokens: int = 0
    # tokens per sequence
    text_length: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        require_task_names("evaluation.benchmarks", self.benchmarks)
        for name in self.sources:
            require_benchmark(name)
        require_text("evaluation.include_path", self.include_path)
        for name in self.metrics:
            is_asked = name in self.benchmarks and name not in BENCHMARKS
            allowed = "of a task of lm-eval that is among evaluation.benchmarks"
            require(is_asked, f"evaluation.metrics.{name}", self.metrics[name], allowed)
        require_count("evaluation.samples", self.samples, 1, "null for all")
        require_count("evaluation.fidelity", self.fidelity, 0, "null for all")
        require(self.split in SPLITS, "evaluation.split", self.split, f"one of {', '.join(SPLITS)}")
        require(
            self.protocol in PROTOCOLS,
            "evaluation.protocol",
            self.protocol,
            f"one of {', '.join(PROTOCOLS)}",
        )
        require_count("evaluation.text_tokens", self.text_tokens, 0)
        # One token predicts the next, so a sequence needs two.
        require_count("evaluation.text_length", self.text_length, 2)
        require(
            self.text_tokens == 0 or self.text_tokens >= self.text_length,
            "evaluation.text_tokens",
            self.text_tokens,
            f"0, or at least one sequence of evaluation.text_length={self.text_length}",
        )
        require_count("evaluation.batch_size", self.batch_size, 1)
        require_compute("evaluation.compute", self.compute)
        require_seed("evaluation.seed", self.seed)
        for name, source in (("data", self.data), ("text", self.text), *self.sources.items()):
            setting = f"sources.{name}" if name in self.sources else name
            require_text(f"evaluation.{setting}", source)
        require_text("evaluation.organisation", self.organisation)
        require_text("evaluation.fallback", self.fallback)
