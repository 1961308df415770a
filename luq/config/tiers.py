"""How layers are stored."""

from dataclasses import dataclass, field

from luq import registry
from luq.config.checks import require
from luq.errors import unknown

PROPAGATIONS = ("exact", "high", "float")


@dataclass(frozen=True)
class TierConfig:
    """How a layer is stored: a method and its parameters."""

    method: str
    bits: int = 4
    group_size: int = 128  # columns per group; 0: one group per row
    symmetric: bool = False
    act_order: bool = False
    static_groups: bool = False
    clip_steps: int = 0  # shrink factors tried per group; 0: no clip search
    descent: int = 0  # gptq, ternary: passes of coordinate descent over the codes after the sweep
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128
    window: int = (
        12  # trellis: bits that a weight is looked up by; each one more takes twice the time
    )
    true_sequential: bool = True
    faithful: bool = False  # billm: as the released code does it

    def __post_init__(self) -> None:
        registry.check("quantizer", self.method)
        widths = (1, 2, 3, 4) if self.method == "trellis" else (2, 3, 4, 8)
        require(
            self.bits in widths,
            "tier.bits",
            self.bits,
            f"{widths[0]}, {widths[1]}, {widths[2]} or {widths[3]}",
        )
        require(self.bits + 4 <= self.window <= 16, "tier.window", self.window, "in [bits + 4, 16]")
        require(
            self.group_size >= 0,
            "tier.group_size",
            self.group_size,
            "0 (one group per row) or a divisor of the columns",
        )
        require(self.descent >= 0, "tier.descent", self.descent, "0 or more")
        require(self.block >= 1, "tier.block", self.block, "at least 1")
        require(0 <= self.damping <= 1, "tier.damping", self.damping, "in [0, 1]")


@dataclass(frozen=True)
class QuantizerConfig:
    """The two tiers of a run, by name, and the table of tiers."""

    low: str
    high: str
    propagation: str = "exact"
    tiers: dict[str, TierConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, name in (("low", self.low), ("high", self.high)):
            if name not in self.tiers:
                raise unknown(f"tier in quantizer.{key}", name, self.tiers)
        require(
            self.propagation in PROPAGATIONS,
            "quantizer.propagation",
            self.propagation,
            f"one of {', '.join(PROPAGATIONS)}",
        )
