"""Another protocol's wording reaches the model, and stands in keys only where it differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luq.config import EvaluationConfig
from luq.errors import ConfigError
from luq.evaluation import answers, fidelity
from luq.evaluation.ask import ask, with_docs
from luq.evaluation.lm import LoadedVLM
from luq.evaluation.predictions import AnswerRow, Predictions
from luq.evaluation.scorers import SCORERS
from luq.pocket import benchmarks
from luq.questions.prompts import OTHER_PROMPTS, PROMPTS, prompt_of
from luq.questions.sources import QuestionTable, evaluation_table
from luq.questions.specs import task_config
from luq.store.artefact import Tools
from luq.store.store import Store
from tests.conftest import BENCHMARKS

SETTINGS = EvaluationConfig("test", BENCHMARKS, data="pocket")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(Store(tmp_path_factory.mktemp("protocol")))


def table(name: str, protocol: str, tools: Tools) -> QuestionTable:
    return evaluation_table(name, replace(SETTINGS, protocol=protocol), tools.store.root)


@pytest.mark.parametrize("name", OTHER_PROMPTS["qwen"])
def test_the_wording_reaches_the_model_when_it_is_asked(
    lm: LoadedVLM, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name not in BENCHMARKS:
        pytest.skip("no pocket questions")
    contexts: list[str] = []
    limits: list[dict[str, Any]] = []

    def answer(requests: list[Any]) -> list[AnswerRow]:
        for request in requests:
            contexts.append(request.args[0])
            limits.append(request.args[1])
        return [{"id": lm._row_id(request), "text": "B. No"} for request in requests]

    monkeypatch.setattr(lm, "_answer", answer)
    questions = table(name, "qwen", tools).open(tools)
    ids = [0, 1]
    rows = with_docs(questions, ask(lm, questions, ids, Predictions(tmp_path / "rows.jsonl")))
    prompts = [prompt_of(name, "qwen")(row["doc"]) for row in rows]
    assert len(contexts) == 2
    for prompt in prompts:
        assert any(prompt in context for context in contexts)
    expected = task_config(name, "qwen")["generation_kwargs"]
    assert limits[0]["max_gen_toks"] == expected["max_gen_toks"]
    assert limits[0]["until"] == expected["until"]
    assert 0 <= answers.summarise(name, rows).score <= 100


def test_the_wording_reaches_the_model_when_fidelity_is_measured(
    lm: LoadedVLM, tools: Tools
) -> None:
    questions = table("mmbench", "qwen", tools).open(tools)
    doc = questions.docs[0]
    forced = fidelity.forced(lm, questions, 0, doc, "")
    assert prompt_of("mmbench", "qwen")(doc) in forced.text
    assert PROMPTS["mmbench"](doc) not in forced.text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_keys_change_where_the_wording_does(tools: Tools, name: str) -> None:
    default = evaluation_table(name, SETTINGS, tools.store.root)
    assert table(name, "llava", tools) == default
    differs = name in OTHER_PROMPTS["qwen"]
    assert (table(name, "qwen", tools) != default) == differs


def test_the_default_protocol_leaves_keys_alone(tools: Tools) -> None:
    """A table as it was before there were protocols has the same key."""
    default = evaluation_table("mme", SETTINGS, tools.store.root)
    old = QuestionTable("mme", default.content, default.task, default.prompts)
    assert old == default


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.protocol.*llava, qwen"):
        replace(SETTINGS, protocol="gpt")


@pytest.mark.parametrize(
    ("name", "text", "score"),
    [
        ("mme", "Yes, it is.", 1),
        ("pope", "No, there is no dog in the picture.", 0),
        ("mmbench", "{letter}. {option}", 1),
        ("mathvista", "First we count.\n\nSo there are three of them.\nThe answer is {letter}.", 1),
    ],
)
def test_the_answers_that_it_draws_are_read(name: str, text: str, score: float) -> None:
    if name == "mathvista":
        doc = {"question_type": "multi_choice", "choices": ["2", "3"], "answer": "3"}
        answer = text.format(letter="B")
    elif name == "mmbench":
        doc = next(iter(benchmarks.build(name, "selection", bases=1)))
        answer = text.format(letter=doc["answer"], option=doc[doc["answer"]])
    else:
        doc = {"question_id": 0, "category": "random", "answer": "yes"}
        answer = text
    assert SCORERS[name].process(doc, [answer])["score"] == score
