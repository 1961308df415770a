"""Annotations that are not true fail, early and late, without a check of every call."""

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError, jaxtyped

from luq.formats import packing
from tests.annotations import EVERY, FIRST


def test_the_library_is_checked() -> None:
    with pytest.raises(TypeCheckError):
        packing.pack_bits("a mask")


def test_the_first_calls_are_checked_and_then_one_of_some() -> None:
    @jaxtyped(typechecker=beartype)
    def length(text: str) -> int:
        return len(text)

    def fails(value: object) -> bool:
        try:
            length(value)
        except TypeCheckError:
            return True
        return False

    assert all(fails([]) for _ in range(FIRST))
    later = [fails([]) for _ in range(10 * EVERY)]
    assert sum(later) == 10
    assert length("abc") == 3


def test_a_result_is_checked_with_its_arguments() -> None:
    @jaxtyped(typechecker=beartype)
    def doubled(rows: Float[torch.Tensor, "rows 2"]) -> Float[torch.Tensor, "rows 2"]:
        return torch.cat([rows, rows])

    with pytest.raises(TypeCheckError, match="return value"):
        doubled(torch.zeros(3, 2))
