"""llama.cpp's blocks, with error feedback."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from luq.config.checks import require
from luq.config.quantizer.base import TierConfig, check_block, check_damping, check_steps


class GgufType(NamedTuple):
    """A type of GGUF tensors: bits per weight, and weights of a block.

    `fallback`: what llama.cpp takes for rows that are not whole blocks. `has_codebook`: its codes
    are points of several weights.
    """

    bits: float
    weights: int
    fallback: str | None = None
    has_codebook: bool = False


GGUF_TYPES = {
    "q8_0": GgufType(8.5, 32),
    "q6_k": GgufType(6.5625, 256, "q8_0"),
    "q5_k": GgufType(5.5, 256, "q5_1"),
    "q5_1": GgufType(6.0, 32),
    "q5_0": GgufType(5.5, 32),
    "q4_k": GgufType(4.5, 256, "q5_0"),
    "q4_1": GgufType(5.0, 32),
    "q4_0": GgufType(4.5, 32),
    "iq4_nl": GgufType(4.5, 32),
    "iq4_xs": GgufType(4.25, 256, "iq4_nl"),
    "q3_k": GgufType(3.4375, 256, "iq4_nl"),
    "q2_k": GgufType(2.625, 256, "iq4_nl"),
    "tq2_0": GgufType(2.0625, 256, "q4_0"),
    "tq1_0": GgufType(1.6875, 256, "q4_0"),
    "iq3_s": GgufType(3.4375, 256, "iq4_nl", has_codebook=True),
    "iq3_xxs": GgufType(3.0625, 256, "iq4_nl", has_codebook=True),
    "iq2_s": GgufType(2.5625, 256, "iq4_nl", has_codebook=True),
    "iq2_xs": GgufType(2.3125, 256, "iq4_nl", has_codebook=True),
    "iq2_xxs": GgufType(2.0625, 256, "iq4_nl", has_codebook=True),
    "iq1_m": GgufType(1.75, 256, "iq4_nl", has_codebook=True),
    "iq1_s": GgufType(1.5625, 256, "iq4_nl", has_codebook=True),
}


@dataclass(frozen=True)
class GgufTier(TierConfig):
    """A type of GGUF tensors, coded column by column with error feedback."""

    method: ClassVar[str] = "gguf"
    decodes_rows: ClassVar[bool] = True
    type: str = "q4_k"
    # Take llama.cpp's type for rows that are not whole blocks, instead of an error.
    fallback: bool = False
    act_order: bool = True  # columns of large activations first
    # Shrink factors tried per block, each with the numbers that then fit best; 0: no search.
    clip_steps: int = 5
    descent: int = 0  # passes of coordinate descent over the codes after the sweep
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128  # columns whose errors reach the later ones at once
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.type in GGUF_TYPES, "tier.type", self.type, f"one of {', '.join(GGUF_TYPES)}")
        check_steps("clip_steps", self.clip_steps)
        check_steps("descent", self.descent)
        has_descent = self.descent == 0 or not GGUF_TYPES[self.type].has_codebook
        require(has_descent, "tier.descent", self.descent, f"0 for {self.type}")
        check_block(self.block)
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        return GGUF_TYPES[self.type].bits

    def type_of_rows(self, columns: int) -> str | None:
        """The type of rows of so many weights; None if they have none."""
        names = [self.type]
        fallback = GGUF_TYPES[self.type].fallback
        if self.fallback and fallback is not None:
            names.append(fallback)
        return next((name for name in names if columns % GGUF_TYPES[name].weights == 0), None)

    def refusal(self, columns: int) -> str | None:
        if self.type_of_rows(columns) is not None:
            return None
        kind = GGUF_TYPES[self.type]
        reason = (
            f"has rows of {columns} weights, and {self.type} needs whole blocks of {kind.weights}"
        )
        fallback = kind.fallback
        if fallback is None or columns % GGUF_TYPES[fallback].weights:
            return f"{reason}. Use a tier that takes any rows, such as gptq4 or trellis4"
        return (
            f"{reason}. llama.cpp takes {fallback} there ({GGUF_TYPES[fallback].bits:g} bits per "
            "weight), and so does this tier with fallback: true"
        )
