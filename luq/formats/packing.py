"""Bit planes: how small integers and masks are stored. `unpack(pack(x)) == x`, to the bit.

A tensor of n-bit integers becomes n planes; each plane is the flattened tensor's bits, eight to a byte,
lowest bit first, padded with zeros to whole bytes.
"""

import torch
from torch import Tensor


def pack_bits(mask: Tensor) -> Tensor:
    """Booleans of any shape -> uint8 [ceil(n / 8)]."""
    flat = mask.reshape(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (flat * weights).sum(1, dtype=torch.int32).to(torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 [ceil(n / 8)] -> booleans of `shape`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    return bits.reshape(-1)[: torch.Size(shape).numel()].reshape(shape).bool()


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Integers in [0, 2**bits) of any shape -> uint8 [bits, ceil(n / 8)]."""
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < 2**bits):
        raise ValueError(f"codes outside [0, {2**bits}) cannot be stored in {bits} bits")
    return torch.stack([pack_bits((codes.int() >> bit) & 1) for bit in range(bits)])


def unpack_codes(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 [bits, ceil(n / 8)] -> uint8 integers of `shape`."""
    total = torch.zeros(shape, dtype=torch.uint8, device=packed.device)
    for bit, plane in enumerate(packed):
        total |= unpack_bits(plane, shape).to(torch.uint8) << bit
    return total


def pack_trits(codes: Tensor) -> Tensor:
    """Integers 0, 1, 2 of any shape -> uint8 [ceil(n / 5)]: five digits of base 3 a byte, lowest first, padded with zeros."""
    flat = codes.reshape(-1).int()
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 5)).view(-1, 5)
    return (
        (flat * 3 ** torch.arange(5, dtype=torch.int32, device=codes.device))
        .sum(1, dtype=torch.int32)
        .to(torch.uint8)
    )


def unpack_trits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 [ceil(n / 5)] -> uint8 integers 0, 1, 2 of `shape`."""
    places = 3 ** torch.arange(5, dtype=torch.uint8, device=packed.device)
    digits = packed.unsqueeze(-1) // places % 3
    return digits.reshape(-1)[: torch.Size(shape).numel()].reshape(shape)
