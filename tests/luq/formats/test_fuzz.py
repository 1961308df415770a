"""Folders are data: whatever they hold, it is refused or it answers, and never a signal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.linear import PackedLinear
from tests.luq.formats import weights

ROOT = Path(__file__).parents[3]
COUNT = 4000


def test_mutated_weights_are_refused_or_answer_and_never_crash() -> None:
    """In a process of its own: a signal would end this one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.luq.formats.fuzz", "0", str(COUNT)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    refused, answered = (int(word) for word in done.stdout.split() if word.isdigit())
    assert refused + answered == COUNT
    assert answered > COUNT // 20, "the kernels saw some"


def flipped(buffer: Tensor) -> Tensor:
    """The mask of a weight with eight marks turned."""
    turned = buffer.clone()
    turned[0] ^= 0xFF
    return turned


@pytest.mark.parametrize(
    "weight",
    [weights.binaries(16, 64, 32, 0.2), weights.row_columns(8, 70, 32, 0.2)],
    ids=["binary", "row_column"],
)
def test_a_mask_that_contradicts_the_other_buffers_is_refused_before_it_is_used(
    weight: PackedWeight,
) -> None:
    """A loader puts buffers into a skeleton: their content is seen first at the first call."""
    linear = PackedLinear(weight, "tier")
    linear.salient = flipped(linear.salient)
    with pytest.raises(StoreError, match="salient"):
        linear(torch.ones(1, weight.shape[1]))
