import pytest
import torch

from luq.errors import StoreError
from luq.formats.packing import pack_bits
from luq.formats.row_column import RowColumnWeight
from tests.luq.formats.weights import bit, damaged, row_columns, sign


def decode(weight: RowColumnWeight) -> torch.Tensor:
    """The format as its documentation says it, bit by bit."""
    rows, columns = weight.shape
    b = weight.buffers
    salient = [bit(b["salient"], column) for column in range(columns)]
    count = sum(salient)
    decoded = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            first, second = b["row_scales"][row, column // weight.meta["block"]].float()
            scale = first * b["column_scales"][column].float()
            value = scale * sign(b["signs"], row * columns + column)
            if salient[column]:
                place = sum(salient[:column])
                residual_sign = sign(b["residual_signs"], row * count + place)
                value += second * b["residual_scales"][place].float() * residual_sign
            decoded[row, column] = value
    return decoded


@pytest.mark.parametrize(
    ("rows", "columns", "block", "share"), [(9, 20, 8, 0.3), (3, 13, 13, 1.0), (9, 16, 4, 0.0)]
)
def test_the_format_is_what_it_says(rows: int, columns: int, block: int, share: float) -> None:
    weight = row_columns(rows, columns, block, share)
    assert torch.equal(weight.dequantize(), decode(weight))
    count = len(weight.buffers["residual_scales"])
    assert weight.nominal_bits == 1 + count / columns
    scales = 4 * rows * -(-columns // block) + 2 * columns + 2 * count
    codes = -(-rows * columns // 8) + -(-rows * count // 8)
    assert weight.ledger() == {"codes": codes, "masks": -(-columns // 8), "scales": scales}


def test_more_marks_than_scales_never_reach_compiled_code() -> None:
    weight = row_columns(9, 20, 8, 0.3)
    contradicting = damaged(weight, "salient", pack_bits(torch.ones(20)))
    for read in (contradicting.check_content, contradicting.cpu_kernel):
        with pytest.raises(StoreError, match="marks of 20"):
            read()


def test_more_residual_scales_than_columns_are_refused() -> None:
    weight = row_columns(9, 20, 8, 0.3)
    with pytest.raises(StoreError, match="at most 20"):
        damaged(weight, "residual_scales", torch.ones(21).half())
