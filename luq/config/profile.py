"""How layers are measured."""

from dataclasses import dataclass, field

from luq import registry
from luq.config.checks import require


@dataclass(frozen=True)
class ProfileConfig:
    """How layer entropies are measured."""

    clusters: int = 100  # K of K-means
    tokens: int = 4096  # output vectors kept per layer and modality
    seeds: int = 3  # repetitions, each with its own subsample and K-means start
    samples: int = 8  # units per benchmark of the selection split for the one-at-a-time KL
    orders: list[str] = field(
        default_factory=list
    )  # that the profile compares beside the one that is used
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.orders:
            registry.check("order", name)
        for name, least in (("samples", 1), ("clusters", 2), ("tokens", 64), ("seeds", 1)):
            require(
                getattr(self, name) >= least,
                f"profile.{name}",
                getattr(self, name),
                f"at least {least}",
            )
