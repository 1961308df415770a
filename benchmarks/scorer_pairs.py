"""Questions and answers on which scorers are compared: seeded, in the shapes that models write.

Every pair says in which shape its answer is written, so that disagreements can be told by class.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from luq.evaluation.normalize import CONTRACTIONS
from luq.questions.prompts import Doc


class Pair(NamedTuple):
    """A question, an answer to it, and the shape in which the answer is written."""

    doc: Doc
    text: str
    shape: str


NOUNS = (
    "cat|cats|dog|red|blue|oil-painting|sketch|left|right|stop|U.S.A.|Coca-Cola|7up|ice cream|"
    "traffic light|the beach|a bench|none|two dogs|San Francisco|it's|dr. pepper|new york city"
).split("|")
# Longer options that hold shorter ones, and options that begin as sentences do.
PHRASES = (
    "cat|cats|cat and dog|red|red and blue|a dog|an oil painting|to the left|to the right|"
    "none of the above|all of the above|sample A|sample B|Yes|No|not sure|equal to|larger than"
).split("|")
LETTER_SHAPES = (
    "{0}|{0}.|({0})|{0})|{0}:|**{0}**|Option {0}|option {0}.|Answer: {0}|The answer is {0}.|"
    "The answer is {0}|The correct answer is ({0}).|The correct answer is {0}.|{0} is correct|"
    "It is {0}|It's {0}.|I think it is {0}|So the answer is option {0}."
).split("|")
LETTER_AND_TEXT_SHAPES = (
    "{0}. {1}",
    "({0}) {1}",
    "{0}: {1}",
    "The answer is ({0}) {1}.",
    "{0} {1}",
)
TEXT_SHAPES = ("{1}", "{1}.", "The answer is {1}.", "It is {1}", "There is {1} in the picture.")
OTHER_SHAPES = ("", " ", "I do not know", "?", "A or B", "E", "a", "The image shows a table.")
SENTENCES = ("{}", "{}.", " {}", "{}\n", "The {}", "a {}", "{}!", "It is {}.", "{}, I think")
YES_OR_NO = (
    "yes|no|Yes|No|YES|NO|Yes.|No.|yes,|No, there is not|Yes, there is|There is no dog|There is a|"
    "not|nope|none|Y|n|The answer is yes|It is not|no yes|Yes. No.|  yes|Unknown||unanswerable"
).split("|")
NUMBERS = (
    "{0}|{0}.|{0}%|${0}|{0} cm|{0} cm^2|x = {0}|The answer is {0}.|about {0}|{0}.0|{0},000|-{0}|"
    "\u2212{0}|.{0}|{0}e1|{0} (in 2010)|{0}/2|none|{0} of 9|[{0}, 2]|[{0},2]"
).split("|")


def mmbench(random: Random) -> Pair:
    """A question with two to four options."""
    count = random.randint(2, 4)
    options = dict(zip("ABCD", random.sample(PHRASES, count), strict=False))
    doc = {"A": "nan", "B": "nan", "C": "nan", "D": "nan", "index": 1, "answer": "A"} | options
    doc["answer"] = random.choice(list(options))
    return Pair(doc, *_choice_answer(random, options))


def _choice_answer(random: Random, options: dict[str, str]) -> tuple[str, str]:
    """An answer to a question with options, and its shape."""
    letter = random.choice(list(options))
    shapes = random.choice((LETTER_SHAPES, LETTER_AND_TEXT_SHAPES, TEXT_SHAPES, OTHER_SHAPES))
    shape = random.choice(shapes)
    return shape.format(letter, options[letter]), shape.format("LETTER", "TEXT")


def mathvista(random: Random) -> Pair:
    """A question of any kind."""
    kind = random.choice(("words", "numbers", "integer", "float", "list"))
    value = str(random.randint(1, 99))
    doc: Doc = {"pid": "1", "query": "", "unit": None, "precision": None, "choices": None}
    if kind in ("words", "numbers"):
        values = [str(value) for value in random.sample(range(1, 99), 4)]
        choices = values if kind == "numbers" else random.sample(PHRASES, 4)
        doc |= {"question_type": "multi_choice", "answer_type": "text", "choices": choices}
        doc["answer"] = random.choice(choices)
        text, shape = _choice_answer(random, dict(zip("ABCD", choices, strict=True)))
        return Pair(doc, text, f"{kind}: {shape}")
    doc |= {"question_type": "free_form", "answer_type": kind, "answer": value}
    if kind == "float":
        doc |= {"precision": 1.0, "answer": f"{value}.0"}
    elif kind == "list":
        doc["answer"] = f"[{value}, 2]"
    shape = random.choice(NUMBERS)
    return Pair(doc, shape.format(value), f"{kind}: {shape.format('24')}")


def _short_answer(random: Random) -> tuple[str, str, str]:
    """A reference answer, an answer, and its shape."""
    kind = random.choice(("noun", "noun", "contraction", "number"))
    if kind == "contraction":
        short, contraction = random.choice(list(CONTRACTIONS.items()))
        answer = random.choice((short, contraction, contraction.replace("'", "")))
        return contraction, answer, "contraction"
    if kind == "number":
        value = str(random.randint(0, 12))
        shape = random.choice(NUMBERS)
        return value, shape.format(value), shape.format("24")
    noun = random.choice(NOUNS)
    shape = random.choice(SENTENCES)
    answer = shape.format(random.choice((noun, noun.upper(), noun.replace("-", " "))))
    return noun, answer, shape.format("cat").strip(" ")


def textvqa(random: Random) -> Pair:
    """A question that ten people answered, not all alike."""
    reference, text, shape = _short_answer(random)
    agreeing = random.randint(0, 10)
    other_answers = [random.choice(NOUNS) for _ in range(10 - agreeing)]
    return Pair({"question_id": 1, "answers": [reference] * agreeing + other_answers}, text, shape)


def vqav2(random: Random) -> Pair:
    """As TextVQA's, with a record per answer."""
    doc, text, shape = textvqa(random)
    answers = [{"answer": answer, "answer_id": i} for i, answer in enumerate(doc["answers"])]
    return Pair(doc | {"answers": answers}, text, shape)


def gqa(random: Random) -> Pair:
    """A question with one short answer."""
    reference, text, shape = _short_answer(random)
    return Pair({"answer": reference}, text, shape)


def docvqa(random: Random) -> Pair:
    """A question whose answer is misread here and there."""
    reference, text, shape = _short_answer(random)
    letters = list(text)
    errors = random.randint(0, 2) if letters else 0
    for _ in range(errors):
        letters[random.randrange(len(letters))] = random.choice("abc 1")
    answers = [reference, random.choice(NOUNS)]
    return Pair({"answers": answers}, "".join(letters), f"{errors} errors, {shape}")


def chartqa(random: Random) -> Pair:
    """A question about a number, a share or a word."""
    if random.random() < 0.3:
        reference, text, shape = _short_answer(random)
    else:
        value = random.randint(0, 200)
        reference = random.choice((str(value), f"{value}%", f"{value / 100}"))
        shape = random.choice(NUMBERS)
        text = shape.format(round(value * random.uniform(0.9, 1.1)))
        shape = shape.format("24")
    return Pair({"answer": reference, "type": "human_test"}, text, shape)


def yes_or_no(random: Random) -> Pair:
    """A question of MME or POPE."""
    text = random.choice(YES_OR_NO)
    doc = {"question_id": 1, "category": "random", "answer": random.choice(("yes", "no"))}
    return Pair(doc, text, text)


GENERATORS: dict[str, Callable[[Random], Pair]] = {
    "mme": yes_or_no,
    "pope": yes_or_no,
    "mmbench": mmbench,
    "textvqa": textvqa,
    "vqav2": vqav2,
    "gqa": gqa,
    "chartqa": chartqa,
    "docvqa": docvqa,
    "mathvista": mathvista,
}


def generated(scorer: str, count: int, seed: int) -> Iterator[Pair]:
    """So many pairs for a scorer, the same for the same seed."""
    random = Random(f"{scorer} {seed}")
    for _ in range(count):
        yield GENERATORS[scorer](random)
