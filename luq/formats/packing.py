"""Bit planes: how small integers and masks are stored. `unpack(pack(x)) == x`, to the bit.

A tensor of n-bit integers becomes n planes; each plane is the flattened tensor's bits, eight to a
byte, lowest bit first, padded with zeros to whole bytes. Ternary digits are stored five to a byte.
"""

import torch
from jaxtyping import Bool, Int64, Integer, Shaped, UInt8
from torch import Tensor

BITS_PER_BYTE = 8
TRITS_PER_BYTE = 5  # 3^5 = 243 fits into a byte
CHUNK = 2**18  # codes that are packed at a time, whole bytes: they stay in a processor's cache


def bytes_of_bits(count: int) -> int:
    """Bytes that `count` bits take."""
    return -(-count // BITS_PER_BYTE)


def bytes_of_trits(count: int) -> int:
    """Bytes that `count` digits of base 3 take."""
    return -(-count // TRITS_PER_BYTE)


def code_ends(count: int, bits: float) -> Int64[Tensor, " count"]:
    """Bits of a stream up to each of `count` codes and with it: floor((t + 1) * bits).

    So codes of 1.25 bits have 1, 1, 1 and 2 bits. A multiple of 1/4 is exact.
    """
    return (torch.arange(1, count + 1, dtype=torch.float64) * bits).floor().long()


def code_widths(count: int, bits: float) -> Int64[Tensor, " count"]:
    """Bits of each of the first `count` codes of a stream."""
    return code_ends(count, bits).diff(prepend=torch.zeros(1, dtype=torch.int64))


def pack_bits(mask: Shaped[Tensor, "*shape"]) -> UInt8[Tensor, " bytes"]:
    """Booleans (or zeros and ones) of any shape -> uint8 [ceil(n / 8)]."""
    flat = mask.reshape(-1).to(torch.uint8)
    padding = -flat.numel() % BITS_PER_BYTE
    flat = torch.nn.functional.pad(flat, (0, padding)).view(-1, BITS_PER_BYTE)
    # byte = sum over i of 2^i bit_i
    places = 2 ** torch.arange(BITS_PER_BYTE, dtype=torch.uint8, device=mask.device)
    return (flat * places).sum(1, dtype=torch.int32).to(torch.uint8)


def unpack_bits(packed: UInt8[Tensor, " bytes"], shape: tuple[int, ...]) -> Bool[Tensor, "*shape"]:
    """uint8 [ceil(n / 8)] -> booleans of `shape`."""
    shifts = torch.arange(BITS_PER_BYTE, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    count = torch.Size(shape).numel()
    return bits.reshape(-1)[:count].reshape(shape).bool()


def pack_codes(codes: Shaped[Tensor, "*shape"], bits: int) -> UInt8[Tensor, "bits bytes"]:
    """Integers in [0, 2**bits) of any shape and number type -> uint8 [bits, ceil(n / 8)].

    Raises:
        ValueError: A code is outside.
    """
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < 2**bits):
        raise ValueError(f"codes outside [0, {2**bits}) cannot be stored in {bits} bits")
    flat = codes.reshape(-1)
    planes = torch.empty(bits, bytes_of_bits(len(flat)), dtype=torch.uint8, device=codes.device)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK].to(torch.uint8)
        first = start // BITS_PER_BYTE
        last = first + bytes_of_bits(len(part))
        for bit, plane in enumerate(planes):
            plane[first:last] = pack_bits((part >> bit) & 1)
    return planes


def unpack_codes(
    packed: UInt8[Tensor, "bits bytes"], shape: tuple[int, ...]
) -> UInt8[Tensor, "*shape"]:
    """uint8 [bits, ceil(n / 8)] -> uint8 integers of `shape`."""
    codes = torch.zeros(shape, dtype=torch.uint8, device=packed.device)
    for bit, plane in enumerate(packed):
        codes |= unpack_bits(plane, shape).to(torch.uint8) << bit
    return codes


def codes_at(
    packed: UInt8[Tensor, "bits bytes"], places: Int64[Tensor, "*shape"]
) -> UInt8[Tensor, "*shape"]:
    """The integers at some places of a flattened tensor that `pack_codes` packed."""
    codes = torch.zeros(places.shape, dtype=torch.uint8, device=packed.device)
    shifts = (places % BITS_PER_BYTE).to(torch.uint8)
    for bit, plane in enumerate(packed):
        codes |= ((plane[places // BITS_PER_BYTE] >> shifts) & 1) << bit
    return codes


def rows_of_codes(
    packed: UInt8[Tensor, "bits bytes"], shape: tuple[int, int], rows: Int64[Tensor, " n"]
) -> UInt8[Tensor, "n columns"]:
    """Some rows of a matrix of integers that `pack_codes` packed.

    Args:
        packed: the planes.
        shape: [rows, columns] of the matrix.
        rows: which of them.
    """
    columns = shape[1]
    if columns % BITS_PER_BYTE == 0:  # a row is whole bytes
        by_row = packed.view(len(packed), shape[0], columns // BITS_PER_BYTE)
        return unpack_codes(by_row[:, rows].flatten(1), (len(rows), columns))
    return codes_at(packed, places_of_rows(rows, columns))


def places_of_rows(rows: Int64[Tensor, " n"], columns: int) -> Int64[Tensor, "n columns"]:
    """Where the entries of some rows of a matrix stand in the flattened matrix."""
    return rows[:, None] * columns + torch.arange(columns, device=rows.device)


def pack_trits(codes: Shaped[Tensor, "*shape"]) -> UInt8[Tensor, " bytes"]:
    """Integers 0, 1, 2 of any shape -> uint8 [ceil(n / 5)].

    Five digits of base 3 a byte, lowest first, padded with zeros.
    """
    flat = codes.reshape(-1).int()
    padding = -flat.numel() % TRITS_PER_BYTE
    flat = torch.nn.functional.pad(flat, (0, padding)).view(-1, TRITS_PER_BYTE)
    # byte = sum over i of 3^i digit_i
    places = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.int32, device=codes.device)
    return (flat * places).sum(1, dtype=torch.int32).to(torch.uint8)


def unpack_trits(
    packed: UInt8[Tensor, " bytes"], shape: tuple[int, ...]
) -> Integer[Tensor, "*shape"]:
    """uint8 [ceil(n / 5)] -> uint8 integers 0, 1, 2 of `shape`."""
    places = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.uint8, device=packed.device)
    digits = packed.unsqueeze(-1) // places % 3  # floor(byte / 3^i) mod 3
    count = torch.Size(shape).numel()
    return digits.reshape(-1)[:count].reshape(shape)


def trits_at(
    packed: UInt8[Tensor, " bytes"], places: Int64[Tensor, "*shape"]
) -> Integer[Tensor, "*shape"]:
    """The digits at some places of a flattened tensor that `pack_trits` packed."""
    powers = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.uint8, device=packed.device)
    return packed[places // TRITS_PER_BYTE] // powers[places % TRITS_PER_BYTE] % 3
