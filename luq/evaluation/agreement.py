"""How alike the answers of a run and of its folder in llama.cpp are.

Both sides are asked the same questions. Of each are kept the prompt's tokens and what is thought of
the answer's first token, so that a difference can be traced to tokens, to probabilities, or to what
was chosen after them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from luq.evaluation.compare import bootstrap
from luq.evaluation.intervals import Estimate
from luq.evaluation.predictions import AnswerRow, PromptRow

LEAST_SHARE = 1e-12  # of the tokens that are not kept, so that its logarithm is finite


class Agreement(NamedTuple):
    """How alike two sides are, over `n` questions that both answered."""

    n: int
    same_answers: int
    prompts: int  # of which both sides have the prompt
    same_prompts: int
    divergences: list[float]  # KL of the first token, run to llama.cpp, nats, where both have it

    @property
    def kl(self) -> Estimate | None:
        """The mean divergence; None if nothing has one."""
        return Estimate(*bootstrap(self.divergences)) if self.divergences else None


def pooled(agreements: Sequence[Agreement]) -> Agreement:
    """Over all questions of several benchmarks."""
    divergences: list[float] = []
    for each in agreements:
        divergences += each.divergences
    return Agreement(
        sum(each.n for each in agreements),
        sum(each.same_answers for each in agreements),
        sum(each.prompts for each in agreements),
        sum(each.same_prompts for each in agreements),
        divergences,
    )


def agreement(
    run: list[AnswerRow], llama_cpp: list[AnswerRow], first: list[PromptRow]
) -> Agreement:
    """Compare the answers of a run with those of its folder in llama.cpp, question by question.

    Args:
        run: its answers.
        llama_cpp: the folder's.
        first: the run's prompts and first tokens.
    """
    texts = {row["id"]: row["text"] for row in run if "text" in row}
    prompts = {row["id"]: row for row in first}
    common_rows = [row for row in llama_cpp if "text" in row and row["id"] in texts]
    same_answers = sum(row["text"].strip() == texts[row["id"]].strip() for row in common_rows)
    same_prompts = 0
    divergences: list[float] = []
    for row in common_rows:
        folder_prompt = row.get("prompt")
        run_prompt = prompts.get(row["id"])
        if folder_prompt is None or run_prompt is None:
            continue
        same_prompts += folder_prompt["tokens"] == run_prompt["tokens"]
        divergences.append(divergence(run_prompt, folder_prompt))
    return Agreement(len(common_rows), same_answers, len(divergences), same_prompts, divergences)


def divergence(reference: PromptRow, candidate: PromptRow) -> float:
    """KL(reference || candidate) of the first token in nats, over the tokens that both keep and all
    others as one: a lower bound of the KL over all tokens.
    """
    # KL = sum_i p_i (log p_i - log q_i) + p_others log(p_others / q_others), i over the tokens
    # that both keep, p the reference's probabilities and q the candidate's
    candidate_logs = dict(zip(candidate["top"], candidate["logs"], strict=True))
    kl = 0.0
    p_kept = 0.0
    q_kept = 0.0
    for token, log_p in zip(reference["top"], reference["logs"], strict=True):
        if token in candidate_logs:
            kl += math.exp(log_p) * (log_p - candidate_logs[token])
            p_kept += math.exp(log_p)
            q_kept += math.exp(candidate_logs[token])
    p_others = max(1 - p_kept, LEAST_SHARE)
    q_others = max(1 - q_kept, LEAST_SHARE)
    # rounding can leave a little less than 0
    return max(kl + p_others * math.log(p_others / q_others), 0.0)
