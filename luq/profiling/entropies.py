"""What a profile says of one layer, as plain numbers. Needs no torch: records read it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import NamedTuple

from luq.config import ProfileConfig
from luq.errors import ConfigError

SUBSAMPLE = 0.8  # of the smallest modality's vectors, so that each seed draws others
VECTORS_PER_CLUSTER = 5  # on average, at least; with fewer, H says how many vectors there are


@dataclass(frozen=True)
class LayerEntropy:
    """One layer's entropy over one modality: mean and standard deviation over seeds, in bits.

    Of several draws of the calibration set (`over_draws`): over the draws.
    """

    layer: int
    modality: str  # all, image or text
    mean: float
    spread: float
    tokens: int  # output vectors that were clustered
    clusters: int  # K of K-means


def over_draws(profiles: Sequence[list[LayerEntropy]]) -> list[LayerEntropy]:
    """The profiles of several calibration sets as one.

    Args:
        profiles: Of each set. One alone stays as it is.

    Returns:
        For each layer and modality the mean over the sets, the standard deviation of the sets'
        means, and the fewest vectors and clusters of a set. A modality that a set lacks is left
        out.
    """
    first = profiles[0]
    if len(profiles) == 1:
        return first
    tables = [{(entry.layer, entry.modality): entry for entry in profile} for profile in profiles]
    averaged: list[LayerEntropy] = []
    for entry in first:
        place = (entry.layer, entry.modality)
        of_sets = [table[place] for table in tables if place in table]
        if len(of_sets) < len(profiles):
            continue
        means = [of_set.mean for of_set in of_sets]
        averaged.append(
            replace(
                entry,
                mean=fmean(means),
                spread=pstdev(means),
                tokens=min(of_set.tokens for of_set in of_sets),
                clusters=min(of_set.clusters for of_set in of_sets),
            )
        )
    return averaged


class Subsample(NamedTuple):
    """What K-means is given of each layer and modality."""

    size: int  # vectors
    clusters: int  # K


def subsample_of(vectors: Iterable[int], clusters: int) -> Subsample:
    """How many vectors are clustered of each layer and modality, in how many clusters.

    The default K is the paper's, for its 262,144 tokens: of fewer it is as many as they fill. A K
    that was asked for is taken or refused.

    Args:
        vectors: How many there are, by modality.
        clusters: K of K-means.

    Raises:
        ConfigError: They are too few for so many clusters.
    """
    fewest = min(vectors)
    size = max(2, int(SUBSAMPLE * fewest))
    largest_clusters = size // VECTORS_PER_CLUSTER
    if clusters <= largest_clusters:
        return Subsample(size, clusters)
    if clusters == ProfileConfig.clusters:
        return Subsample(size, max(2, largest_clusters))
    raise ConfigError(
        f"profile.clusters={clusters} is not possible: the modality with fewest calibration "
        f"tokens has {fewest} output vectors per layer, of which {size} are clustered at a "
        f"time, at least {VECTORS_PER_CLUSTER} in each cluster. Use profile.clusters="
        f"{largest_clusters} or less, or more profile.tokens and calibration.tokens"
    )
