"""Annotated shapes and types are checked in tests: beartype, by jaxtyping's import hook.

A check costs as much as many of the functions it checks, and the inner loops of the quantizers
call a few of them hundreds of thousands of times with the same shapes. So the first `FIRST` calls
of a function in a test are checked, which are all calls of most of them, and then one of `EVERY`.
"""

import functools
from collections import Counter
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import jaxtyping

FIRST = 100
EVERY = 53  # a prime: no loop over layers, linears, groups or columns has this period

calls: Counter[CodeType] = Counter()  # of the functions, in the test that runs
_jaxtyped = jaxtyping.jaxtyped


def _is_checked(call: int) -> bool:
    return call < FIRST or call % EVERY == 0


def _sampled(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """What stands in for `jaxtyping.jaxtyped`, with which the import hook decorates functions."""

    def decorate(function: Any) -> Any:
        if not isinstance(function, FunctionType):
            return _jaxtyped(function, typechecker=typechecker)
        code = function.__code__
        checked: Callable[..., Any] | None = None

        @functools.wraps(function)
        def sampled(*args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            call = calls[code]
            calls[code] = call + 1
            if not _is_checked(call):
                return function(*args, **kwargs)
            if checked is None:  # late: an inner function is decorated at every call of its outer
                checked = _jaxtyped(function, typechecker=typechecker)
            return checked(*args, **kwargs)

        return sampled

    return decorate


def install(packages: tuple[str, ...]) -> None:
    """Check the annotations of packages; none of their modules may have been imported."""
    jaxtyping.jaxtyped = _sampled
    jaxtyping.install_import_hook(packages, "beartype.beartype")
