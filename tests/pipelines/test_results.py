import json
from pathlib import Path

import pytest

from luq.errors import StoreError
from pipelines import results


def test_records_by_key_and_by_sweep(tmp_path: Path) -> None:
    for key, sweep in (("a", "one"), ("b", "one"), ("a", "two")):
        results.write(tmp_path, {"key": key, "sweep": sweep, "name": f"{key} in {sweep}"})
    assert [r["key"] for r in results.iterate(tmp_path)] == ["a", "b"]
    assert [r["name"] for r in results.iterate(tmp_path, "one")] == ["a in one", "b in one"]
    assert [r["name"] for r in results.iterate(tmp_path, "two")] == ["a in two"]
    assert list(results.iterate(tmp_path, "three")) == []


def test_unreadable_and_newer_records_are_named(tmp_path: Path) -> None:
    file = results.write(tmp_path, {"key": "a", "sweep": "s", "name": "n"})
    file.write_text(json.dumps({"schema": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        results.read(file)
    file.write_text("{")
    with pytest.raises(StoreError, match=r"result\.json cannot be read"):
        results.read(file)


def test_a_success_clears_the_failure(tmp_path: Path) -> None:
    results.write_failure(tmp_path, "k", {"error": "x"})
    results.clear_failure(tmp_path, "k")
    results.clear_failure(tmp_path, "k")
    assert list((tmp_path / "failed").iterdir()) == []
