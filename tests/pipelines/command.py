"""The `luq` command in this process."""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.cli import main


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def columns(width: int) -> Iterator[None]:
    """A terminal of this width."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def luq(*arguments: str, width: int = 80) -> Done:
    """Run a command; rich and click write to whatever stdout is when they write."""
    out = io.StringIO()
    errors = io.StringIO()
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors)
    with columns(width), redirected[0], redirected[1]:
        code = main(list(arguments))
    return Done(code, out.getvalue(), errors.getvalue())


def luq_to(outputs: Path, *arguments: str) -> Done:
    """A command with Hydra overrides, whose results go to `outputs`."""
    return luq(*arguments, f"paths.outputs={outputs}")
