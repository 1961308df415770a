"""The scorer of every benchmark. Scorers are pure: they see a question and a text, no model."""

from collections.abc import Callable
from dataclasses import dataclass

from luq.evaluation.scorers import chartqa, docvqa, exact, mathvista, mmbench, mme, pope, vqa
from luq.evaluation.scorers.summary import Doc, Item, Summary, Values

# Stands in every record. Raise it when a scorer changes: `luq rescore` then scores old answers
# again.
VERSION = 3


@dataclass(frozen=True)
class Scorer:
    """How one benchmark is scored.

    `process` scores the answer to one question; `summarise` makes the benchmark's score of them.
    `process` takes a list of one text, as lm-eval calls it.
    """

    process: Callable[[Doc, list[str]], Values]
    summarise: Callable[[list[Item]], Summary]


SCORERS: dict[str, Scorer] = {
    "mme": Scorer(mme.process, mme.summarise),
    "mmbench": Scorer(mmbench.process, mmbench.summarise),
    "textvqa": Scorer(vqa.textvqa, vqa.summarise),
    "textvqa_ocr": Scorer(vqa.textvqa, vqa.summarise),
    "vqav2": Scorer(vqa.vqav2, vqa.summarise),
    "gqa": Scorer(exact.process, exact.summarise),
    "pope": Scorer(pope.process, pope.summarise),
    "chartqa": Scorer(chartqa.process, chartqa.summarise),
    "docvqa": Scorer(docvqa.process, docvqa.summarise),
    "mathvista": Scorer(mathvista.process, mathvista.summarise),
}
