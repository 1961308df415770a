"""Numbers from kept rows: fidelity and perplexity with their intervals. Needs no torch."""

import math
from typing import NamedTuple

from luq.evaluation.compare import bootstrap
from luq.evaluation.predictions import FidelityRow
from luq.evaluation.scorers.summary import mean

LARGEST_EXPONENT = 700.0  # of e in a float


class FidelitySummary(NamedTuple):
    """Means over n questions with their 95 % bootstrap intervals; None for no question."""

    n: int
    kl: tuple[float, float, float] | None  # nats per answer token
    agreement: tuple[float, float, float] | None  # share of tokens with the same first choice
    loglik: tuple[float, float, float] | None  # nats per answer


def summarise_fidelity(rows: list[FidelityRow]) -> FidelitySummary:
    """The means of one benchmark's fidelity rows."""
    if not rows:
        return FidelitySummary(0, None, None, None)
    return FidelitySummary(
        len(rows),
        bootstrap([row["kl"] for row in rows]),
        bootstrap([row["agreement"] for row in rows]),
        bootstrap([row["loglik"] for row in rows]),
    )


def mean_divergence(benchmarks: list[list[FidelityRow]]) -> float:
    """Mean over benchmarks of their mean KL; those without a row are left out."""
    summaries = [summarise_fidelity(rows) for rows in benchmarks]
    return mean([summary.kl[0] for summary in summaries if summary.kl is not None])


class PerplexityInterval(NamedTuple):
    """Perplexity with its 95 % interval over sequences, and how many tokens it is over."""

    value: float
    low: float
    high: float
    tokens: int


def perplexity(losses: list[float], length: int) -> PerplexityInterval:
    """exp of the mean loss of sequences of `length` tokens."""
    value, low, high = (math.exp(min(loss, LARGEST_EXPONENT)) for loss in bootstrap(losses))
    return PerplexityInterval(value, low, high, len(losses) * (length - 1))


def perplexity_ratio(losses: list[float], reference: list[float]) -> tuple[float, float, float]:
    """Perplexity over that of another model on the same sequences, with its 95 % interval.

    exp(mean(loss - reference loss)): sequences are resampled as pairs, so that what makes a
    passage hard for both cancels.
    """
    pairs = zip(losses, reference, strict=True)
    differences = [loss - reference_loss for loss, reference_loss in pairs]
    mean_ratio, low, high = (
        math.exp(min(difference, LARGEST_EXPONENT)) for difference in bootstrap(differences)
    )
    return mean_ratio, low, high
