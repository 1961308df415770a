"""How layers are ranked."""

from dataclasses import dataclass

from luq.config.checks import require, require_seed
from luq.errors import unknown

# Each is a function in luq/allocation/orders.py.
ORDERS = (
    "entropy",
    "entropy_reverse",
    "depth",
    "depth_reverse",
    "random",
    "variance",
    "lim",
    "zd",
    "kurtosis",
    "output_error",
    "kl",
    "delta_loss",
    "fisher",
)
MODALITIES = ("all", "image", "text")


def require_order(name: str) -> None:
    """A ConfigError unless there is an order of this name."""
    if name not in ORDERS:
        raise unknown("order", name, ORDERS)


@dataclass(frozen=True)
class OrderConfig:
    """A ranking of layers, most compressible first."""

    name: str = "entropy"
    # whose tokens entropy, variance and lim are over
    modality: str = "all"
    # of a random order
    seed: int = 0

    def __post_init__(self) -> None:
        require_order(self.name)
        require(
            self.modality in MODALITIES,
            "order.modality",
            self.modality,
            f"one of {', '.join(MODALITIES)}",
        )
        require_seed("order.seed", self.seed)
