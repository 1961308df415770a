"""What must hold of every scorer whatever is answered."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq.evaluation.collapse import collapsed
from luq.evaluation.normalize import normalize
from luq.evaluation.scorers import SCORERS, chartqa, docvqa, mmbench, pope, vqa
from luq.evaluation.scorers.number import numbers
from luq.evaluation.scorers.summary import (
    Doc,
    Item,
    levenshtein,
    of_strata,
    of_units,
    standard_error,
)
from luq.pocket import benchmarks
from luq.questions.prompts import TARGETS
from tests.conftest import BENCHMARKS

texts = st.text(max_size=20)
words = st.sampled_from(["cat", "dog", "Cat.", "a dog", "two", "2", "", "u.s.a.", "it's"])

# What models write around an answer, in any sequence.
fragments = st.lists(
    st.sampled_from(
        "A B I a (A) (b) A. **B** yes No cat Cat. 7 7.2 -.5 1e3 1e999 3/4 1,200 50% \u22123 ^2 $ = "
        "answer is: The option or not ' [1,2] [ ] \\boxed{ } \\frac{1}{0} \uff21 \n".split(" ")
    ),
    max_size=12,
).map(" ".join)
missing = st.sampled_from([None, math.nan, "", "nan"])
ROWS: dict[str, Doc] = {
    "mme": {"question_id": "a", "category": "count", "answer": "Yes"},
    "mmbench": {"index": 1, "category": "c", "answer": "A", "A": "cat", "B": "7.2", "E": "No"},
    "textvqa": {"answers": ["cat", "2"]},
    "textvqa_ocr": {"answers": ["cat", "2"]},
    "vqav2": {"answers": [{"answer": "cat"}, {"answer": "2"}]},
    "gqa": {"answer": "cat"},
    "pope": {"category": "random", "answer": "no"},
    "chartqa": {"type": "human_test", "answer": "7"},
    "docvqa": {"answers": ["cat"]},
    "mathvista": {"answer": "7", "choices": ["7", "8"], "unit": "cm", "precision": 1.0},
}
KINDS = [
    ("multi_choice", "text"),
    ("free_form", "integer"),
    ("free_form", "float"),
    ("free_form", "list"),
]


def records(answers: list[str]) -> list[dict[str, str]]:
    """Answers as VQAv2 stores them."""
    return [{"answer": answer} for answer in answers]


@given(answers=st.lists(words, min_size=10, max_size=10), text=words, random=st.randoms())
def test_the_order_of_the_annotators_does_not_matter(
    answers: list[str], text: str, random: Random
) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)
    assert vqa.textvqa({"answers": answers}, [text]) == vqa.textvqa({"answers": shuffled}, [text])
    score = vqa.vqav2({"answers": records(answers)}, [text])
    assert score == vqa.vqav2({"answers": records(shuffled)}, [text])
    assert 0 <= score["score"] <= 1


@given(text=texts, answers=st.lists(texts, min_size=1, max_size=4))
def test_anls_lies_in_its_range(text: str, answers: list[str]) -> None:
    value = docvqa.anls(text, answers)
    assert value == 0 or 0.5 <= value <= 1
    assert docvqa.anls(text, [*answers, text]) >= value
    assert docvqa.anls(text, list(reversed(answers))) == value


@given(a=texts, b=texts, c=texts)
def test_edit_distance_is_a_distance(a: str, b: str, c: str) -> None:
    assert levenshtein(a, b) == levenshtein(b, a)
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)


@given(text=st.text(alphabet="abc ,.?!'-12", max_size=20))
def test_normalizing_never_adds_space_or_articles(text: str) -> None:
    for tokenize in (True, False):
        normalized = normalize(text, tokenize)
        assert normalized == " ".join(normalized.split())
        assert not {"a", "an", "the"} & set(normalized.split())


@given(value=st.integers(1, 10**6), error=st.floats(-0.049, 0.049))
def test_chartqa_allows_five_percent(value: int, error: float) -> None:
    assert chartqa.relaxed(str(value * (1 + error)), str(value))
    assert not chartqa.relaxed(str(value * 1.051), str(value))


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_who_names_the_same_option_in_all_rotations_has_equal_accuracies(choice: int) -> None:
    items: list[Item] = []
    for row in benchmarks.build("mmbench", "selection", bases=12):
        # Sorted, the options of all rotations are the same.
        options = sorted(str(row[letter]) for letter in "ABCD" if row[letter] != "nan")
        items.append((row, mmbench.process(row, [options[choice]])))
    summary = mmbench.summarise(items)
    assert summary.metrics["circular"] == summary.metrics["vanilla"] == summary.score
    later_first = mmbench.summarise(list(reversed(items)))
    assert later_first.metrics["vanilla"] == summary.metrics["vanilla"]


def test_one_letter_for_all_has_vanilla_but_no_circular_accuracy() -> None:
    rows = benchmarks.build("mmbench", "selection", bases=30)
    summary = mmbench.summarise([(row, mmbench.process(row, ["A"])) for row in rows])
    assert summary.metrics["circular"] == 0
    assert summary.metrics["vanilla"] > 0


def test_a_model_that_always_says_yes_is_seen() -> None:
    rows = benchmarks.build("pope", "selection", bases=60)
    summary = pope.summarise([(row, pope.process(row, ["Yes"])) for row in rows])
    assert summary.metrics["yes_ratio"] == 1
    assert collapsed([{"id": i, "text": "Yes"} for i in range(len(rows))])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_scores_are_the_weighted_units_and_the_reference_is_right(name: str) -> None:
    rows = benchmarks.build(name, "selection", bases=28)
    scorer = SCORERS[name]
    right: list[Item] = []
    mixed: list[Item] = []
    for i, row in enumerate(rows):
        target = TARGETS[name](row)
        right.append((row, scorer.process(row, [target])))
        # Four rows in twelve are wrong: whole units of MME and MMBench among them.
        text = "?" if i % 12 < 4 else target
        mixed.append((row, scorer.process(row, [text])))
    best = scorer.summarise(right)
    assert best.score == pytest.approx(100), "who gives the reference answers gets everything"
    summary = scorer.summarise(mixed)
    weighted_sum = sum(u * w for u, w in zip(summary.units, summary.weights, strict=True))
    assert summary.score == pytest.approx(100 * weighted_sum)
    assert 0 < summary.stderr < 25


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_strata_of_equal_size_give_the_plain_mean(values: list[float]) -> None:
    n = len(values)
    plain = of_units(values * 2, {})
    strata = of_strata(values * 2, [*"a" * n, *"b" * n], {})
    assert strata.score == pytest.approx(plain.score)
    assert strata.weights == pytest.approx(plain.weights)
    assert strata.stderr == pytest.approx(100 * standard_error(values) / 2**0.5)


def rows_of(name: str) -> list[Doc]:
    """A row of each kind that a benchmark has."""
    if name != "mathvista":
        return [ROWS[name]]
    rows: list[Doc] = []
    for question_type, answer_type in KINDS:
        rows.append(ROWS[name] | {"question_type": question_type, "answer_type": answer_type})
    return rows


@pytest.mark.parametrize("name", BENCHMARKS)
@given(text=texts | fragments)
def test_any_text_has_a_score(name: str, text: str) -> None:
    for row in rows_of(name):
        values = SCORERS[name].process(row, [text])
        assert 0 <= values["score"] <= 1
        assert 0 <= SCORERS[name].summarise([(row, values)]).score <= 100


@pytest.mark.parametrize("name", BENCHMARKS)
@given(
    text=texts | fragments | st.sampled_from(["None", "nan", ""]),
    nothing=st.sampled_from([None, math.nan, ""]),
)
def test_a_row_without_a_reference_has_no_right_answer(
    name: str, text: str, nothing: object
) -> None:
    for row in rows_of(name):
        without = row | ({"answers": nothing or None} if "answers" in row else {"answer": nothing})
        assert SCORERS[name].process(without, [text])["score"] == 0


@given(text=texts | fragments, nothing=missing)
def test_mathvista_scores_rows_with_missing_fields(text: str, nothing: object) -> None:
    precision = nothing if isinstance(nothing, float) else None
    for row in rows_of("mathvista"):
        sparse = row | {"choices": nothing, "unit": nothing, "precision": precision}
        score = SCORERS["mathvista"].process(sparse, [text])["score"]
        assert score in (0, 1)
        if row["question_type"] == "multi_choice":
            assert score == 0, "there is no choice"


@given(text=texts | fragments)
def test_an_answer_names_one_of_the_options_or_none(text: str) -> None:
    options = {"A": "cat", "B": "two cats", "C": "7.2", "E": "No"}
    assert mmbench.infer(text, options) in ("", *options)
    assert mmbench.infer(text, {}) == ""


@given(text=texts | fragments)
def test_numbers_are_finite(text: str) -> None:
    assert all(math.isfinite(number) for number in numbers(text))


@given(value=st.floats(-1e9, 1e9).map(lambda value: round(value, 3)))
def test_a_number_is_read_as_it_is_written(value: float) -> None:
    for written in (f"{value:.3f}", f"{value:,.3f}", f"x = {value:.3f} cm^2", f"{value:e}"):
        assert numbers(written)[0] == pytest.approx(float(f"{value:e}"), rel=1e-5, abs=1e-3)


@given(
    errors=st.integers(1, 6),
    right=st.integers(0, 6),
    expected=st.sampled_from(["yes", "no"]),
)
def test_no_error_row_lifts_a_metric_of_pope(errors: int, right: int, expected: str) -> None:
    doc = ROWS["pope"] | {"answer": "yes"}
    items: list[Item] = [(doc, pope.process(doc, ["Yes"])) for _ in range(right)]
    before = pope.summarise(items).metrics if items else {"accuracy": 0.0, "f1": 0.0}
    items += [(ROWS["pope"] | {"answer": expected}, {"score": 0.0})] * errors
    after = pope.summarise(items).metrics
    assert after["accuracy"] < before["accuracy"] or right == 0
    assert after["f1"] < before["f1"] or right == 0
