"""Local datasets in the hub's layout: the split that is asked, all of it, and nothing else."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.questions import tables
from luq.questions.sources import calibration_table, evaluation_table
from luq.questions.tables import Questions
from luq.store.store import Store
from tests.conftest import BENCHMARKS
from tests.luq.questions.clones import ROWS, Row, clone, picture, with_values, write_shards


def opened(name: str, source: Path, cache: Path) -> Questions:
    """The questions of a benchmark that has a source of its own."""
    settings = EvaluationConfig("test", [name], data="pocket", sources={name: str(source)})
    return evaluation_table(name, settings, cache).open(Store(cache).tools)


def chart_rows(count: int, question: str = "How many items?") -> list[Row]:
    rows = []
    for i in range(count):
        row = {"question": question, "answer": str(i), "type": "human_test", "image": picture(i)}
        rows.append(row)
    return rows


def chart_clone(folder: Path, count: int, shards: int = 1, counts: bool = True) -> Path:
    """A clone of ChartQA with so many rows, as `folder/chartqa`."""
    return clone(folder, "chartqa", chart_rows(count), shards, counts)


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("has_readme", [True, False])
def test_the_split_that_is_asked_is_read_whole_and_no_other(
    tmp_path: Path, name: str, has_readme: bool
) -> None:
    root = clone(tmp_path, name)
    if not has_readme:
        (root / "README.md").unlink()
    questions = opened(name, root, tmp_path / "cache")
    rows = ROWS[name]
    assert [doc["question"] for doc in questions.docs] == [row["question"] for row in rows]
    assert all(questions.image(i).convert().size == (90, 60) for i in range(len(rows)))


@pytest.mark.parametrize(
    ("name", "part"),
    [("mmbench", "en"), ("docvqa", "DocVQA"), ("textvqa", "data"), ("mathvista", "data"),
     ("gqa", "testdev_balanced_instructions")],
)  # fmt: skip
def test_a_part_of_a_clone_is_read_like_the_clone(tmp_path: Path, name: str, part: str) -> None:
    """`evaluation.sources.mmbench=DIR/en` holds the shards of two splits."""
    root = clone(tmp_path, name)
    part_of = opened(name, root / part, tmp_path / "cache")
    assert len(part_of.docs) == len(ROWS[name])
    assert part_of.docs.to_list() == opened(name, root, tmp_path / "cache").docs.to_list()


def test_calibration_reads_the_training_split(tmp_path: Path) -> None:
    clone(tmp_path, "textvqa")
    table = calibration_table("textvqa", str(tmp_path), tmp_path / "cache")
    docs = table.open(Store(tmp_path / "cache").tools).docs
    assert set(docs["question"]) == {"train?"}


@pytest.mark.parametrize("has_readme", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, has_readme: bool) -> None:
    root = chart_clone(tmp_path, 3, shards=3)
    if not has_readme:
        (root / "README.md").unlink()
    (second,) = root.glob("data/test-00001-*")
    second.unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 3 shards \(test-00001-of-00003\)"):
        opened("chartqa", root, tmp_path / "cache")


def test_one_shard_of_several_is_not_the_benchmark(tmp_path: Path) -> None:
    root = chart_clone(tmp_path, 3, shards=3)
    (second,) = root.glob("data/test-00001-*")
    with pytest.raises(DataError, match="lacks 2 of 3 shards"):
        opened("chartqa", second, tmp_path / "cache")


def test_shards_of_two_versions_are_not_mixed(tmp_path: Path) -> None:
    data = Dataset.from_list(chart_rows(4))
    write_shards(data, tmp_path / "chartqa", "test", 2)
    write_shards(data, tmp_path / "other", "test", 1)
    for file in (tmp_path / "other").iterdir():
        shutil.copy(file, tmp_path / "chartqa")
    with pytest.raises(DataError, match="of two versions of the dataset"):
        opened("chartqa", tmp_path / "chartqa", tmp_path / "cache")


def test_rows_that_the_readme_counts_and_nobody_has_are_missed(tmp_path: Path) -> None:
    root = chart_clone(tmp_path, 3)
    (file,) = root.glob("data/*.parquet")
    Dataset.from_list(chart_rows(2)).to_parquet(file)
    with pytest.raises(DataError, match="holds 2 rows of the 3 that its README says"):
        opened("chartqa", root, tmp_path / "cache")


def test_a_split_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    root = clone(tmp_path, "mmbench")
    for file in root.glob("en/dev-*"):
        file.unlink()
    (root / "README.md").unlink()
    with pytest.raises(DataError, match="has no split dev, only test"):
        opened("mmbench", root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("wanted", "other"),
    [("dev.parquet", "test.parquet"), ("mmbench_en_validation.parquet", "mmbench_en_test.parquet"),
     ("val-00000-of-00001.parquet", "train-00000-of-00001.parquet")],
)  # fmt: skip
def test_names_say_splits_as_datasets_reads_them(tmp_path: Path, wanted: str, other: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    rows = with_values(ROWS["mmbench"], image=picture(0))
    Dataset.from_list(rows).to_parquet(folder / wanted)
    Dataset.from_list(with_values(rows, question="!")).to_parquet(folder / other)
    questions = opened("mmbench", folder, tmp_path / "cache")
    assert set(questions.docs["question"]) == {"Which one is the correct caption?"}


def test_files_that_name_no_split_are_all_read(tmp_path: Path) -> None:
    folder = tmp_path / "chartqa"
    folder.mkdir()
    for part in ("part1", "part2"):
        Dataset.from_list(chart_rows(2, part)).to_parquet(folder / f"{part}.parquet")
    questions = opened("chartqa", folder, tmp_path / "cache")
    assert questions.docs["question"][:] == ["part1", "part1", "part2", "part2"]


def test_a_pointer_of_git_lfs_is_no_dataset(tmp_path: Path) -> None:
    root = chart_clone(tmp_path, 1)
    (file,) = root.glob("data/*.parquet")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="run `git lfs pull`"):
        opened("chartqa", root, tmp_path / "cache")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    root = chart_clone(tmp_path, 1)
    (file,) = root.glob("data/*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot be read as parquet .* download it again"):
        opened("chartqa", root, tmp_path / "cache")


@pytest.mark.parametrize("path", ["https://somewhere/x.parquet", "/etc/x.parquet", "../x/*"])
def test_a_readme_names_no_files_outside_its_folder(tmp_path: Path, path: str) -> None:
    root = chart_clone(tmp_path, 1)
    text = (root / "README.md").read_text()
    (root / "README.md").write_text(text.replace("data/test-*", path))
    with pytest.raises(DataError, match="which is not in its folder"):
        opened("chartqa", root, tmp_path / "cache")


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    """Its name is no pattern."""
    root = chart_clone(tmp_path / "a[0]*{b}", 2)
    (root / "README.md").unlink()
    assert len(opened("chartqa", root, tmp_path / "cache").docs) == 2


def test_the_rows_are_always_those_that_were_digested(tmp_path: Path) -> None:
    """`datasets` knows a clone by the name of its folder and by its README."""
    cache = tmp_path / "cache"
    first = chart_clone(tmp_path / "one", 3, counts=False)
    second = chart_clone(tmp_path / "two", 5, counts=False)
    assert (first / "README.md").read_bytes() == (second / "README.md").read_bytes()
    assert len(opened("chartqa", first, cache).docs) == 3
    assert len(opened("chartqa", second, cache).docs) == 5
    (file,) = first.glob("data/*.parquet")
    Dataset.from_list(chart_rows(7)).to_parquet(file)
    assert len(opened("chartqa", first, cache).docs) == 7


def test_rows_that_changed_under_the_same_size_and_time_are_read_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    file = tmp_path / "chartqa.parquet"
    Dataset.from_list(chart_rows(2, "How many items?")).to_parquet(file)
    state = file.stat()
    before = opened("chartqa", file, cache)
    content = file.read_bytes().replace(b"How many items?", b"How many sheep?")
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    after = opened("chartqa", file, cache)
    assert set(before.docs["question"]) == {"How many items?"}
    assert set(after.docs["question"]) == {"How many sheep?"}


def test_a_table_that_changes_after_it_was_digested_is_refused(tmp_path: Path) -> None:
    root = chart_clone(tmp_path, 2, counts=False)
    settings = EvaluationConfig("test", ["chartqa"], data=str(tmp_path))
    table = evaluation_table("chartqa", settings, tmp_path / "cache")
    (file,) = root.glob("data/*.parquet")
    Dataset.from_list(chart_rows(3)).to_parquet(file)
    with pytest.raises(DataError, match="changed since this run began: run it again"):
        table.open(Store(tmp_path / "cache").tools)


def test_a_table_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "chartqa.parquet"
    Dataset.from_list(chart_rows(2)).to_parquet(file)
    digested = tables.file_identities

    def change_after(location: tables.Location) -> list[list[Any]]:
        identities = digested(location)
        Dataset.from_list(chart_rows(3)).to_parquet(file)
        return identities

    settings = EvaluationConfig("test", ["chartqa"], data=str(tmp_path))
    table = evaluation_table("chartqa", settings, tmp_path / "cache")
    monkeypatch.setattr(tables, "file_identities", change_after)
    with pytest.raises(DataError, match="changed since this run began"):
        table.open(Store(tmp_path / "cache").tools)


def test_the_picture_is_found_by_its_type(tmp_path: Path) -> None:
    row = {"question": "?", "answer": "1", "type": "human_test"}
    cases: list[Row] = [
        {"image": picture(0), "thumbnail": picture(1)},
        {"image": "images/1.jpg", "decoded_image": picture(0)},
        {"image": "images/1.jpg", "photo": picture(0)},
        {"image": picture(0)["bytes"]},
    ]
    for number, columns in enumerate(cases):
        file = tmp_path / f"{number}.parquet"
        Dataset.from_list([row | columns]).to_parquet(file)
        questions = opened("chartqa", file, tmp_path / "cache")
        assert questions.image(0).convert().size == (90, 60)
    file = tmp_path / "none.parquet"
    Dataset.from_list([row | {"image": "images/1.jpg"}]).to_parquet(file)
    with pytest.raises(DataError, match=r"need one column of images, .*image: string"):
        opened("chartqa", file, tmp_path / "cache")
