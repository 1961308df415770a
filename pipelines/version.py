"""The commit that a run was made with."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def git_sha() -> str | None:
    """The commit of the checkout this runs from; None if there is none, or no git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        output = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return output.stdout.strip() or None
