"""Which questions are asked, and how many."""

from dataclasses import dataclass, field

from luq import registry
from luq.config.checks import require

SPLITS = ("report", "selection", "all")


@dataclass(frozen=True)
class EvaluationConfig:
    """Which questions are asked, and how many."""

    name: str
    benchmarks: list[str]
    data: str = "pocket"  # "pocket", "hub", or a folder of <benchmark>.parquet or <benchmark>/
    sources: dict[str, str] = field(
        default_factory=dict
    )  # benchmark -> a file or folder (or hub) for it alone
    organisation: str = "lmms-lab-encoder"  # whose copies of the datasets on the hub are read
    fallback: str = "lmms-lab"  # their old name
    split: str = "report"  # report, selection (for choosing a plan) or all
    samples: int | None = None  # units per benchmark; null: all
    batch_size: int = 32
    strict: bool = False  # the first bad row stops the evaluation, instead of counting as wrong
    fidelity: int | None = 0  # units per benchmark for KL and likelihoods; null: as many as samples
    text: str = "pocket"  # held-out text for perplexity: "pocket", "wikitext" or a text file
    text_tokens: int = 0  # how much of it; 0: no perplexity
    text_length: int = 2048  # tokens per sequence
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.benchmarks, *self.sources):
            registry.check("benchmark", name)
        require(
            self.samples is None or self.samples >= 1,
            "evaluation.samples",
            self.samples,
            "at least 1, or null for all",
        )
        require(
            self.fidelity is None or self.fidelity >= 0,
            "evaluation.fidelity",
            self.fidelity,
            "0 or more, or null for all",
        )
        require(self.split in SPLITS, "evaluation.split", self.split, f"one of {', '.join(SPLITS)}")
        for name, least in (("text_tokens", 0), ("text_length", 2), ("batch_size", 1)):
            require(
                getattr(self, name) >= least,
                f"evaluation.{name}",
                getattr(self, name),
                f"at least {least}",
            )
