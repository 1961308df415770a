"""Digests of files: all bytes count, and each file is read once."""

import shutil
import time
from pathlib import Path

import pytest

from luq.config import ModelConfig
from luq.models.checkpoint import checkpoint
from luq.pocket.shipped import WEIGHTS
from luq.store import digests
from luq.store.digests import file_digest

BIG = 150_000_000  # bytes: more than any share of a file that one might be tempted to read


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "luq" / "digests.jsonl"


def test_files_that_differ_in_the_middle_are_different(tmp_path: Path) -> None:
    found = []
    for byte in (b"a", b"b"):
        file = tmp_path / "big"
        with file.open("wb") as handle:
            handle.truncate(BIG)
            handle.seek(BIG // 2)
            handle.write(byte)
        found.append(file_digest(file))
    assert found[0] != found[1]
    assert found[0][0] == BIG


def test_a_file_overwritten_in_place_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("first")
    before = file_digest(file)
    file.write_text("other")
    assert file_digest(file) != before


def test_a_settled_file_is_read_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    before = file_digest(file)
    assert len(cache.read_text(encoding="utf-8").splitlines()) == 1
    digests._remembered.cache_clear()
    monkeypatch.setattr(digests, "sha256_of", lambda file: pytest.fail("it is read again"))
    assert file_digest(file) == before


def test_without_a_home_a_file_is_read_once_by_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "cache_folder", lambda: None)
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    digests._remembered.cache_clear()
    file = tmp_path / "a"
    file.write_text("content")
    before = file_digest(file)
    monkeypatch.setattr(digests, "sha256_of", lambda file: pytest.fail("it is read again"))
    assert file_digest(file) == before


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    file_digest(file)
    assert not cache.exists()
    assert time.time() - file.stat().st_mtime < digests.SETTLED_SECONDS


def test_a_damaged_memory_costs_time_and_nothing_else(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text('{"file": 3}\nno json\n{"file": ["a", 1, 2, 3, 4]}\n', encoding="utf-8")
    digests._remembered.cache_clear()
    file = tmp_path / "a"
    file.write_text("content")
    assert file_digest(file)[0] == 7


def test_a_changed_template_is_another_checkpoint(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS / "pocket_llava", tmp_path / "m")
    config = ModelConfig("m", str(folder), device="cpu")
    before = checkpoint(config)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert checkpoint(config) != before


def test_a_streamed_model_is_another_one_where_its_type_is() -> None:
    plain = checkpoint(ModelConfig("m", "pocket:pocket_llava", device="cpu"))
    streamed = checkpoint(ModelConfig("m", "pocket:pocket_llava", device="cpu", stream=True))
    assert plain.digest == streamed.digest
    assert (plain.dtype, streamed.dtype) == ("float32", "float16")
    assert plain != streamed
