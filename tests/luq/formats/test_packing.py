import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luq.formats.packing import (
    bytes_of_bits,
    bytes_of_trits,
    pack_bits,
    pack_codes,
    pack_trits,
    unpack_bits,
    unpack_codes,
    unpack_trits,
)


@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_unpack_is_the_identity(rows: int, columns: int, bits: int, seed: int) -> None:
    codes = torch.randint(
        0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed)
    )
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == bits * -(-rows * columns // 8)
    assert torch.equal(unpack_codes(packed, (rows, columns)).long(), codes)


def test_bits_are_stored_lowest_first() -> None:
    mask = torch.tensor([True, False, False, False, False, False, False, True, True])
    assert pack_bits(mask).tolist() == [129, 1]
    assert torch.equal(unpack_bits(pack_bits(mask), (9,)), mask)


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bits"):
        pack_codes(torch.tensor([0, 4]), 2)
    with pytest.raises(ValueError, match="2 bits"):
        pack_codes(torch.tensor([0, -1]), 2)


def test_bytes_are_rounded_up() -> None:
    assert [bytes_of_bits(count) for count in (0, 1, 8, 9)] == [0, 1, 1, 2]
    assert [bytes_of_trits(count) for count in (0, 1, 5, 6)] == [0, 1, 1, 2]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_trits_are_five_to_a_byte_and_come_back(rows: int, columns: int, seed: int) -> None:
    codes = torch.randint(0, 3, (rows, columns), generator=torch.Generator().manual_seed(seed))
    packed = pack_trits(codes)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-rows * columns // 5)
    assert torch.equal(unpack_trits(packed, (rows, columns)).long(), codes)
    assert int(packed[0]) == sum(int(c) * 3**i for i, c in enumerate(codes.reshape(-1)[:5]))
