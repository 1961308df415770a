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
    groups = scales.shape[1]
    decoded = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            position = row * columns + column
            digit = int(weight.buffers["codes"][position // 5]) // 3 ** (position % 5) % 3
            group = column // (columns // groups)
            decoded[row, column] = (digit - 1) * scales[row, group].float()
    return decoded


@pytest.mark.parametrize(("rows", "columns", "groups"), [(5, 12, 3), (3, 7, 7), (2, 9, 1)])
def test_the_format_is_what_it_says(rows: int, columns: int, groups: int) -> None:
    weight = ternaries(rows, columns, groups)
    assert torch.equal(weight.dequantize(), decode(weight))
    assert weight.nominal_bits == math.log2(3)
    assert weight.ledger() == {"codes": -(-rows * columns // 5), "scales": 2 * rows * groups}


def test_groups_that_do_not_divide_are_refused() -> None:
    for groups in (0, 5):
        with pytest.raises(StoreError, match="divide"):
            damaged(ternaries(4, 12, 2), "scales", torch.ones(4, groups).half())
