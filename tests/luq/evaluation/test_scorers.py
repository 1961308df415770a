"""Golden values of the official scripts, and what every summary says."""

import hashlib
from typing import Any

import pytest

from luq.evaluation import answers
from luq.evaluation.normalize import CONTRACTIONS, NUMBERS, normalize
from luq.evaluation.predictions import AnswerRow
from luq.evaluation.scorers import SCORERS, chartqa, docvqa, exact, mathvista, mmbench, mme, pope
from luq.evaluation.scorers import vqa as soft
from luq.evaluation.scorers.number import numbers, stated_number
from luq.evaluation.scorers.summary import (
    Doc,
    Item,
    grouped,
    levenshtein,
    mean,
    of_strata,
    of_units,
    standard_error,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat.", "cat"),
        ("two dogs", "2 dogs"),
        ("1,000", "1000"),
        ("U.S.A.", "usa"),
        ("a/b", "b"),
        ("Coca-Cola", "coca cola"),
        ("it's", "it 's"),
        ("none", "0"),
        ("$5.00", "$5.00"),
        ("dont know", "don't know"),
        ("what? yes!", "what yes"),
        ("red\nand\tblue", "red and blue"),
        ("x- y-z", "x yz"),
        ("x-y z", "x y z"),
        (".5", ".5"),
        ("5.", "5"),
        ("an apple", "apple"),
        ("IT'S", "it 's"),
        ("red,blue", "redblue"),
        ("what?yes", "whatyes"),
        ("x -y-z", "x yz"),
        ("x-\ty-z", "x yz"),
        ("x-\ny-z", "x yz"),
        (" -x-y\n", "x y"),
        ("a/-b-c", "b c"),
    ],
)
def test_evalai_normalization(text: str, expected: str) -> None:
    assert normalize(text, tokenize=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it's", "it's"),
        ("1,000", "1000"),
        ("1,000/day", "1000day"),
        ("5,x-y", "5 x y"),
        ("x/-y-z", "x y z"),
        ("IT'S", "it's"),
        ("red,blue", "red blue"),
        ("why?not", "why not"),
    ],
)
def test_vqav2_normalization(text: str, expected: str) -> None:
    assert normalize(text, tokenize=False) == expected


def test_no_more_than_32_periods_go() -> None:
    assert normalize("." * 40, tokenize=True) == "." * 8


@pytest.mark.parametrize("mark", ';/[]"{}()=+\\_-><@`,?!')
def test_punctuation_becomes_a_space(mark: str) -> None:
    assert normalize(f"x{mark}y", tokenize=False) == "x y"


@pytest.mark.parametrize("mark", "'&%$#*:|~^")
def test_other_marks_stay(mark: str) -> None:
    assert normalize(f"x{mark}y", tokenize=False) == f"x{mark}y"


def test_number_words_become_digits() -> None:
    words = "zero one two three four five six seven eight nine ten"
    assert normalize(words, tokenize=False) == "0 1 2 3 4 5 6 7 8 9 10"
    assert normalize("none", tokenize=False) == "0"
    assert len(NUMBERS) == 12


def test_contractions_get_their_apostrophe() -> None:
    for short, contraction in CONTRACTIONS.items():
        if short == short.lower():
            assert normalize(short, tokenize=False) == contraction


def test_the_table_of_contractions_is_the_official_one() -> None:
    """A digest of all 120 pairs: published scores depend on each, the odd ones too."""
    lines = "".join(f"{short} {contraction}\n" for short, contraction in CONTRACTIONS.items())
    assert len(CONTRACTIONS) == 120
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "40517c5a1b9d5251"


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_soft_accuracy(matches: int, score: float) -> None:
    answers = ["cat"] * matches + [f"other{i}" for i in range(10 - matches)]
    assert soft.soft_accuracy("cat", answers) == pytest.approx(score)


def test_vqa_columns() -> None:
    assert soft.textvqa({"answers": ["The Cat"] * 10}, ["cat."])["score"] == 1
    assert soft.textvqa({"answers": [2] * 10}, ["two"])["score"] == 1, "numbers are texts"
    assert soft.vqav2({"answers": [{"answer": "2"}] * 10}, ["two"])["score"] == 1
    assert soft.vqav2({"answers": [{"answer": "The Cat"}] * 10}, ["cat."])["score"] == 1


def test_a_contraction_without_its_apostrophe_is_right() -> None:
    assert soft.textvqa({"answers": [None] * 3 + ["cat"] * 7}, [""])["score"] == 0
    assert soft.textvqa({"answers": [None] * 3 + ["cat"] * 7}, ["cat"])["score"] == 1
    assert soft.textvqa({"answers": ["ain't"] * 10}, ["aint"])["score"] == 1
    assert soft.vqav2({"answers": [{"answer": "ain't"}] * 10}, ["Aint"])["score"] == 1


def test_only_textvqa_tokenizes() -> None:
    assert soft.textvqa({"answers": ["it 's"] * 10}, ["it's"])["score"] == 1
    assert soft.textvqa({"answers": ["it's"] * 10}, ["it 's"])["score"] == 1
    assert soft.vqav2({"answers": [{"answer": "it 's"}] * 10}, ["it's"])["score"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        ("Y", "yes"),
        ("n", "no"),
        ("x", "other"),
        ("Yes, it is", "yes"),
        ("No way", "no"),
        ("None", "no"),
        ("not sure", "no"),
        ("Noodles", "no"),
        ("no, yes", "no"),
        (". yes", "yes"),
        ("a yes", "other"),
        ("ayes", "yes"),
        ("The answer is yes", "other"),
        ("\n   Yes, it is", "yes"),
        ("", "other"),
    ],
)
def test_mme_parses_the_first_four_characters(text: str, expected: str) -> None:
    assert mme.parse(text) == expected


def test_mme_scores_an_answer() -> None:
    assert mme.process({"answer": " Yes"}, ["yes"]) == {"score": 1, "yes": 1}
    assert mme.process({"answer": "No"}, ["yes"]) == {"score": 0, "yes": 1}
    assert mme.process({"answer": "No"}, ["no"]) == {"score": 1, "yes": 0}
    assert mme.process({"answer": "No"}, ["maybe"]) == {"score": 0, "yes": 0}


def mme_item(image: str, score: float, category: str = "count") -> Item:
    return {"question_id": image, "category": category}, {"score": score, "yes": score}


def test_mme_counts_pairs() -> None:
    items = [mme_item("a", 1), mme_item("a", 1), mme_item("b", 1), mme_item("b", 0)]
    assert mme.category_score(items) == pytest.approx(75 + 50)
    items += [mme_item("a", 1, "code_reasoning"), mme_item("a", 1, "code_reasoning")]
    summary = mme.summarise(items)
    assert summary.metrics == {
        "perception": 125,
        "cognition": 200,
        "count": 125,
        "code_reasoning": 200,
    }
    assert summary.score == pytest.approx((125 + 200) / 4)
    assert summary.units == [1, 0.25, 1], "an image of two categories is two pairs"
    assert summary.weights == [0.25, 0.25, 0.5]


def test_mme_has_four_categories_of_cognition() -> None:
    items: list[Item] = []
    for category in (*mme.COGNITION, "OCR"):
        items += [mme_item("a", 1, category), mme_item("a", 1, category)]
    summary = mme.summarise(items)
    assert summary.metrics["cognition"] == 800
    assert summary.metrics["perception"] == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No", "no"),
        ("no.", "no"),
        ("no,", "no"),
        ("There is not, I think", "no"),
        (" No. Yes.", "no"),
        ("\nNo", "no"),
        ("it is\nnot", "yes"),
        ("NO", "yes"),
        ("nope", "yes"),
        ("Yes. no", "yes"),
        ("blah", "yes"),
        ("", "yes"),
    ],
)
def test_pope_parses_the_first_sentence(text: str, expected: str) -> None:
    assert pope.parse(text) == expected


def test_pope_scores_an_answer() -> None:
    assert pope.process({"answer": " YES\n"}, ["Yes"]) == {"score": 1, "yes": 1}
    assert pope.process({"answer": "no"}, ["Yes"]) == {"score": 0, "yes": 1}
    assert pope.process({"answer": "no"}, ["No"]) == {"score": 1, "yes": 0}


def test_pope_yes_ratio_is_of_the_predictions() -> None:
    """A model that always says yes: accuracy 50, F1 66.7, and a yes-ratio of 1 that betrays it."""
    items: list[Item] = []
    for answer in ("yes", "no"):
        for category in ("random", "popular", "adversarial"):
            doc = {"answer": answer, "category": category}
            items.append((doc, pope.process(doc, ["Yes"])))
    summary = pope.summarise(items)
    assert summary.score == summary.metrics["accuracy"] == 50
    assert summary.metrics["f1"] == pytest.approx(66.67, abs=0.01)
    assert summary.metrics["f1_random"] == pytest.approx(66.67, abs=0.01)
    assert summary.metrics["yes_ratio"] == 1


def error(id_: int, doc: Doc) -> AnswerRow:
    return {"id": id_, "error": "the image does not decode", "doc": doc}


def test_pope_counts_a_question_that_could_not_be_asked_as_a_mistake() -> None:
    """Counted as a no it would be right where a no is expected."""
    yes = {"answer": "yes", "category": "random"}
    no = {"answer": "no", "category": "random"}
    said_yes: list[AnswerRow] = [{"id": i, "text": "Yes", "doc": yes} for i in range(5)]
    summary = answers.summarise("pope", [*said_yes, *(error(5 + i, no) for i in range(5))])
    assert summary.score == summary.metrics["accuracy"] == 50
    assert summary.metrics["f1"] == pytest.approx(66.67, abs=0.01)
    assert summary.metrics["yes_ratio"] == 1, "of those that were answered"
    summary = answers.summarise("pope", [*said_yes, *(error(5 + i, yes) for i in range(5))])
    assert summary.metrics["f1"] == pytest.approx(66.67, abs=0.01)
    assert answers.summarise("pope", [error(0, yes)]).metrics["yes_ratio"] == 0


@pytest.mark.parametrize(
    ("name", "doc", "text", "metrics"),
    [
        (
            "mme",
            {"answer": "Yes", "question_id": "a", "category": "count"},
            "Yes",
            {"perception": 50, "cognition": 0, "count": 50},
        ),
        (
            "mmbench",
            {"index": 1, "answer": "A", "A": "cat", "B": "dog"},
            "A",
            {"circular": 0, "vanilla": 100},
        ),
        (
            "chartqa",
            {"answer": "1", "type": "human_test"},
            "1",
            {"relaxed_accuracy": 50, "human": 50},
        ),
        ("docvqa", {"answers": [""]}, "", {"anls": 50}),
        ("gqa", {"answer": "no"}, "no", {"exact_match": 50}),
    ],
)
def test_an_error_flatters_no_metric(
    name: str, doc: Doc, text: str, metrics: dict[str, float]
) -> None:
    """Of two rows one is right, and one could not be asked."""
    rows: list[AnswerRow] = [{"id": 0, "text": text, "doc": doc}, error(1, doc)]
    summary = answers.summarise(name, rows)
    assert summary.metrics == metrics


def pope_items(category: str, pairs: list[tuple[str, str]]) -> list[Item]:
    items: list[Item] = []
    for answer, text in pairs:
        doc = {"answer": answer, "category": category}
        items.append((doc, pope.process(doc, [text])))
    return items


def test_pope_f1_is_the_mean_over_categories() -> None:
    hit = ("yes", "Yes")
    miss = ("yes", "No")
    rejection = ("no", "No")
    alarm = ("no", "Yes")
    random = pope_items("random", [hit, hit, miss, alarm])
    popular = pope_items("popular", [hit, rejection])
    adversarial = pope_items("adversarial", [miss, rejection, rejection])
    assert pope.f1(random) == pytest.approx(2 / 3)
    assert pope.f1(popular) == 1
    assert pope.f1(adversarial) == 0
    summary = pope.summarise([*random, *popular, *adversarial])
    assert summary.metrics["f1"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert summary.metrics["yes_ratio"] == pytest.approx(4 / 9)
    assert summary.score == pytest.approx(100 * 6 / 9)


@pytest.mark.parametrize(
    ("prediction", "target", "is_right"),
    [
        ("14", "14.5", True),
        ("14", "15", False),
        ("95", "100", True),
        ("105", "100", True),
        ("94.9", "100", False),
        ("-95", "-100", True),
        ("95", "-100", False),
        ("14%", "0.14", True),
        ("14%", "14", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("1,000", "1000", False),
        ("yes.", "Yes", False),
        ("Yes", "yes", True),
        ("$5", "5", False),
        ("five", "5", False),
        ("%", "%", True),
    ],
)
def test_chartqa_relaxed(prediction: str, target: str, is_right: bool) -> None:
    assert chartqa.relaxed(prediction, target) is is_right


def test_chartqa_strips_an_answer_and_reads_numbers() -> None:
    assert chartqa.process({"answer": 14}, [" 14\n"]) == {"score": 1}
    assert chartqa.process({"answer": "Yes"}, [" yes\n"]) == {"score": 1}


def test_chartqa_has_no_tolerance_around_0() -> None:
    assert not chartqa.relaxed("0.01", "0")
    assert not chartqa.relaxed("0", "0.0")


def chartqa_items(texts: dict[str, str]) -> list[Item]:
    items: list[Item] = []
    for kind, text in texts.items():
        doc = {"answer": "1", "type": kind}
        items.append((doc, chartqa.process(doc, [text])))
    return items


def test_chartqa_reports_both_halves() -> None:
    summary = chartqa.summarise(chartqa_items({"human_test": "1", "augmented_test": "2"}))
    assert summary.score == 50
    assert summary.metrics == {"relaxed_accuracy": 50, "human": 100, "augmented": 0}


def test_chartqa_leaves_out_a_half_without_questions() -> None:
    summary = chartqa.summarise(chartqa_items({"human_test": "1"}))
    assert summary.metrics == {"relaxed_accuracy": 100, "human": 100}


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Helo", ["hello"], 0.8),
        ("hexxx", ["hello"], 0),
        ("abxx", ["abcd"], 0.5),
        ("hello", ["hello", "hellx"], 1),
        ("$1,200", ["1,200", "$1200"], 0.8333),
        ("HELLO", ["hello"], 1),
        ("  a \n b ", ["a b"], 1),
        ("a b  ", ["a c"], 0.8),
        ("", [""], 1),
        ("x", [], 0),
    ],
)
def test_docvqa_anls(prediction: str, answers: list[str], score: float) -> None:
    assert docvqa.anls(prediction, answers) == pytest.approx(score, abs=1e-4)


def test_docvqa_reads_numbers() -> None:
    assert docvqa.process({"answers": [1993]}, ["1993"]) == {"score": 1}


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("A cat is here", {"A": "cat", "B": "dog"}, "A"),
        ("A dog is here", {"A": "cat", "B": "dog"}, "B"),
        ("A red dog", {"A": "cat", "B": "dog"}, "B"),
        ("cat and dog", {"A": "cat", "B": "dog"}, ""),
        ("a", {"A": "cat", "B": "dog"}, ""),
        ("B) dog", {"A": "cat", "B": "dog"}, "B"),
        ("B", {"A": "cat", "B": "dog"}, "B"),
        ("[B]", {"A": "cat", "B": "dog"}, "B"),
        ("A or B: dog", {"A": "cat", "B": "dog"}, "B"),
        ("A or B", {"A": "cat", "B": "dog"}, ""),
        ("The dog", {"A": "cat", "B": "dog"}, "B"),
        ("the DOG", {"A": "cat", "B": "Dog"}, "B"),
        ("E", {"A": "cat", "B": "dog"}, ""),
        ("I think it is B", {"A": "cat", "B": "dog"}, "B"),
        ("cats", {"A": "cat", "B": "cats"}, "B"),
        ("two cats", {"A": "cat", "B": "dog"}, ""),
        ("It is red and blue.", {"A": "red", "B": "red and blue"}, "B"),
        ("A dog on the left of a cat", {"A": "cat", "B": "dog"}, ""),
        ("The answer is A dog", {"A": "cat", "B": "dog"}, "B"),
        ("The answer is A because it is brown", {"A": "cat", "B": "dog"}, "A"),
        ("The answer is A or B", {"A": "cat", "B": "dog"}, ""),
        ("A, B", {"A": "cat", "B": "dog"}, ""),
        ("A. dog", {"A": "cat", "B": "dog"}, "A"),
        ("It is not a dog", {"A": "cat", "B": "dog"}, ""),
        ("The answer is not A", {"A": "cat", "B": "dog"}, ""),
        ("A is not correct", {"A": "cat", "B": "dog"}, ""),
        ("It is not A but B", {"A": "cat", "B": "dog"}, "B"),
        ("I think B is right, not A", {"A": "cat", "B": "dog"}, "B"),
        ("At first the answer is A. No, the answer is B.", {"A": "cat", "B": "dog"}, "B"),
        ("None of the above", {"A": "cat", "B": "None of the above"}, "B"),
        ("None of the above", {"A": "cat", "B": "dog"}, ""),
        ("It is sample A.", {"A": "neither", "B": "sample A", "C": "sample B"}, "B"),
        ("The line through point B and point C", {"A": "cat", "B": "dog", "C": "cow"}, ""),
        ("The line goes through point B", {"A": "cat", "B": "dog"}, ""),
        ("about 7.2 in all", {"A": "2", "B": "cat"}, ""),
        ("about 7.2 in all", {"A": "7", "B": "cat"}, ""),
        ("The answer is dog, as the cat is white", {"A": "cat", "B": "dog"}, "B"),
        ("There is not a figure to complete", {"A": "A", "B": "B"}, ""),
        ("I see a table", {"A": "A", "B": "B"}, ""),
        ("18cm", {"A": "9", "B": "18"}, "B"),
        ("0, 1", {"A": "(0, 1)", "B": "(1, 0)"}, "A"),
        ("dog", {"A": "cat", "B": "\\text{dog}"}, "B"),
        ("\\boxed{b}", {"A": "cat", "B": "dog"}, "B"),
        ("\uff22", {"A": "cat", "B": "dog"}, "B"),
        ("18cm", {"A": "9", "B": "18", "C": "18.0"}, ""),
        ("E", {"A": "cat", "B": "dog", "E": "cow"}, "E"),
        ("", {"A": "cat", "B": "dog"}, ""),
        (" ", {"A": "", "B": "dog"}, ""),
        ("B", {}, ""),
    ],
)
def test_mmbench_letters(text: str, options: dict[str, str], expected: str) -> None:
    assert mmbench.infer(text, options) == expected


PICTURES = {"A": "oil painting", "B": "sketch", "C": "photograph", "D": "digital art"}


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "{}.",
        "{})",
        "({})",
        "**{}**",
        '"{}"',
        "Option {}",
        "Answer: {}",
        "**Answer:** {}",
        "ANSWER: {}",
        "The answer is {}.",
        "The answer is **{}**.",
        "The answer is: {}",
        "the answer is ({})",
        "The correct answer is option {}.",
        "The answer to the question is {}.",
        "The best choice would be {}, as it shows.",
        "{} is correct",
        "{} is the right answer.",
        "It is {}",
        "It's {}.",
        "I choose {}",
        "So {}",
        "$\\boxed{{{}}}$",
        "\\boxed{{\\text{{{}}}}}",
        "<answer>{}</answer>",
        "\uff08{}\uff09",
    ],
)
def test_a_letter_is_read_in_sentences_whichever_it_is(answer: str, letter: str) -> None:
    """A is no rarer than the others, though it may be an article."""
    assert mmbench.infer(answer.format(letter), PICTURES) == letter


@pytest.mark.parametrize("answer", ["({})", "{}.", "{})", "Option {}", "the answer is {}"])
def test_a_small_letter_is_read_too(answer: str) -> None:
    assert mmbench.infer(answer.format("a"), PICTURES) == "A"
    assert mmbench.infer(answer.format("b"), PICTURES) == "B"


@pytest.mark.parametrize("mark", ".()[],:;!*#{}")
def test_mmbench_sees_a_letter_among_marks(mark: str) -> None:
    assert mmbench.infer(f"{mark}B{mark}cow", {"A": "cat", "B": "dog"}) == "B"


@pytest.mark.parametrize("mark", "-_/'?")
def test_mmbench_sees_no_letter_in_a_word_with_other_marks(mark: str) -> None:
    assert mmbench.infer(f"B{mark}cow", {"A": "cat", "B": "dog"}) == ""


def test_mmbench_scores_an_answer() -> None:
    doc = {"A": "cat", "B": "dog", "C": "nan", "D": None, "answer": "B"}
    assert mmbench.process(doc, ["B"]) == {"score": 1}
    assert mmbench.process(doc, ["dog"]) == {"score": 1}
    assert mmbench.process(doc, ["A"]) == {"score": 0}
    assert mmbench.process(doc, ["C"]) == {"score": 0}


def test_mmbench_wants_every_rotation_right() -> None:
    def item(index: int, score: float) -> Item:
        return {"index": index}, {"score": score}

    items = [item(1_000_001, 0), item(1, 1), item(2, 1), item(1_000_002, 1), item(3, 0)]
    summary = mmbench.summarise(items)
    assert summary.units == [0, 1, 0]
    assert summary.metrics["circular"] == summary.score == pytest.approx(100 / 3)
    assert summary.metrics["vanilla"] == pytest.approx(200 / 3), "rotations in any order"


def test_mmbench_bases_are_told_apart_up_to_a_million() -> None:
    items: list[Item] = []
    for index in (5, 500_005, 900_005, 1_000_005):
        items.append(({"index": index}, {"score": float(index < 1_000_000)}))
    assert mmbench.summarise(items).units == [0, 1, 1]


CHOICE = {"question_type": "multi_choice", "answer": "blue", "choices": ["red", "blue"]}
NUMBERED = "one two three four five six seven eight nine ten".split()
TEN_CHOICES = CHOICE | {"answer": "ten", "choices": NUMBERED}
SIDES = CHOICE | {"answer": "7.2", "choices": ["7.2", "8", "12", "15"]}
AREAS = CHOICE | {"answer": "24", "choices": ["30", "36", "72", "24"]}
ANGLES = CHOICE | {"answer": "145\u00b0", "choices": ["135\u00b0", "140\u00b0", "145\u00b0"]}
YES_OR_NO = CHOICE | {"answer": "No", "choices": ["Yes", "No"]}
INTEGER = {"question_type": "free_form", "answer_type": "integer", "precision": None}
FLOAT = {"question_type": "free_form", "answer_type": "float", "precision": 2}
LIST = {"question_type": "free_form", "answer_type": "list", "precision": None}


@pytest.mark.parametrize(
    ("doc", "text", "score"),
    [
        (INTEGER | {"answer": "7"}, "The answer is 7.", 1),
        (INTEGER | {"answer": "7"}, "7.9", 1),
        (INTEGER | {"answer": "7"}, "7 of 9", 0),
        (INTEGER | {"answer": "9"}, "7 of 9", 1),
        (INTEGER | {"answer": "-7"}, "-7", 1),
        (INTEGER | {"answer": "7"}, "-7", 0),
        (INTEGER | {"answer": "1200"}, "1,200", 1),
        (INTEGER | {"answer": "7"}, "none", 0),
        (INTEGER | {"answer": "many"}, "none", 0),
        (INTEGER | {"answer": "7.0"}, "7", 1),
        (INTEGER | {"answer": 7}, "7.", 1),
        (FLOAT | {"answer": "1.25"}, "1.251", 1),
        (FLOAT | {"answer": "1.25"}, "1.26", 0),
        (FLOAT | {"answer": "1.250"}, "1.25", 1),
        (FLOAT | {"answer": "1.2", "precision": None}, "1.24", 1),
        (FLOAT | {"answer": "1.2", "precision": 0}, "1.3", 0),
        (LIST | {"answer": "[1, 2]"}, " [1, 2]\n", 1),
        (LIST | {"answer": "[1, 2]"}, "[1,2]", 1),
        (LIST | {"answer": "[1, 2]"}, "The answer is [1, 2].", 1),
        (LIST | {"answer": "[1, 2]"}, "[1, 3]", 0),
        (LIST | {"answer": "[1, 2]"}, "1, 2", 0),
        (LIST | {"answer": ""}, "", 0),
        (CHOICE, "(B)", 1),
        (CHOICE, "the answer is (B) blue", 1),
        (CHOICE, "B.", 1),
        (CHOICE, "B:", 1),
        (CHOICE | {"answer": "red"}, "not blue, so (A)", 1),
        (CHOICE | {"answer": 4, "choices": [3, 4]}, "B", 1),
        (TEN_CHOICES, "J", 1),
        (TEN_CHOICES, "(J)", 1),
        (CHOICE, " B ", 1),
        (CHOICE, "B)", 1),
        (CHOICE, "bleu", 0),
        (CHOICE, "BLUE", 1),
        (CHOICE, "A", 0),
        (CHOICE, "(C) blue", 1),
        (CHOICE | {"answer": "4", "choices": "['3', '4']"}, "4", 1),
        (CHOICE | {"answer": "A", "choices": ["B", "A"]}, "A", 1),
        (CHOICE | {"answer": "red"}, "B", 0),
        (CHOICE | {"answer": "red"}, "Bred", 0),
        (CHOICE | {"answer": "a", "choices": ["a", "Bxx"]}, "C", 0),
        (SIDES, "The correct answer is B.", 0),
        (SIDES, "The correct answer is A.", 1),
        (SIDES, "7.2 cm", 1),
        (SIDES, "x = 7.2cm", 1),
        (SIDES, "7.20", 1),
        (SIDES, "17.2", 0),
        (SIDES, "7", 0),
        (SIDES, "9", 0),
        (AREAS, "The correct answer is D.", 1),
        (AREAS, "24 cm^2", 1),
        (AREAS, "-24", 0),
        (ANGLES, "145 degrees", 1),
        (ANGLES, "145", 1),
        (ANGLES, "The answer is 145°, since 110° + 35° is 145°", 1),
        (YES_OR_NO, "B. No. The nest in the image is too small.", 1),
        (YES_OR_NO, "No, since yes would be wrong", 1),
        (YES_OR_NO, "Noon", 0),
        (YES_OR_NO, "B", 1),
        (YES_OR_NO, "", 0),
        (YES_OR_NO, " \n", 0),
        (YES_OR_NO, "I cannot see the image", 0),
        (YES_OR_NO | {"choices": None}, "No", 0),
        (YES_OR_NO | {"choices": []}, "B", 0),
        (YES_OR_NO | {"choices": "[broken"}, "B", 0),
        (YES_OR_NO | {"answer": None}, "", 0),
        (INTEGER | {"answer": "24"}, "24 cm^2", 1),
        (INTEGER | {"answer": "2"}, "24 cm^2", 0),
        (INTEGER | {"answer": "1000"}, "1e3", 1),
        (INTEGER | {"answer": "-3"}, "\u22123", 1),
        (INTEGER | {"answer": "24"}, "about 24 (in 2010)", 1),
        (INTEGER | {"answer": "4"}, "There are four kites in the image.", 1),
        (INTEGER | {"answer": "24"}, "1e999", 0),
        (INTEGER | {"answer": "1e999"}, "1e999", 0),
        (INTEGER | {"answer": None}, "none", 0),
        (FLOAT | {"answer": "0.5"}, ".5", 1),
        (FLOAT | {"answer": "0.75"}, "3/4", 1),
        (FLOAT | {"answer": "0.0"}, "-0.001", 1),
        (FLOAT | {"answer": "1.2", "precision": float("nan")}, "1.24", 1),
        (FLOAT | {"answer": "1.2", "precision": float("inf")}, "1.24", 1),
    ],
)
def test_mathvista_by_rules(doc: Doc, text: str, score: float) -> None:
    assert mathvista.process(doc, [text])["score"] == score


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("24 cm\u00b2", 24),
        ("24cm2", 24),
        ("24 m^{-2}", 24),
        ("x = 24", 24),
        ("12 + 12 = 24 cm", 24),
        ("24.", 24),
        ("(24)", 24),
        ("24.0", 24),
        ("$1,200", 1200),
        ("-$3", -3),
        ("1,200.50", 1200.5),
        ("1,2", 2),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.5e-3", 0.0015),
        ("1.5 \u00d7 10^3", 1500),
        ("1.5 \\times 10^{3}", 1500),
        ("\u22123", -3),
        ("10-24", 24),
        ("10\u201324", 24),
        ("3/4", 0.75),
        ("\\frac{3}{4}", 0.75),
        ("3/0", 3),
        ("50%", 50),
        ("\u0663", 3),
        ("\uff12\uff14", 24),
        ("$\\boxed{24}$ of 30", 24),
        ("The answer is 24 because 12 + 12", 24),
        ("The value of y at x=-2.5 is 3.", 3),
        ("Eleven", 11),
        ("H2O", None),
        ("12/05/2010", None),
        ("inf", None),
        ("nan", None),
        ("1e999", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_the_number_of_an_answer(text: str, number: float | None) -> None:
    assert stated_number(text) == (None if number is None else pytest.approx(number))


def test_numbers_stand_in_turn() -> None:
    assert numbers("from -1,000 to 2.5e1 in 3 steps") == [-1000, 25, 3]


@pytest.mark.parametrize(
    ("text", "score"), [(" left. ", 1), ("LEFT!", 1), ("to the left", 0), ("le ft", 0)]
)
def test_gqa_ignores_case_punctuation_and_outer_space(text: str, score: float) -> None:
    assert exact.process({"answer": "Left"}, [text])["score"] == score


def test_gqa_reads_numbers() -> None:
    assert exact.process({"answer": 7}, ["7"])["score"] == 1


METRICS = {
    "textvqa": "vqa_accuracy",
    "textvqa_ocr": "vqa_accuracy",
    "vqav2": "vqa_accuracy",
    "gqa": "exact_match",
    "docvqa": "anls",
    "mathvista": "mathvista_rule",
}


@pytest.mark.parametrize(("name", "metric"), METRICS.items())
def test_the_metric_of_a_benchmark_has_its_usual_name(name: str, metric: str) -> None:
    summary = SCORERS[name].summarise([({}, {"score": 0.25}), ({}, {"score": 0.75})])
    assert summary.metrics == {metric: 50}
    assert summary.units == [0.25, 0.75]


METRICS_OF_GROUPS: list[tuple[str, Doc, set[str]]] = [
    ("mme", {"category": "OCR", "question_id": "a"}, {"perception", "cognition", "OCR"}),
    ("mmbench", {"index": 1}, {"circular", "vanilla"}),
    (
        "pope",
        {"category": "random", "answer": "yes"},
        {"accuracy", "f1", "f1_random", "yes_ratio"},
    ),
    ("chartqa", {"type": "human_test"}, {"relaxed_accuracy", "human"}),
]


@pytest.mark.parametrize(("name", "doc", "metrics"), METRICS_OF_GROUPS)
def test_a_benchmark_of_groups_has_its_metrics(name: str, doc: Doc, metrics: set[str]) -> None:
    summary = SCORERS[name].summarise([(doc, {"score": 1, "yes": 1})])
    assert set(summary.metrics) == metrics
    assert summary.score == 100


def test_standard_error() -> None:
    assert standard_error([0, 1, 0, 1]) == pytest.approx(0.2887, abs=1e-4)
    assert standard_error([0, 1]) == pytest.approx(0.5)
    assert standard_error([1.0]) == 0
    assert mean([]) == 0


def test_units_count_alike() -> None:
    summary = of_units([0, 1, 1, 0], {"metric": 3})
    assert (summary.score, summary.n, summary.metrics) == (50, 4, {"metric": 3})
    assert summary.stderr == pytest.approx(28.87, abs=0.01)
    assert summary.weights == [0.25] * 4


def test_strata_count_alike_whatever_their_sizes() -> None:
    summary = of_strata([0, 1, 1, 1, 0, 1], ["a", "a", "b", "b", "b", "b"], {})
    assert summary.score == pytest.approx(100 * (0.5 + 0.75) / 2)
    assert summary.weights == [1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8]
    assert summary.stderr == pytest.approx(100 * (0.5**2 + 0.25**2) ** 0.5 / 2)


def test_strata_without_a_unit_score_0() -> None:
    assert of_strata([], [], {}) == (0, 0, 0, {}, [], [])


def test_a_stratum_of_one_unit_takes_the_spread_of_all() -> None:
    summary = of_strata([0, 1, 1], ["a", "b", "b"], {})
    assert summary.score == 50
    assert summary.stderr == pytest.approx(100 * standard_error([0, 1, 1]))


def test_items_are_grouped_in_order_of_appearance() -> None:
    items: list[Item] = [({"k": key}, {"score": i}) for i, key in enumerate("bab")]
    groups: dict[Any, list[Item]] = grouped(items, lambda doc: doc["k"])
    assert list(groups) == ["b", "a"]
    assert [values["score"] for _, values in groups["b"]] == [0, 2]


@pytest.mark.parametrize(
    ("source", "target", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "bc", 1), ("ab", "ba", 2)],
)
def test_edit_distance(source: str, target: str, distance: int) -> None:
    assert levenshtein(source, target) == distance
