"""Every format that a file may hold, by name."""

from typing import Any

from torch import Tensor

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.binary import BinaryWeight
from luq.formats.float16 import FloatWeight
from luq.formats.integer import IntegerWeight
from luq.formats.row_column import RowColumnWeight
from luq.formats.ternary import TernaryWeight
from luq.formats.trellis import TrellisWeight

FORMATS: dict[str, type[PackedWeight]] = {
    "float16": FloatWeight,
    "integer": IntegerWeight,
    "ternary": TernaryWeight,
    "binary": BinaryWeight,
    "row_column": RowColumnWeight,
    "trellis": TrellisWeight,
}


def restore(
    name: str, buffers: dict[str, Tensor], shape: tuple[int, int], **meta: Any
) -> PackedWeight:
    """The packed weight of format `name` around loaded buffers.

    Raises:
        StoreError: There is no such format, or the buffers are not what it stores.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise StoreError(
            f"packed weight has the unknown format {name!r}; this version reads {known}"
        )
    return FORMATS[name](buffers, shape, **meta)
