"""How layers are measured."""

from dataclasses import dataclass, field

from luq.config.checks import require_between, require_count, require_distinct, require_seed
from luq.config.order import require_order

MOST_REPETITIONS = 10_000  # each is a K-means of every layer


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
        require_distinct("profile.orders", self.orders)
        require_count("profile.samples", self.samples, 1)
        require_count("profile.clusters", self.clusters, 2)
        require_count("profile.tokens", self.tokens, 64)
        require_between(
            "profile.seeds", self.seeds, 1, MOST_REPETITIONS, f"in [1, {MOST_REPETITIONS}]"
        )
        require_seed("profile.seed", self.seed)
