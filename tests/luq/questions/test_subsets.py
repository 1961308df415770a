from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset

from luq.pocket import benchmarks
from luq.questions import subsets
from luq.questions.sources import Questions
from luq.questions.subsets import Subset

REAL = Subset("all")
POCKET = Subset()


def questions(name: str, rows: list[dict[str, Any]], has_splits: bool = False) -> Questions:
    plain = [
        {
            k: v
            for k, v in row.items()
            if k not in ("image", "decoded_image", "choices", "precision")
        }
        for row in rows
    ]
    return Questions(name, Dataset.from_list(plain), None, range(len(rows)), has_splits)


@pytest.fixture(scope="module")
def pairs() -> Questions:
    return questions("mme", benchmarks.build("mme", "selection", bases=56), True)


def test_pairs_and_rotations_stay_whole(pairs: Questions) -> None:
    rotations = questions("mmbench", benchmarks.build("mmbench", "selection", bases=30), True)
    for asked in (pairs, rotations):
        chosen = subsets.choose(asked, replace(POCKET, samples=14))
        units = {subsets.unit_of(asked.benchmark, i, asked.docs[i]) for i in chosen}
        assert len(units) == 14
        whole = {
            i
            for i, doc in enumerate(asked.docs)
            if subsets.unit_of(asked.benchmark, i, doc) in units
        }
        assert whole == set(chosen)
        assert chosen == sorted(chosen)


def test_every_stratum_gets_its_share() -> None:
    """Strata of 60, 30 and 10 %: the subset looks like the whole, so its score estimates the
    whole's.
    """
    kinds = ["other"] * 600 + ["yes/no"] * 300 + ["number"] * 100
    asked = questions("vqav2", [{"answer_type": kind} for kind in kinds])
    for n in (10, 50, 333):
        found = Counter(kinds[i] for i in subsets.choose(asked, replace(REAL, samples=n)))
        assert all(
            abs(found[kind] - n * share) <= 1
            for kind, share in (("other", 0.6), ("yes/no", 0.3), ("number", 0.1))
        )


def test_more_samples_extend_fewer_and_seeds_differ(pairs: Questions) -> None:
    few, more = (set(subsets.choose(pairs, replace(POCKET, samples=n))) for n in (10, 23))
    assert few < more
    assert set(subsets.choose(pairs, replace(POCKET, samples=10, seed=1))) != few
    assert subsets.choose(pairs, replace(POCKET, samples=10)) == sorted(few)


def test_all_is_all(pairs: Questions) -> None:
    assert subsets.choose(pairs, POCKET) == list(range(112))
    assert subsets.choose(pairs, replace(POCKET, samples=10**6)) == list(range(112))


def test_selection_and_report_share_no_unit_of_a_real_dataset() -> None:
    rows = [{"question_id": f"{i // 2}.png", "category": "count"} for i in range(2000)]
    asked = questions("mme", rows)
    selection, report = (
        set(subsets.choose(asked, replace(REAL, split=s))) for s in ("selection", "report")
    )
    assert not selection & report
    assert selection | report == set(range(2000)) == set(subsets.choose(asked, REAL))
    assert 0.07 < len(selection) / 2000 < 0.13
    units = [{rows[i]["question_id"] for i in side} for side in (selection, report)]
    assert not units[0] & units[1]
    few = set(subsets.choose(asked, replace(REAL, split="report", samples=50)))
    assert len(few) == 100
    assert few <= report


def test_a_seed_chooses_nothing_where_all_are_asked() -> None:
    assert subsets.subset("report", None, 3) == subsets.subset("report", None, 0)
    assert subsets.subset("report", 5, 3) != subsets.subset("report", 5, 0)
