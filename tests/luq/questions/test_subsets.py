"""Which questions are asked."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset

from luq.pocket import benchmarks
from luq.questions import subsets
from luq.questions.subsets import Subset
from luq.questions.tables import Questions

NO_COLUMNS_OF_A_SUBSET = ("image", "decoded_image", "choices", "precision")
ALL = Subset("all")
REPORT = Subset("report")


def questions(benchmark: str, rows: list[dict[str, Any]], has_splits: bool = False) -> Questions:
    """A table in memory, without images."""
    docs: list[dict[str, Any]] = []
    for row in rows:
        docs.append({k: v for k, v in row.items() if k not in NO_COLUMNS_OF_A_SUBSET})
    return Questions(benchmark, Dataset.from_list(docs), None, range(len(rows)), has_splits)


def units_of(table: Questions, rows: list[int]) -> set[str]:
    """The names of the units that have one of these rows."""
    return {subsets.unit_of(table.benchmark, row, table.docs[row]) for row in rows}


@pytest.fixture(scope="module")
def pairs() -> Questions:
    """56 MME pairs of a source with its own splits."""
    return questions("mme", benchmarks.build("mme", "selection", bases=56), True)


@pytest.fixture(scope="module")
def rotations() -> Questions:
    """30 MMBench base questions with their rotations."""
    return questions("mmbench", benchmarks.build("mmbench", "selection", bases=30), True)


@pytest.mark.parametrize("name", ["pairs", "rotations"])
def test_pairs_and_rotations_stay_together(request: pytest.FixtureRequest, name: str) -> None:
    table: Questions = request.getfixturevalue(name)
    chosen = subsets.choose(table, replace(REPORT, samples=14))
    units = units_of(table, chosen)
    assert len(units) == 14
    rows_of_units = [row for row in range(len(table.docs)) if units_of(table, [row]) <= units]
    assert chosen == rows_of_units, "all rows of the units, in the data's order"


def test_units_have_names() -> None:
    assert subsets.unit_of("mme", 5, {"category": "count", "question_id": "a.png"}) == "count/a.png"
    assert subsets.unit_of("mmbench", 5, {"index": 3_000_241}) == "241"
    assert subsets.unit_of("mmbench", 5, {"index": 999_999}) == "999999"
    assert subsets.unit_of("gqa", 5, {}) == "5"
    assert subsets.unit_of("pope", 5, {"category": "random", "answer": "yes"}) == "5"


def test_an_image_of_two_mme_categories_is_two_units() -> None:
    rows = [{"category": category, "question_id": "a"} for category in ("count", "OCR")]
    table = questions("mme", rows)
    assert len(subsets.choose(table, replace(ALL, samples=1))) == 1


def test_every_stratum_gets_its_share() -> None:
    """Strata of 60, 30 and 10 %: the score of a subset estimates that of all questions."""
    shares = {"other": 0.6, "yes/no": 0.3, "number": 0.1}
    kinds = ["other"] * 600 + ["yes/no"] * 300 + ["number"] * 100
    table = questions("vqav2", [{"answer_type": kind} for kind in kinds])
    for samples in (10, 50, 333):
        counts = Counter(kinds[row] for row in subsets.choose(table, replace(ALL, samples=samples)))
        assert sum(counts.values()) == samples
        for kind, share in shares.items():
            assert abs(counts[kind] - samples * share) <= 1


# Rows of a benchmark that differ in one column.
TWO_STRATA = [
    ("mme", {"category": "count"}, {"category": "OCR"}),
    ("mmbench", {"category": "a"}, {"category": "b"}),
    ("vqav2", {"answer_type": "other"}, {"answer_type": "number"}),
    ("pope", {"category": "random", "answer": "yes"}, {"category": "random", "answer": "no"}),
    ("pope", {"category": "random", "answer": "yes"}, {"category": "popular", "answer": "yes"}),
    ("chartqa", {"type": "human_test"}, {"type": "augmented_test"}),
    (
        "mathvista",
        {"question_type": "free_form", "answer_type": "text"},
        {"question_type": "free_form", "answer_type": "float"},
    ),
    (
        "mathvista",
        {"question_type": "free_form", "answer_type": "text"},
        {"question_type": "multi_choice", "answer_type": "text"},
    ),
]


@pytest.mark.parametrize(("benchmark", "first", "second"), TWO_STRATA)
def test_a_few_questions_are_half_of_each_of_two_equal_strata(
    benchmark: str, first: dict[str, str], second: dict[str, str]
) -> None:
    rows: list[dict[str, Any]] = []
    for i in range(0, 40, 2):
        rows.append({"question_id": str(i), "index": i} | first)
        rows.append({"question_id": str(i + 1), "index": i + 1} | second)
    table = questions(benchmark, rows)
    for seed in range(4):
        chosen = subsets.choose(table, replace(ALL, samples=6, seed=seed))
        assert Counter(row % 2 for row in chosen) == {0: 3, 1: 3}


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        (["other", "yes/no", "number", "other", "other"], "other"),  # the largest
        (["yes/no", "other"], "other"),  # of equal ones the first by name
    ],
)
def test_a_single_question_is_of_the_largest_stratum(kinds: list[str], kind: str) -> None:
    table = questions("vqav2", [{"answer_type": kind} for kind in kinds * 10])
    for seed in range(8):
        (row,) = subsets.choose(table, replace(ALL, samples=1, seed=seed))
        assert table.docs[row]["answer_type"] == kind


def test_the_same_questions_on_every_machine_and_in_every_version() -> None:
    """Answers are kept by seed and number of samples: another choice would make them stale."""
    kinds = ["other", "yes/no", "number"]
    table = questions("vqav2", [{"answer_type": kinds[i % 3]} for i in range(60)])
    assert subsets.choose(table, replace(ALL, samples=6)) == [11, 37, 41, 48, 52, 57]
    assert subsets.choose(table, replace(ALL, samples=6, seed=1)) == [6, 8, 13, 27, 35, 52]
    assert subsets.choose(table, Subset("selection")) == [9, 24, 26, 40, 51]


def test_more_samples_extend_fewer(pairs: Questions) -> None:
    few = set(subsets.choose(pairs, replace(REPORT, samples=10)))
    for samples in range(11, 24):
        more_rows = set(subsets.choose(pairs, replace(REPORT, samples=samples)))
        assert few < more_rows
        few = more_rows


def test_seeds_choose_differently(pairs: Questions) -> None:
    first = subsets.choose(pairs, replace(REPORT, samples=10))
    assert subsets.choose(pairs, replace(REPORT, samples=10)) == first
    assert subsets.choose(pairs, replace(REPORT, samples=10, seed=1)) != first


def test_all_is_all(pairs: Questions) -> None:
    every_row = list(range(112))
    assert subsets.choose(pairs, REPORT) == every_row
    assert subsets.choose(pairs, replace(REPORT, samples=56)) == every_row
    assert subsets.choose(pairs, replace(REPORT, samples=57)) == every_row
    assert subsets.choose(pairs, replace(REPORT, samples=10**6)) == every_row
    assert len(subsets.choose(pairs, replace(REPORT, samples=55))) == 110


def test_a_source_with_splits_is_asked_as_it_is(pairs: Questions) -> None:
    for split in ("all", "report", "selection"):
        assert len(subsets.choose(pairs, Subset(split))) == 112


def test_selection_and_report_share_no_unit_of_a_real_dataset() -> None:
    rows = [{"question_id": f"{i // 2}.png", "category": "count"} for i in range(2000)]
    table = questions("mme", rows)
    selection = set(subsets.choose(table, Subset("selection")))
    report = set(subsets.choose(table, REPORT))
    assert selection | report == set(range(2000)) == set(subsets.choose(table, ALL))
    assert 0.07 < len(selection) / 2000 < 0.13
    assert not selection & report
    assert not units_of(table, list(selection)) & units_of(table, list(report))


def test_a_few_questions_are_of_their_split() -> None:
    table = questions("gqa", [{"question": "?"}] * 400)
    for split in ("selection", "report"):
        every_row = subsets.choose(table, Subset(split))
        few = subsets.choose(table, Subset(split, samples=10))
        assert len(few) == 10
        assert set(few) < set(every_row)


def test_benchmarks_are_split_differently() -> None:
    rows = [{"question": "?", "type": "human_test"}] * 400
    splits = [subsets.choose(questions(b, rows), Subset("selection")) for b in ("gqa", "chartqa")]
    assert splits[0] != splits[1]


def test_a_seed_chooses_nothing_where_all_are_asked() -> None:
    assert subsets.subset("report", None, 3) == subsets.subset("report", None, 0)
    assert subsets.subset("report", 5, 3) != subsets.subset("report", 5, 0)
    assert subsets.subset("selection", 5, 3) == Subset("selection", 5, 3)
