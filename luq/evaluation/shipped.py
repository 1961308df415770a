"""What a folder for llama.cpp answers there, and how alike that is to the run's own answers.

Both sides are asked the same questions. Of each are kept the prompt's tokens and what is thought of
the answer's first token, so that a difference can be traced to tokens, to probabilities, or to what
was chosen after them.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from luq.config.checks import VOLATILE
from luq.evaluation.answers import ANSWERS
from luq.evaluation.artefacts import Batching, install_folders
from luq.evaluation.compare import bootstrap
from luq.evaluation.intervals import Estimate
from luq.evaluation.predictions import (
    IMAGE,
    TOP_FIRST,
    AnswerRow,
    PromptRow,
    read_answers,
    write_rows,
)
from luq.models.checkpoint import Checkpoint
from luq.questions.sources import QuestionTable
from luq.questions.subsets import Subset, choose
from luq.store.artefact import Artefact, Tools
from luq.store.keys import Identified

if TYPE_CHECKING:
    from luq.evaluation.lm import LoadedVLM
    from luq.questions.tables import Questions

PROMPTS = "prompts.jsonl"
LEAST_SHARE = 1e-12  # of the tokens that are not kept, so that its logarithm is finite
Keys = tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class GgufFiles(Identified):
    """A language model and its tower for llama.cpp, as they stand in keys: by their bytes."""

    model: str  # sha256
    mmproj: str
    folder: Path = field(metadata=VOLATILE)


@dataclass(frozen=True, eq=False, repr=False)
class GgufAnswers(Artefact[list[AnswerRow]]):
    """What a folder says in llama.cpp to the questions of one benchmark."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 1
    files: GgufFiles
    library: str  # version of llama-cpp-python
    system_prompt: str
    table: QuestionTable
    subset: Subset

    @property
    def description(self) -> str:
        return f"llama.cpp's answers to {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import ask
        from luq.evaluation.llama_cpp import LlamaCppLM
        from luq.evaluation.predictions import Predictions

        questions = self.table.open(tools)
        ids = choose(questions, self.subset)
        under_way = Predictions(tools.store.resumable(self, "partial.jsonl"))
        lm = tools.hold(LlamaCppLM, (self.files, self.system_prompt), self._opened)
        with tools.progress.bar(self.table.benchmark, len(ids)) as advance:
            rows = ask.ask(lm, questions, ids, under_way, advance=lambda n: advance("", n))
        write_rows(folder / ANSWERS, ask.with_docs(questions, rows))

    def _opened(self) -> Any:
        from luq.evaluation.llama_cpp import LlamaCpp, LlamaCppLM
        from luq.export.about import MMPROJ, MODEL

        folder = self.files.folder
        return LlamaCppLM(LlamaCpp(folder / MODEL, folder / MMPROJ), self.system_prompt)

    def read(self, folder: Path) -> list[AnswerRow]:
        return read_answers(folder / ANSWERS)


@dataclass(frozen=True, eq=False, repr=False)
class FirstTokens(Artefact[list[PromptRow]]):
    """What a run's packed model reads of one benchmark's questions, and would say first.

    `layers` and `parts` are keys of what the run packed: nothing is packed for this.
    """

    stage: ClassVar[str] = "first_tokens"
    version: ClassVar[int] = 1
    checkpoint: Checkpoint
    layers: Keys
    parts: tuple[tuple[str, str], ...]  # part, key
    table: QuestionTable
    subset: Subset
    batching: Batching

    @property
    def description(self) -> str:
        return f"the first tokens of the answers to {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import ask
        from luq.evaluation.lm import LoadedVLM
        from luq.models.vlm import loaded

        questions = self.table.open(tools)
        ids = choose(questions, self.subset)
        vlm = loaded(tools, self.checkpoint)
        layers = [tools.store.verify("layers", key) for key in self.layers]
        parts = {part: tools.store.verify("parts", key) for part, key in self.parts}
        install_folders(vlm, layers, parts)
        batch_size = self.batching.batch_size
        key = (self.checkpoint, batch_size)
        lm = tools.hold(LoadedVLM, key, lambda: ask.make_lm(vlm, batch_size))
        rows: list[PromptRow] = []
        with tools.progress.bar(self.table.benchmark, len(ids)) as advance:
            for start in range(0, len(ids), batch_size):
                batch = ids[start : start + batch_size]
                rows += _first_tokens(lm, questions, batch)
                advance("", len(batch))
        write_rows(folder / PROMPTS, rows)

    def read(self, folder: Path) -> list[PromptRow]:
        lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def _first_tokens(lm: "LoadedVLM", questions: "Questions", ids: list[int]) -> Iterator[PromptRow]:
    """Prompts of one batch as the processor writes them, and the model's first tokens.

    Questions that cannot be asked are left out.
    """
    import torch

    from luq.errors import DataError
    from luq.evaluation.ask import check
    from luq.evaluation.fidelity import question_chat
    from luq.evaluation.lm import UnaskableError
    from luq.models.processors import image_token_id
    from luq.models.quiet import quiet

    good = check(questions, ids, strict=False).good
    asked: list[int] = []
    chats: list[str] = []
    images: list[list[Any]] = []
    for id_, doc in zip(good, questions.docs.select(good), strict=True):
        try:
            image = questions.image(id_).convert("RGB")
        except DataError:
            continue
        asked.append(id_)
        chats.append(question_chat(lm, questions, doc))
        images.append([image])
    with quiet(), torch.no_grad():
        try:
            encoded = lm.tok_batch_multimodal_encode(chats, images)
        except UnaskableError as error:
            for place in sorted(error.reasons, reverse=True):
                del asked[place], chats[place], images[place]
            if asked:
                yield from _first_tokens(lm, questions, asked)
            return
        logits = lm.vlm.model(**encoded, logits_to_keep=1).logits[:, -1]
    logs = logits.float().log_softmax(-1).cpu()
    image_token = image_token_id(lm.vlm.model.config, lm.vlm.processor)
    for id_, tokens, mask, row in zip(
        asked, encoded["input_ids"], encoded["attention_mask"], logs, strict=True
    ):
        top = row.topk(min(TOP_FIRST, len(row)))
        prompt = [IMAGE if token == image_token else token for token in tokens[mask > 0].tolist()]
        yield {
            "id": id_,
            "tokens": prompt,
            "top": top.indices.tolist(),
            "logs": top.values.tolist(),
        }


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
    both = [row for row in llama_cpp if "text" in row and row["id"] in texts]
    same_answers = sum(row["text"].strip() == texts[row["id"]].strip() for row in both)
    same_prompts = 0
    divergences: list[float] = []
    for row in both:
        prompt = row.get("prompt")
        known = prompts.get(row["id"])
        if prompt is None or known is None:
            continue
        same_prompts += prompt["tokens"] == known["tokens"]
        divergences.append(divergence(known, prompt))
    return Agreement(len(both), same_answers, len(divergences), same_prompts, divergences)


def divergence(reference: PromptRow, other: PromptRow) -> float:
    """KL(reference || other) of the first token in nats, over the tokens that both keep and all
    others as one: a lower bound of the KL over all tokens.
    """
    # KL = sum_i p_i (log p_i - log q_i) + p_others log(p_others / q_others)
    others = dict(zip(other["top"], other["logs"], strict=True))
    kl = 0.0
    p_kept = 0.0
    q_kept = 0.0
    for token, log_p in zip(reference["top"], reference["logs"], strict=True):
        if token in others:
            kl += math.exp(log_p) * (log_p - others[token])
            p_kept += math.exp(log_p)
            q_kept += math.exp(others[token])
    p_others = max(1 - p_kept, LEAST_SHARE)
    q_others = max(1 - q_kept, LEAST_SHARE)
    # rounding can leave a little less than 0
    return max(kl + p_others * math.log(p_others / q_others), 0.0)
