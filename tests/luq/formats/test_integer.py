from collections.abc import Callable

import pytest
import torch

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.integer import IntegerWeight
from tests.luq.formats.weights import bit, damaged, integers, ternaries


def decode(weight: IntegerWeight) -> torch.Tensor:
    """(code - zero) * scale, bit by bit."""
    rows, columns = weight.shape
    codes, scales = weight.buffers["codes"], weight.buffers["scales"]
    groups = scales.shape[1]
    size = weight.meta.get("group_size", columns // groups)
    decoded = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            group = column // size
            code = sum(bit(p, row * columns + column) << b for b, p in enumerate(codes))
            zero = 2 ** (len(codes) - 1)
            if "zeros" in weight.buffers:
                planes = weight.buffers["zeros"]
                zero = sum(bit(p, row * groups + group) << b for b, p in enumerate(planes))
            decoded[row, column] = (code - zero) * scales[row, group].float()
    return decoded


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "groups", "size"),
    [
        (5, 12, 3, None),
        (3, 7, 7, None),
        (2, 9, 1, None),
        (3, 13, 3, 5),
        (5, 12, 2, 7),
        (1, 3, 2, 2),
    ],
)
def test_the_format_is_what_it_says(
    bits: int, symmetric: bool, rows: int, columns: int, groups: int, size: int | None
) -> None:
    weight = integers(rows, columns, bits, groups, symmetric, size)
    assert torch.equal(weight.dequantize(), decode(weight))
    assert weight.nominal_bits == bits


def test_the_grid_is_what_other_layouts_need() -> None:
    weight = integers(5, 12, 3, 4, symmetric=False)
    grid = weight.integer_grid()
    assert (grid.bits, grid.groups, grid.group_size, grid.symmetric) == (3, 4, 3, False)
    zeros = grid.zeros()
    assert zeros is not None
    centred = grid.codes().float() - zeros.float().repeat_interleave(3, 1)
    assert torch.equal(centred * grid.scales.float().repeat_interleave(3, 1), weight.dequantize())
    symmetric = integers(5, 12, 3, 4, symmetric=True).integer_grid()
    assert symmetric.symmetric
    assert symmetric.zeros() is None
    assert weight.stored_floats() is None


def test_ledger_classes() -> None:
    weight = integers(4, 16, 3, 2, symmetric=False)
    assert weight.ledger() == {"codes": 24, "scales": 16, "zeros": 3}


def test_planes_and_groups_that_cannot_be_are_refused() -> None:
    weight = integers(4, 16, 3, 2, symmetric=True)
    for bits in (0, 9, 99):
        planes = torch.zeros(bits, 8, dtype=torch.uint8)
        with pytest.raises(StoreError, match="1 to 8 planes"):
            damaged(weight, "codes", planes)
    for groups in (0, 3, 5):
        with pytest.raises(StoreError, match="divide"):
            damaged(weight, "scales", torch.ones(4, groups).half())


@pytest.mark.parametrize(
    "make", [lambda: integers(4, 13, 3, 3, False, 5), lambda: ternaries(4, 13, 3, 5)]
)
def test_a_group_size_that_the_scales_do_not_have_is_refused(
    make: Callable[[], PackedWeight],
) -> None:
    weight = make()
    for size in (0, -5, 14, True, 5.0, "5", None):
        with pytest.raises(
            StoreError, match=r"meta 'group_size' must be a whole number in \[1, 13\]"
        ):
            type(weight)(weight.buffers, weight.shape, group_size=size)
    for size in (3, 7, 13):  # as many columns make other numbers of groups
        with pytest.raises(StoreError, match=rf"buffer 'scales' must be for \d groups of {size}"):
            type(weight)(weight.buffers, weight.shape, group_size=size)
    with pytest.raises(StoreError, match="divide"):
        type(weight)(weight.buffers, weight.shape)
