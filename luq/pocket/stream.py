"""The training mixture of the pocket models: pictures with questions, facts, arithmetic and real English."""

from typing import Any, NamedTuple

import numpy as np

from luq.evaluation.prompts import PROMPTS, SHORT, TARGETS
from luq.pocket import facts, skills, text
from luq.pocket.questions import Question, text_question
from luq.pocket.world import COLOUR_NAMES, GRID, SHAPES, Scene, make_scene

Turn = tuple[str, str]  # what the user asks and what the assistant answers
IMAGE_TOKENS = GRID * GRID
NUMBERS = ("digits", "chart", "code")  # kinds of scenes that MathVista asks about
CAPTIONS = ((0.0, 0.25, 0.6), (0.65, 0.65, 0.08))  # progress -> share of pictures that are first described
FACTS, ENGLISH = (0.17, 0.12), (0.12, 0.06)  # share of sequences in the first and in the second half of training
DRILLS = 0.12  # share of sequences that only ask whether two words are the same, or which option is a word
PLACES = 0.15  # share of pictures whose items are placed in the second half
ENGLISH_WEIGHT = 0.3  # of a token of a passage, against 1 for a token of an answer


class Batch(NamedTuple):
    """One batch: the scenes that its image tokens show, token ids and loss weights [batch, length]."""

    scenes: list[Scene]
    ids: np.ndarray
    weight: np.ndarray


class Stream:
    """Endless training sequences, each a function of (seed, step, index)."""

    def __init__(self, tokenizer: Any, batch: int, length: int, seed: int):
        self.tokenizer, self.size, self.length, self.seed = tokenizer, batch, length, seed
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        joined = [t + [tokenizer.eos_token_id] for t in tokenizer(text.split("train")).input_ids]
        self.english = np.concatenate([np.asarray(t, np.int64) for t in joined])

    def _turns(self, rng: np.random.Generator, progress: float) -> tuple[Scene | None, list[Turn]]:
        if rng.random() < DRILLS:
            return None, [drill(rng) for _ in range(14)]
        if rng.random() < FACTS[progress >= 0.5]:
            turns = []
            for _ in range(14):
                q = text_question(rng)
                kind = rng.random()
                if kind < 0.8 or not q.distractors:
                    turns.append((q.text + SHORT, q.answer))
                else:
                    yes = rng.random() < 0.5
                    turns.append((q.claim.format(q.answer if yes else q.distractors[0]) + SHORT, "Yes" if yes else "No"))
            return None, turns
        scene, turns = scene_turns(rng)
        if rng.random() < float(np.interp(progress, *CAPTIONS)):
            turns.insert(0, ("Describe the image.", skills.caption(scene)))
        if progress >= 0.5 and rng.random() < PLACES:
            turns.insert(0, ("Where is everything?", skills.places(scene)))
        return scene, turns

    def sequence(self, step: int, index: int, progress: float) -> tuple[Scene | None, np.ndarray, np.ndarray]:
        """Scene (or None), token ids [length] and how much each token counts in the loss."""
        rng = np.random.default_rng([self.seed, 2, step, index])
        length = self.length
        if rng.random() < ENGLISH[progress >= 0.5]:
            start = int(rng.integers(len(self.english) - length))
            ids = self.english[start : start + length]
            return None, ids, np.full(length, ENGLISH_WEIGHT, np.float32)
        scene, turns = self._turns(rng, progress)
        pieces, learned = [[self.tokenizer.bos_token_id]], [False]
        for i, (question, answer) in enumerate(turns):
            image = "<image>\n" if i == 0 and scene is not None else ""
            ask, reply = self._encode(f"USER: {image}{question} ASSISTANT:"), self._encode(f" {answer}</s>")
            if image:
                at = ask.index(self.image)
                ask = ask[:at] + [self.image] * IMAGE_TOKENS + ask[at + 1 :]
            pieces += [ask, reply]
            learned += [False, True]
        ids = np.concatenate([np.asarray(p, np.int64) for p in pieces])[:length]
        weights = [np.full(len(p), flag, np.float32) for p, flag in zip(pieces, learned, strict=True)]
        weight = np.concatenate(weights)[:length]
        pad = length - len(ids)
        return scene, np.pad(ids, (0, pad)), np.pad(weight, (0, pad))

    def _encode(self, piece: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def batch(self, step: int, progress: float) -> Batch:
        """The batch of a step; `progress` in [0, 1] is how far the training is."""
        rows = [self.sequence(step, i, progress) for i in range(self.size)]
        scenes, ids, weight = zip(*rows, strict=True)
        return Batch([scene for scene in scenes if scene is not None], np.stack(ids), np.stack(weight))


_KIND_SHARE = {"objects": 0.24, "sign": 0.25, "digits": 0.1, "chart": 0.15, "document": 0.12, "emblem": 0.08, "code": 0.06}


OPEN = 0.3  # share of questions that are only asked openly


def scene_turns(rng: np.random.Generator, n: int = 9) -> tuple[Scene, list[Turn]]:
    """One train scene and at least `n` turns about it, in the words of the benchmarks that could ask them."""
    kind = str(rng.choice(list(_KIND_SHARE), p=list(_KIND_SHARE.values())))
    scene = make_scene(rng, kind)
    asked = [*skills.SKILLS[kind], skills.scene_type] if rng.random() < 0.1 else skills.SKILLS[kind]
    turns: list[Turn] = []
    for _ in range(4 * n):
        q = asked[int(rng.integers(len(asked)))](rng, scene)
        if q is not None:
            turns += forms(rng, kind, q)
        if len(turns) >= n:
            break
    return scene, turns


def forms(rng: np.random.Generator, kind: str, q: Question) -> list[Turn]:
    """One question in one form, or open, as a claim and as a choice one after the other, in any order."""
    if rng.random() < OPEN or not q.distractors:
        return [openly(rng, kind, q)]
    turns = [claim(q, rng.random() < 0.5)]
    if rng.random() < 0.5:
        turns.append(openly(rng, kind, q))
    if rng.random() < 0.5 and len(q.distractors) >= 2:
        turns.append(choice(rng, kind, q))
    return [turns[int(i)] for i in rng.permutation(len(turns))]


def drill(rng: np.random.Generator) -> Turn:
    """A question about nothing but equality. A claim's truth depends on neither of its two sides alone, so without these
    training sits on a plateau where yes and no, and all letters, are equally likely whatever is asked."""
    pool = (COLOUR_NAMES, SHAPES, facts.JOBS, tuple(facts.people()), tuple("0123456789"))[int(rng.integers(5))]
    a, *others = (pool[int(i)] for i in rng.permutation(len(pool))[:4])
    if rng.random() < 0.6:
        same = rng.random() < 0.5
        return f"Is {a} the same as {a if same else others[0]}?{SHORT}", "Yes" if same else "No"
    options = [a, *others]
    options = [options[int(i)] for i in rng.permutation(4)]
    doc = {"question": f"Which of these is {a}?", **dict(zip("ABCD", options, strict=True))}
    return PROMPTS["mmbench"](doc), "ABCD"[options.index(a)]


def claim(q: Question, true: bool) -> Turn:
    """A yes/no question."""
    return PROMPTS["mme"]({"question": q.claim.format(q.answer if true else q.distractors[0])}), "Yes" if true else "No"


def choice(rng: np.random.Generator, kind: str, q: Question) -> Turn:
    """A multiple-choice question, as MathVista or as MMBench asks it."""
    options = [q.answer, *q.distractors[:3]]
    options = [options[int(j)] for j in rng.permutation(len(options))]
    doc: dict[str, Any] = {"question": q.text, "answer": q.answer}
    if kind in NUMBERS and rng.random() < 0.5:
        doc |= {"question_type": "multi_choice", "choices": options}
        return PROMPTS["mathvista"](doc), TARGETS["mathvista"](doc)
    doc |= dict(zip("ABCD", options, strict=False))
    return PROMPTS["mmbench"](doc), "ABCD"[options.index(q.answer)]


def openly(rng: np.random.Generator, kind: str, q: Question) -> Turn:
    """An open question, as one of the benchmarks asks it."""
    doc: dict[str, Any] = {"question": q.text, "answer": q.answer}
    if kind in NUMBERS and q.answer.lstrip("-").isdigit() and rng.random() < 0.6:
        doc |= {"question_type": "free_form", "answer_type": "integer", "choices": None}
        return PROMPTS["mathvista"](doc), q.answer
    name = {"chart": "chartqa", "sign": "textvqa", "document": "docvqa"}.get(kind, "gqa")
    return PROMPTS["gqa" if name == "textvqa" and rng.random() < 0.5 else name](doc), q.answer
