"""16-bit weights: no quantization."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.quantizer.base import TierConfig


@dataclass(frozen=True)
class Float16Tier(TierConfig):
    """The checkpoint's own 16-bit weights, by reference, or in a file like any tier's."""

    method: ClassVar[str] = "float16"
    data_free: ClassVar[bool] = True
    is_exact: ClassVar[bool] = True
    decodes_rows: ClassVar[bool] = True

    @property
    def least_bits(self) -> float:
        return 16.0
