"""How a model in training answers a few held-out questions of every benchmark.

Whether a greedy answer would be the right one is read off one pass over question and answer: it is
if every token of the answer is the likeliest one after those before it.
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luq.pocket.benchmarks import ROWS, SEEDS, image_column
from luq.pocket.drawing import Scene
from luq.pocket.family import Family
from luq.pocket.language import hidden_states
from luq.pocket.stream import Stream
from luq.questions.prompts import PROMPTS, TARGETS

SEED = 1  # the selection split's own questions have 0
AT_ONCE = 16  # questions of a pass


class Asked(NamedTuple):
    """A question with its answer."""

    scene: Scene
    ids: Tensor  # [length]
    is_answer: Tensor  # which of the tokens are the answer's, [length]


class Result(NamedTuple):
    """Shares of right answers."""

    right: float
    constant: float  # of whoever always gives the commonest answer


class Quiz:
    """Questions, the same at every look.

    Args:
        stream: Which writes them as the training does.
        count: Base questions of each benchmark.
    """

    def __init__(self, stream: Stream, count: int):
        self.questions: dict[str, list[Asked]] = {}
        self.constants: dict[str, float] = {}
        for place, benchmark in enumerate(ROWS):
            rng = np.random.default_rng([SEEDS["selection"], SEED, place])
            rows = []
            for index in range(count):
                # Some base questions give several rows: the last and the first in turn.
                base_rows = ROWS[benchmark](rng, "selection", index)
                rows.append(base_rows[index % 2 - 1])
            answers = [TARGETS[benchmark](row) for row in rows]
            self.constants[benchmark] = Counter(answers).most_common(1)[0][1] / count
            questions = []
            for row, answer in zip(rows, answers, strict=True):
                scene = row[image_column(benchmark)]
                exchange = (PROMPTS[benchmark](row), answer)
                ids, weight = stream.writer.conversation(scene, [exchange])
                questions.append(Asked(scene, torch.from_numpy(ids), torch.from_numpy(weight) > 0))
            self.questions[benchmark] = questions

    @torch.no_grad()
    def results(self, family: Family, model: Any) -> dict[str, Result]:
        """Benchmark -> how its questions are answered."""
        results = {}
        for benchmark, questions in self.questions.items():
            right = 0
            for start in range(0, len(questions), AT_ONCE):
                right += _right_answers(family, model, questions[start : start + AT_ONCE])
            results[benchmark] = Result(right / len(questions), self.constants[benchmark])
        return results


def _right_answers(family: Family, model: Any, questions: list[Asked]) -> int:
    """How many of some questions are answered rightly."""
    padded = torch.nn.utils.rnn.pad_sequence
    ids = padded([each.ids for each in questions], batch_first=True).to(model.device)
    is_answer = padded([each.is_answer for each in questions], batch_first=True).to(model.device)
    # Padding stands behind and is seen by nothing before it.
    hidden = hidden_states(family, model, ids, [each.scene for each in questions])
    learned = is_answer[:, 1:]
    likeliest = model.lm_head(hidden[:, :-1][learned]).argmax(-1)
    is_wrong = torch.zeros_like(learned)
    is_wrong[learned] = likeliest != ids[:, 1:][learned]
    return int((~is_wrong.any(1)).sum())
