"""Every format that a file may hold, by name."""

from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.binary import BinaryWeight
from luq.formats.float16 import FloatWeight
from luq.formats.gguf import GgufWeight
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
    "gguf": GgufWeight,
}

ENTRY_POINTS = "luq.formats"  # of installed packages: a format's name -> its class


def register(kind: type[PackedWeight]) -> type[PackedWeight]:
    """Make a format of the user's own known to this process; for use as a decorator.

    Args:
        kind: the format's class. Whoever reads its files imports the module that registers it, or
            installs a package that names the class among its entry points `luq.formats`.

    Raises:
        StoreError: another class has its name.
    """
    registered = FORMATS.get(kind.format)
    is_same = registered is None or f"{registered.__module__}.{registered.__qualname__}" == (
        f"{kind.__module__}.{kind.__qualname__}"
    )
    if not is_same:
        raise StoreError(f"{kind.__name__} has the name {kind.format!r} of another format")
    FORMATS[kind.format] = kind
    return kind


def _register_installed(name: str) -> None:
    """Look for a format among the entry points of installed packages."""
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        register(entry.load())


def restore(
    name: str, buffers: dict[str, Tensor], shape: tuple[int, int], **meta: Any
) -> PackedWeight:
    """The packed weight of format `name` around loaded buffers.

    Raises:
        StoreError: There is no such format, or the buffers are not what it stores.
    """
    if name not in FORMATS:
        _register_installed(name)
    if name not in FORMATS:
        format_names = ", ".join(FORMATS)
        raise StoreError(
            f"packed weight has the unknown format {name!r}; this version reads {format_names}. "
            "One of your own: import the module that registers it first, or install its package"
        )
    return FORMATS[name](buffers, shape, **meta)
