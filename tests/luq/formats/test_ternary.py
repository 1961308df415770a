import math

import pytest
import torch

from luq.errors import StoreError
from luq.formats.ternary import TernaryWeight
from tests.luq.formats.weights import damaged, ternaries


def decode(weight: TernaryWeight) -> torch.Tensor:
    """(digit - 1) * scale, digit by digit."""
    rows, columns = weight.shape
    scales = weight.buffers["scales"]
    size = weight.meta.get("group_size", columns // scales.shape[1])
    decoded = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            position = row * columns + column
            digit = int(weight.buffers["codes"][position // 5]) // 3 ** (position % 5) % 3
            group = column // size
            decoded[row, column] = (digit - 1) * scales[row, group].float()
    return decoded


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
def test_the_format_is_what_it_says(rows: int, columns: int, groups: int, size: int | None) -> None:
    weight = ternaries(rows, columns, groups, size)
    assert torch.equal(weight.dequantize(), decode(weight))
    assert weight.nominal_bits == math.log2(3)
    assert weight.ledger() == {"codes": -(-rows * columns // 5), "scales": 2 * rows * groups}


def test_groups_that_do_not_divide_are_refused() -> None:
    for groups in (0, 5):
        with pytest.raises(StoreError, match="divide"):
            damaged(ternaries(4, 12, 2), "scales", torch.ones(4, groups).half())
