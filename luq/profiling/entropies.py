"""What a profile says of one layer, as plain numbers. Needs no torch: records read it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from luq.config import ProfileConfig
from luq.errors import ConfigError

SUBSAMPLE = 0.8  # of the smallest modality's vectors, so that each seed draws others
VECTORS_PER_CLUSTER = 5  # on average, at least; with fewer, H says how many vectors there are


@dataclass(frozen=True)
class LayerEntropy:
    """One layer's entropy over one modality: mean and standard deviation over seeds, in bits."""

    layer: int
    modality: str  # all, image or text
    mean: float
    spread: float
    tokens: int  # output vectors that were clustered
    clusters: int  # K of K-means


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
