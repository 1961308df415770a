"""The commit that a run was made with."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def git_sha() -> str | None:
    """The commit of the checkout this runs from.

    Returns:
        None if there is no git, or if this is no checkout. An environment may lie inside the
        repository of somebody else's project, whose commit says nothing of ours.
    """
    root = Path(__file__).resolve().parents[1]
    command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    lines = output.stdout.splitlines()
    is_ours = output.returncode == 0 and len(lines) == 2 and Path(lines[0]).resolve() == root
    return lines[1] if is_ours else None
