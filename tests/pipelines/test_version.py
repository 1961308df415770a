"""The commit that made a run, where there is one."""

from pathlib import Path

import pytest

from pipelines.version import git_sha


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which `git` is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    git_sha.cache_clear()
    assert git_sha() is None
    git_sha.cache_clear()
