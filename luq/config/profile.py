"""How layers are measured."""

from dataclasses import dataclass, field

from luq.config.checks import require
from luq.config.order import require_order


@dataclass(frozen=True)
class ProfileConfig:
    """How layer entropies are measured."""

    # K of K-means
    clusters: int = 100
    # output vectors kept per layer and modality
    tokens: int = 4096
    # repetitions, each with its own subsample and K-means start
    seeds: int = 3
    # units per benchmark of the selection split for the one-at-a-time KL
    samples: int = 8
    # that the profile compares beside the one that is used
    orders: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.orders:
            require_order(name)
        require(self.samples >= 1, "profile.samples", self.samples, "at least 1")
        require(self.clusters >= 2, "profile.clusters", self.clusters, "at least 2")
        require(self.tokens >= 64, "profile.tokens", self.tokens, "at least 64")
        require(self.seeds >= 1, "profile.seeds", self.seeds, "at least 1")
