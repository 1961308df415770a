"""Pure scorers: `process(doc, [text]) -> {metric: value}` and `summarise(items) -> Summary`."""

from collections.abc import Callable
from typing import Any

from luq import registry

VERSION = 2  # stands in every record; raise it when a scorer changes, and `luq rescore` brings old records up to date


def process_of(benchmark: str) -> Callable[[dict[str, Any], list[str]], dict[str, Any]]:
    """The function that scores one answer; a module that serves several benchmarks has one under each name."""
    module = registry.load("benchmark", benchmark)
    found: Callable[[dict[str, Any], list[str]], dict[str, Any]] = (
        getattr(module, benchmark, None) or module.process
    )
    return found
