"""How layers are ranked."""

from dataclasses import dataclass

from luq.config.checks import require, require_between, require_seed
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
# Those whose scores are means over the tokens of a modality.
ORDERS_OVER_TOKENS = ("entropy", "entropy_reverse", "variance", "lim")
MODALITIES = ("all", "image", "text")
MOST_DRAWS = 1000  # each is a calibration set and a profile


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
    # Calibration sets over which the scores of entropy, variance and lim are means: with
    # calibration.seed and profile.seed, with the next seeds, and so on. Layers are quantized with
    # the first.
    draws: int = 1

    def __post_init__(self) -> None:
        require_order(self.name)
        require(
            self.modality in MODALITIES,
            "order.modality",
            self.modality,
            f"one of {', '.join(MODALITIES)}",
        )
        require_seed("order.seed", self.seed)
        require_between("order.draws", self.draws, 1, MOST_DRAWS, f"in [1, {MOST_DRAWS}]")
