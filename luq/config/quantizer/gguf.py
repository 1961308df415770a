"""llama.cpp's blocks, with error feedback."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.checks import require
from luq.config.quantizer.base import TierConfig, check_block, check_damping, check_steps

# Bits per weight of llama.cpp's types, as `luq.formats.gguf_blocks` has them.
GGUF_TYPES = {
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "q5_k": 5.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_k": 4.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
    "iq4_nl": 4.5,
    "q3_k": 3.4375,
    "q2_k": 2.625,
    "tq2_0": 2.0625,
    "tq1_0": 1.6875,
}


@dataclass(frozen=True)
class GgufTier(TierConfig):
    """A type of GGUF tensors, coded column by column with error feedback."""

    method: ClassVar[str] = "gguf"
    decodes_rows: ClassVar[bool] = True
    type: str = "q4_k"
    # Where rows are not whole blocks of 256 weights: take llama.cpp's type for such rows.
    fallback: bool = False
    act_order: bool = True  # columns of large activations first
    clip_steps: int = 5  # shrink factors tried per block, with the numbers that fit best; 0: none
    descent: int = 0  # passes of coordinate descent over the codes after the sweep
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128  # columns whose errors reach the later ones at once
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.type in GGUF_TYPES, "tier.type", self.type, f"one of {', '.join(GGUF_TYPES)}")
        check_steps("clip_steps", self.clip_steps)
        check_steps("descent", self.descent)
        check_block(self.block)
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        return GGUF_TYPES[self.type]
