"""Libraries log a lot while they are asked: let only errors out."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("lm_eval", "datasets", "transformers", "gguf")


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of the libraries are logged."""
    levels: dict[logging.Logger, int] = {}
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        levels[logger] = logger.level
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
