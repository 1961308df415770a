"""Tasks of lm-eval: what stands in keys, and what is refused before any work."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luq.config import EvaluationConfig
from luq.errors import ConfigError, DataError, LuqError
from luq.questions import lm_eval_tasks
from luq.questions.lm_eval_tasks import TaskTable, check_include_path, task_table
from luq.questions.subsets import Subset, choose_of_parts
from tests.own_tasks import write_colours, write_sums, write_tasks


def table(folder: Path, name: str, **more: object) -> TaskTable:
    config = EvaluationConfig("own", [name], include_path=str(folder), **more)  # type: ignore[arg-type]
    return task_table(name, config, download=False)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_task_stands_in_keys_by_content_not_by_place(tasks: Path, tmp_path: Path) -> None:
    elsewhere = write_tasks(tmp_path / "elsewhere")
    for name in ("my_sums", "my_colours", "my_both"):
        assert table(tasks, name).key == table(elsewhere, name).key


CHANGES: dict[str, Callable[[Path], object]] = {
    "a word of the prompt": lambda folder: replaced(folder / "colours.yaml", "single", "short"),
    "a limit": lambda folder: replaced(folder / "colours.yaml", "max_gen_toks: 8", "max_gen_toks: 9"),
    "a function": lambda folder: replaced(folder / "utils.py", "in answer", "== answer"),
    "what a function calls": lambda folder: (folder / "helpers.py").write_text("X = 1\n"),
    "a row": lambda folder: write_colours(folder, ["What colour is it?"] * 7 + ["Which colour?"]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_a_result_changes_the_key(
    tasks: Path, change: Callable[[Path], object]
) -> None:
    before = table(tasks, "my_colours").key
    change(tasks)
    shutil.rmtree(tasks / "cache")
    assert table(tasks, "my_colours").key != before


def test_another_metric_is_another_key_and_the_first_share_is_the_default(tasks: Path) -> None:
    assert table(tasks, "my_sums").metric == "acc,none"
    assert table(tasks, "my_colours").metric == "acc,none"  # its length is no share
    normalized = table(tasks, "my_sums", metrics={"my_sums": "acc_norm"})
    assert normalized.metric == "acc_norm,none"
    assert normalized.key != table(tasks, "my_sums").key


def test_a_changed_task_is_not_asked_under_an_old_key(tasks: Path) -> None:
    before = table(tasks, "my_sums")
    write_sums(tasks, 13)
    with pytest.raises(DataError, match="changed since this run began"):
        before.opened()


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no such task": (lambda _: None, "my_sum", "unknown benchmark 'my_sum': did you mean my_sums"),
    "no data": (
        lambda folder: (folder / "sums.jsonl").unlink(),
        "my_sums",
        r"my_sums cannot be opened by lm-eval .*sums\.jsonl",
    ),
    "a column that is not there": (
        lambda folder: replaced(folder / "utils.py", 'doc["image"]', 'doc["picture"]'),
        "my_colours",
        "my_colours fail on its first row .*picture",
    ),
    "a function that is not there": (
        lambda folder: replaced(folder / "colours.yaml", "utils.images", "utils.pictures"),
        "my_colours",
        "has no function 'pictures'",
    ),
    "answers by chance": (
        lambda folder: replaced(
            folder / "colours.yaml", "max_gen_toks: 8", "max_gen_toks: 8, do_sample: true"
        ),
        "my_colours",
        "do_sample: answers must be repeatable",
    ),
    "a model's own code": (
        lambda folder: replaced(folder / "sums.yaml", "num_fewshot", "unsafe_code: true\nnum_fewshot"),
        "my_sums",
        "runs code that a model writes",
    ),
    "likelihoods of pictures": (
        lambda folder: replaced(
            folder / "sums.yaml", "num_fewshot", "doc_to_image: question\nnum_fewshot"
        ),
        "my_sums",
        "output_type: generate_until",
    ),
    "no score": (
        lambda folder: replaced(folder / "utils.py", '"acc": float', '"acc": 2 + float'),
        "my_colours",
        "my_colours has no score: .*in \\[0, 1\\]",
    ),
    "a tag": (
        lambda folder: replaced(folder / "sums.yaml", "num_fewshot", "tag: my_tag\nnum_fewshot"),
        "my_tag",
        "my_tag is a tag of tasks .*name them",
    ),
    "no rows": (lambda folder: write_sums(folder, 0), "my_sums", "my_sums"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "name", "said"), REFUSED.values(), ids=REFUSED)
def test_a_task_that_cannot_be_asked_is_refused_before_any_work(
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path], object],
    name: str,
    said: str,
) -> None:
    index = lm_eval_tasks._manager
    # The index of lm-eval's own 14,000 tasks takes seconds.
    monkeypatch.setattr(
        lm_eval_tasks, "_manager", lambda folder, with_lm_evals, state: index(folder, False, state)
    )
    prepare(tasks)
    with pytest.raises(LuqError, match=said):
        table(tasks, name)


def test_a_metric_that_is_not_there_is_answered_with_those_that_are(tasks: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean acc_norm,none"):
        table(tasks, "my_sums", metrics={"my_sums": "acc_norn"})
    with pytest.raises(ConfigError, match=r"evaluation\.metrics\.gqa"):
        EvaluationConfig("own", ["gqa"], metrics={"gqa": "acc"})


def test_a_folder_is_there_and_hides_no_built_in_benchmark(tasks: Path) -> None:
    check_include_path(None)
    check_include_path(str(tasks))
    with pytest.raises(ConfigError, match="there is no such folder"):
        check_include_path(str(tasks / "none"))
    replaced(tasks / "sums.yaml", "task: my_sums", "task: gqa")
    with pytest.raises(ConfigError, match="has a task gqa"):
        check_include_path(str(tasks))


def test_parts_of_a_group_are_asked_in_proportion_and_more_extends_fewer() -> None:
    sizes = {"large": 300, "small": 100}
    few = choose_of_parts(sizes, Subset("all", 8))
    more = choose_of_parts(sizes, Subset("all", 40))
    assert {part: len(rows) for part, rows in few.items()} == {"large": 6, "small": 2}
    for part, rows in few.items():
        assert set(rows) < set(more[part])
    report = choose_of_parts(sizes, Subset("report"))
    selection = choose_of_parts(sizes, Subset("selection"))
    for part, size in sizes.items():
        assert sorted([*report[part], *selection[part]]) == list(range(size))
        assert len(selection[part]) < size / 4


@pytest.mark.network
def test_a_task_that_lm_eval_knows_is_found_by_its_name() -> None:
    found = task_table("mmmu_val", EvaluationConfig("own", ["mmmu_val"]))
    assert found.metric == "acc,none"
