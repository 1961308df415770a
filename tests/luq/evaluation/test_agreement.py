"""How alike two sides answer: counts and divergences, by hand."""

import math

import pytest

from luq.evaluation.agreement import agreement, divergence, pooled
from luq.evaluation.predictions import AnswerRow, PromptRow


def prompt(id_: int, tokens: list[int], probabilities: dict[int, float]) -> PromptRow:
    logs = [math.log(p) for p in probabilities.values()]
    return {"id": id_, "tokens": tokens, "top": list(probabilities), "logs": logs}


def test_the_divergence_is_kl_where_both_keep_all_tokens() -> None:
    run = prompt(0, [], {1: 0.5, 2: 0.5})
    other = prompt(0, [], {2: 0.75, 1: 0.25})
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(run, other) == pytest.approx(expected)


def test_tokens_that_one_side_lacks_count_as_one() -> None:
    run = prompt(0, [], {1: 0.6, 2: 0.3})
    other = prompt(0, [], {1: 0.5, 3: 0.4})
    expected = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    assert divergence(run, other) == pytest.approx(expected)


def test_only_what_both_answered_counts() -> None:
    run: list[AnswerRow] = [{"id": 0, "text": "Yes"}, {"id": 1, "error": "no image"}]
    run += [{"id": 2, "text": "No"}]
    same = prompt(0, [5, 6], {1: 0.9})
    other = prompt(2, [5, 7], {1: 0.9})
    answered: list[AnswerRow] = [{"id": 0, "text": " Yes", "prompt": same}]
    answered += [{"id": 1, "text": "7"}, {"id": 2, "text": "Yes", "prompt": other}]
    seen = agreement(run, answered, [same, prompt(2, [5, 6], {1: 0.9})])
    assert (seen.n, seen.same_answers, seen.prompts, seen.same_prompts) == (2, 1, 2, 1)
    both = pooled([seen, seen])
    assert (both.n, both.same_answers, both.prompts, both.same_prompts) == (4, 2, 4, 2)
    assert len(both.divergences) == 4
