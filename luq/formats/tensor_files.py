"""Tensors to a safetensors file; what the system refuses is an OSError, as for any other file."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

NUMBER = re.compile(r"os error (\d+)")  # how Rust names the system's number of an error


def save(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name.

    Raises:
        OSError: The file cannot be written, with the system's number of the reason.
    """
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        number = NUMBER.search(str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(file)) from error
