"""The optional package `gguf`, which names tensors and keys and writes the files."""

from typing import Any

from luq.errors import ModelError


def gguf_package() -> Any:
    """The package.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ModelError(
            f"--format gguf needs its package ({error}): pip install 'gguf>=0.19'"
        ) from error
    return gguf
