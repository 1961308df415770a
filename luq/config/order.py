"""How layers are ranked."""

from dataclasses import dataclass

from luq import registry
from luq.config.checks import require

MODALITIES = ("all", "image", "text")


@dataclass(frozen=True)
class OrderConfig:
    """A ranking of layers, most compressible first."""

    name: str = "entropy"
    modality: str = "all"  # whose tokens entropy, variance and lim are over
    seed: int = 0  # of a random order

    def __post_init__(self) -> None:
        registry.check("order", self.name)
        require(
            self.modality in MODALITIES,
            "order.modality",
            self.modality,
            f"one of {', '.join(MODALITIES)}",
        )
