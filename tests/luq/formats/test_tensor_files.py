"""What the system refuses is said with its number and the file."""

import errno
from pathlib import Path

import pytest
import torch

from luq.errors import system_message
from luq.formats import tensor_files


@pytest.mark.parametrize(
    ("file", "number"),
    [("/proc/none/x.safetensors", errno.ENOENT), ("/proc", errno.EISDIR)],
)
def test_a_refusal_is_an_error_of_the_system(file: str, number: int) -> None:
    with pytest.raises(OSError, match="/proc") as refusal:
        tensor_files.save({"a": torch.zeros(4)}, Path(file))
    assert refusal.value.errno == number
    message = system_message(refusal.value)
    assert message is not None
    assert message.startswith(file)


def test_an_error_of_a_library_is_none_of_the_system() -> None:
    assert system_message(OSError("no model of this name")) is None
