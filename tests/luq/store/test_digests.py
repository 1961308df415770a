"""Digests of files: all bytes count, and each file is read once."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from luq.config import ModelConfig
from luq.errors import DataError
from luq.models.checkpoint import Checkpoint, checkpoint
from luq.pocket.shipped import WEIGHTS
from luq.store import digests
from luq.store.digests import file_digest, part_digest, read_once, state_of

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


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as unchanged for long as soon as they are written."""
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that is large enough to be remembered across processes."""
    file = tmp_path / "large"
    file.write_bytes(b"a" * digests.LEAST_BYTES)
    return file


def as_new_process() -> None:
    digests._remembered.cache_clear()


@pytest.mark.usefixtures("settled")
def test_a_settled_file_is_read_once(
    large: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_digest(large)
    assert len(cache.read_text(encoding="utf-8").splitlines()) == 1
    as_new_process()
    monkeypatch.setattr(digests, "sha256_of", lambda file: pytest.fail("it is read again"))
    assert file_digest(large) == before


@pytest.mark.usefixtures("settled")
def test_parts_of_a_file_are_remembered_beside_it(large: Path, cache: Path) -> None:
    parts = {"a": "1" * 64, "b": "2" * 64}
    for part, sha256 in parts.items():
        assert part_digest(large, part, lambda sha256=sha256: sha256) == sha256
    whole = file_digest(large)
    as_new_process()
    for part, sha256 in parts.items():
        assert part_digest(large, part, lambda: pytest.fail("it is digested again")) == sha256
    assert file_digest(large) == whole
    lines = [json.loads(text) for text in cache.read_text(encoding="utf-8").splitlines()]
    assert ["file" in line for line in lines] == [False, False, True], "as earlier versions read it"
    large.write_bytes(b"b" * digests.LEAST_BYTES)
    assert part_digest(large, "a", lambda: "3" * 64) == "3" * 64


def test_a_part_of_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a cannot be read"):
        part_digest(tmp_path / "a", "part", lambda: pytest.fail("there is nothing to digest"))


@pytest.mark.usefixtures("settled")
def test_a_small_file_is_remembered_by_the_process_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    before = file_digest(file)
    assert not cache.exists()
    monkeypatch.setattr(digests, "sha256_of", lambda file: pytest.fail("it is read again"))
    assert file_digest(file) == before


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"b" * digests.LEAST_BYTES),
        lambda file: os.replace(shutil.copy(file, file.with_name("copy")), file),
        lambda file: os.utime(file, ns=(0, 0)),
    ],
    ids=["content", "another file", "time"],
)
def test_a_changed_state_is_read_again(large: Path, change: Callable[[Path], object]) -> None:
    before = state_of(large)
    file_digest(large)
    change(large)
    as_new_process()
    assert state_of(large) != before
    assert file_digest(large) == (large.stat().st_size, digests.sha256_of(large))


@pytest.mark.usefixtures("settled")
def test_a_file_that_is_written_while_it_is_read_is_not_remembered(
    large: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = digests.sha256_of

    def meanwhile(file: Path) -> str:
        sha256 = read(file)
        file.write_bytes(b"c" * digests.LEAST_BYTES)
        return sha256

    monkeypatch.setattr(digests, "sha256_of", meanwhile)
    file_digest(large)
    assert not cache.exists()
    monkeypatch.setattr(digests, "sha256_of", read)
    assert file_digest(large)[1] == read(large)


def line(state: list[object], sha256: object) -> str:
    return json.dumps({"file": state, "sha256": sha256}) + "\n"


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "sha256", ["", "A" * 64, "0" * 63, "0" * 64 + "\n", "z" * 64, None, 3, ["0" * 64]]
)
def test_a_digest_of_another_form_is_dropped(large: Path, cache: Path, sha256: object) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(line(list(state_of(large)), sha256), encoding="utf-8")
    as_new_process()
    assert file_digest(large)[1] == digests.sha256_of(large)


@pytest.mark.usefixtures("settled")
def test_an_outdated_memory_is_replaced(
    large: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    before = [line([str(large), 1, 2, 3, time, 5], "0" * 64) for time in range(2000)]
    cache.write_text("".join(before), encoding="utf-8")
    as_new_process()
    known = file_digest(large)
    assert cache.read_text(encoding="utf-8").splitlines() == [
        before[-1].strip(),
        line(list(state_of(large)), known[1]).strip(),
    ]
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


@pytest.mark.usefixtures("settled")
def test_what_a_file_says_is_read_once_while_it_does_not_change(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("first")
    read: list[str] = []

    @read_once
    def text(file: Path) -> str:
        read.append(file.read_text())
        return read[-1]

    assert [text(file), text(file)] == ["first"] * 2
    file.write_text("other content")
    assert [text(file), text(file)] == ["other content"] * 2
    assert read == ["first", "other content"]
    with pytest.raises(FileNotFoundError):
        text(tmp_path / "missing")


def test_what_was_just_written_is_read_again(tmp_path: Path) -> None:
    """Its next change could have the same time."""
    file = tmp_path / "a"
    file.write_text("content")
    read: list[Path] = []
    remembering = read_once(read.append)
    remembering(file)
    remembering(file)
    assert read == [file, file]


@pytest.mark.usefixtures("settled")
def test_bytes_that_are_to_be_proved_are_read_anew(large: Path, cache: Path) -> None:
    """Also where a disk lost some of them and no time stamp says so."""
    cache.parent.mkdir(parents=True)
    cache.write_text(line(list(state_of(large)), "0" * 64), encoding="utf-8")
    as_new_process()
    assert file_digest(large)[1] == "0" * 64
    assert file_digest(large, anew=True)[1] == digests.sha256_of(large)
    as_new_process()
    assert file_digest(large)[1] == digests.sha256_of(large), "what was wrong is replaced"


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


def test_a_file_that_was_just_written_is_not_remembered(large: Path, cache: Path) -> None:
    file_digest(large)
    assert not cache.exists()
    assert time.time() - large.stat().st_mtime < digests.SETTLED_SECONDS


def test_a_damaged_memory_costs_time_and_nothing_else(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    damage = b'{"file": 3}\nno json\n{"file": ["a", 1, 2, 3, 4, 5]}\n[]\n\xff\n' + b"[" * 100_000
    cache.write_bytes(damage)
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


def test_a_streamed_model_is_another_one_where_its_type_is(tmp_path: Path) -> None:
    def both(path: str) -> list[Checkpoint]:
        configs = [ModelConfig("m", path, device="cpu", stream=stream) for stream in (False, True)]
        return [checkpoint(config) for config in configs]

    plain, streamed = both("pocket:pocket_llava")  # stored in fp16, which a CPU is slow with
    assert (plain.dtype, streamed.dtype) == ("float32", "float32")
    assert plain == streamed
    folder = shutil.copytree(WEIGHTS / "pocket_llava", tmp_path / "bfloat16")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.bfloat16() for name, weight in weights.items()}, folder / "model.safetensors"
    )
    settings = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(settings.replace("float16", "bfloat16"), encoding="utf-8")
    plain, streamed = both(str(folder))
    assert plain.digest == streamed.digest
    assert (plain.dtype, streamed.dtype) == ("float32", "bfloat16")
    assert plain != streamed
