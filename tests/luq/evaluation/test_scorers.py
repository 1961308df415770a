"""Golden values of the official scripts, as reference benchmarks lists them."""

import pytest

from luq.evaluation.normalize import normalize
from luq.evaluation.scorers import chartqa, docvqa, exact, mathvista, mmbench, mme, pope, vqa
from luq.evaluation.scorers.summary import levenshtein, standard_error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat.", "cat"), ("two dogs", "2 dogs"), ("1,000", "1000"), ("U.S.A.", "usa"), ("a/b", "b"),
        ("Coca-Cola", "coca cola"), ("it's", "it 's"), ("none", "0"), ("$5.00", "$5.00"), ("dont know", "don't know"),
    ],
)  # fmt: skip
def test_evalai_normalization(text: str, expected: str) -> None:
    assert normalize(text, tokenize=True) == expected


def test_vqav2_keeps_the_apostrophe() -> None:
    assert normalize("it's", tokenize=False) == "it's"


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_soft_accuracy(matches: int, score: float) -> None:
    answers = ["cat"] * matches + [f"other{i}" for i in range(10 - matches)]
    assert vqa.soft_accuracy("cat", answers) == pytest.approx(score)


def test_vqa_columns() -> None:
    assert vqa.textvqa({"answers": ["The Cat"] * 10}, ["cat."])["score"] == 1
    assert vqa.vqav2({"answers": [{"answer": "2"}] * 10}, ["two"])["score"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"), ("no", "no"), ("Y", "yes"), ("n", "no"), ("Yes, it is", "yes"), ("No way", "no"),
        ("None", "no"), ("not sure", "no"), ("Noodles", "no"), ("The answer is yes", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_mme_parses_the_first_four_characters(text: str, expected: str) -> None:
    assert mme.parse(text) == expected


def test_mme_counts_pairs() -> None:
    def item(image: str, score: float, category: str = "count") -> tuple:
        return {"question_id": image, "category": category, "answer": "Yes"}, {
            "score": score,
            "yes": score,
        }

    items = [item("a", 1), item("a", 1), item("b", 1), item("b", 0)]
    assert mme.category_score(items) == pytest.approx(75 + 50)
    more = [*items, item("c", 1, "code_reasoning"), item("c", 1, "code_reasoning")]
    summary = mme.summarise(more)
    assert summary.metrics["perception"] == pytest.approx(125)
    assert summary.metrics["cognition"] == pytest.approx(200)
    assert summary.score == pytest.approx((125 + 200) / 4)
    assert summary.n == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No", "no"),
        ("no.", "no"),
        ("There is not, I think", "no"),
        ("nope", "yes"),
        ("Yes. no", "yes"),
        ("blah", "yes"),
        ("", "yes"),
    ],
)
def test_pope_parses_the_first_sentence(text: str, expected: str) -> None:
    assert pope.parse(text) == expected


def test_pope_yes_ratio_is_of_the_predictions() -> None:
    """A model that always says yes: accuracy 50, F1 66.7, and a yes-ratio of 1 that betrays it."""
    docs = [
        {"answer": a, "category": c}
        for a in ("yes", "no")
        for c in ("random", "popular", "adversarial")
    ]
    summary = pope.summarise([(d, pope.process(d, ["Yes"])) for d in docs])
    assert summary.metrics["accuracy"] == 50
    assert summary.metrics["f1"] == pytest.approx(66.67, abs=0.01)
    assert summary.metrics["yes_ratio"] == 1


@pytest.mark.parametrize(
    ("said", "true", "right"),
    [
        ("14", "14.5", True), ("14", "15", False), ("14%", "0.14", True), ("14%", "14", False), ("0", "0", True),
        ("0.0", "0", False), ("1,000", "1000", False), ("yes.", "Yes", False), ("Yes", "yes", True), ("$5", "5", False),
    ],
)  # fmt: skip
def test_chartqa_relaxed(said: str, true: str, right: bool) -> None:
    assert chartqa.relaxed(said, true) is right


def test_chartqa_reports_both_halves() -> None:
    docs = [{"answer": "1", "type": "human_test"}, {"answer": "1", "type": "augmented_test"}]
    summary = chartqa.summarise(
        [(d, chartqa.process(d, [t])) for d, t in zip(docs, ("1", "2"), strict=True)]
    )
    assert (summary.score, summary.metrics["human"], summary.metrics["augmented"]) == (50, 100, 0)


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("Helo", ["hello"], 0.8),
        ("hexxx", ["hello"], 0),
        ("$1,200", ["1,200", "$1200"], 0.8333),
        ("HELLO", ["hello"], 1),
        ("", [""], 1),
    ],
)
def test_docvqa_anls(said: str, answers: list[str], score: float) -> None:
    assert docvqa.anls(said, answers) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("A cat is here", {"A": "cat", "B": "dog"}, "A"),
        ("cat and dog", {"A": "cat", "B": "dog"}, ""),
        ("a", {"A": "cat", "B": "dog"}, ""),
        ("B) dog", {"A": "cat", "B": "dog"}, "B"),
        ("B", {"A": "cat", "B": "dog"}, "B"),
        ("The dog", {"A": "cat", "B": "dog"}, "B"),
        ("E", {"A": "cat", "B": "dog"}, ""),
    ],
)
def test_mmbench_letters(text: str, options: dict, expected: str) -> None:
    assert mmbench.infer(text, options) == expected


def test_mmbench_wants_every_rotation_right() -> None:
    def item(index: int, score: float) -> tuple:
        return {"index": index}, {"score": score}

    items = [item(1, 1), item(1_000_001, 1), item(2, 1), item(1_000_002, 0)]
    summary = mmbench.summarise(items)
    assert (summary.score, summary.metrics["vanilla"], summary.n) == (50, 100, 2)


@pytest.mark.parametrize(
    ("doc", "text", "score"),
    [
        (
            {"question_type": "free_form", "answer_type": "integer", "answer": "7"},
            "The answer is 7.",
            1,
        ),
        ({"question_type": "free_form", "answer_type": "integer", "answer": "1200"}, "1,200", 1),
        ({"question_type": "free_form", "answer_type": "integer", "answer": "7"}, "none", 0),
        (
            {
                "question_type": "free_form",
                "answer_type": "float",
                "answer": "1.25",
                "precision": 2,
            },
            "1.251",
            1,
        ),
        ({"question_type": "free_form", "answer_type": "list", "answer": "[1, 2]"}, "[1, 2]", 1),
        (
            {
                "question_type": "multi_choice",
                "answer_type": "text",
                "answer": "blue",
                "choices": ["red", "blue"],
            },
            "(B)",
            1,
        ),
        (
            {
                "question_type": "multi_choice",
                "answer_type": "text",
                "answer": "blue",
                "choices": ["red", "blue"],
            },
            "B.",
            1,
        ),
        (
            {
                "question_type": "multi_choice",
                "answer_type": "text",
                "answer": "blue",
                "choices": ["red", "blue"],
            },
            "bleu",
            1,
        ),
        (
            {
                "question_type": "multi_choice",
                "answer_type": "text",
                "answer": "blue",
                "choices": ["red", "blue"],
            },
            "A",
            0,
        ),
        (
            {
                "question_type": "multi_choice",
                "answer_type": "text",
                "answer": "4",
                "choices": "['3', '4']",
            },
            "4",
            1,
        ),
    ],
)
def test_mathvista_by_rules(doc: dict, text: str, score: float) -> None:
    assert mathvista.process({"precision": None, "choices": None, **doc}, [text])["score"] == score


def test_gqa_ignores_case_punctuation_and_space() -> None:
    assert exact.process({"answer": "Left"}, [" left. "])["score"] == 1
    assert exact.process({"answer": "left"}, ["to the left"])["score"] == 0


def test_standard_error_and_distance() -> None:
    assert standard_error([0, 1, 0, 1]) == pytest.approx(0.2887, abs=1e-4)
    assert standard_error([1.0]) == 0
    assert levenshtein("kitten", "sitting") == 3
