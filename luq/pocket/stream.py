"""The training mixture of the pocket models: pictures with questions, facts, arithmetic and real English."""

from typing import Any, NamedTuple

import numpy as np

from luq.pocket import drills, facts, skills, text
from luq.pocket.drills import Turn
from luq.pocket.questions import Question, text_question
from luq.pocket.world import GRID, Scene, make_scene
from luq.questions.prompts import PROMPTS, SHORT, TARGETS

IMAGE_TOKENS = GRID * GRID
NUMBERS = ("digits", "chart", "code")  # kinds of scenes that MathVista asks about
MIXTURE = {  # share of sequences without a picture, by progress at 0, 0.5, 0.75 and 1
    "english": (0.12, 0.06, 0.05, 0.05),
    "facts": (0.17, 0.1, 0.08, 0.08),
    "letters": (0.1, 0.2, 0.08, 0.05),
    "equality": (0.05, 0.03, 0.02, 0.02),
    "sums": (0.05, 0.08, 0.06, 0.05),
}
CAPTIONS = (0.65, 0.3, 0.15, 0.08)  # share of pictures that are first described
DENSE = (0.1, 0.4, 0.3, 0.15)  # share of pictures with a lesson about all that is in them
TURNS = {
    "objects": 9,
    "sign": 9,
    "digits": 5,
    "chart": 9,
    "document": 9,
    "emblem": 3,
    "code": 3,
}  # at least, per picture
KINDS = {
    "objects": 0.26,
    "sign": 0.24,
    "digits": 0.12,
    "chart": 0.17,
    "document": 0.08,
    "emblem": 0.05,
    "code": 0.08,
}
# abilities that have most of the training one after the other, at the start of its second half
FOCUS = ("letters", "sides-open", "sides-claims", "claims", "choices", "numbers", "names")
FOCUS_END = 0.7  # until this progress: in the mixture alone few leave their plateau, alone many do in some hundred steps
FOCUSED = 0.85  # of the sequences
ABOUT = {  # lesson -> kinds of scenes and what is asked about them, where it is not all; -claims or -choices: only in that form
    "places": (("objects",), (skills.position, skills.relation, skills.neighbour)),
    "sides": (("objects",), (skills.position, skills.relation)),
    "numbers": (NUMBERS, ()),
    "names": (
        ("sign", "emblem"),
        (
            skills.read_line,
            skills.read_name,
            skills.person_on_sign,
            skills.word_on_sign,
            skills.city_on_sign,
            skills.clan_of_emblem,
        ),
    ),
}
FORMS = ("claims", "choices", "open")  # endings of lessons in one form
OPEN = 0.3  # share of questions that are only asked openly
ENGLISH_WEIGHT = 0.3  # of a token of a passage, against 1 for a token of an answer


def _share(table: tuple[float, ...], progress: float) -> float:
    return float(np.interp(progress, (0, 0.5, 0.75, 1), table))


class Chat(NamedTuple):
    """How a conversation is written: questions, answers, the picture before the first question and its token."""

    ask: str  # with {image} and {question}
    reply: str  # with {answer}, up to the token that ends a turn
    image: str
    token: str
    between: str = ""  # after a reply, before the next question


class Batch(NamedTuple):
    """One batch: the scenes that its image tokens show, token ids and loss weights [batch, length]."""

    scenes: list[Scene]
    ids: np.ndarray
    weight: np.ndarray


class Stream:
    """Endless training sequences, each a function of (seed, step, index)."""

    def __init__(
        self,
        tokenizer: Any,
        chat: Chat,
        batch: int,
        length: int,
        seed: int,
        focus: tuple[str, ...] = FOCUS,
    ):
        self.tokenizer, self.chat, self.size, self.length, self.seed, self.focus = (
            tokenizer,
            chat,
            batch,
            length,
            seed,
            focus,
        )
        self.image = tokenizer.convert_tokens_to_ids(chat.token)
        joined = [t + [tokenizer.eos_token_id] for t in tokenizer(text.split("train")).input_ids]
        self.english = np.concatenate([np.asarray(t, np.int64) for t in joined])

    def _lesson(self, rng: np.random.Generator, progress: float) -> str:
        """Which kind of sequence comes next; `scene` is what the shares of the others leave."""
        if self.focus and 0.5 <= progress < FOCUS_END and rng.random() < FOCUSED:
            focus = self.focus[int((progress - 0.5) / (FOCUS_END - 0.5) * len(self.focus))]
            return focus if focus != "numbers" or rng.random() < 0.7 else "sums"
        at = rng.random()
        for name, table in MIXTURE.items():
            at -= _share(table, progress)
            if at < 0:
                return name
        return "scene"

    def _turns(
        self, rng: np.random.Generator, lesson: str, progress: float
    ) -> tuple[Scene | None, list[Turn]]:
        if lesson == "facts":
            return None, [fact(rng) for _ in range(14)]
        if lesson == "letters":
            return None, [turn for _ in range(5) for turn in drills.letters(rng)]
        if lesson == "equality":
            return None, [drills.equality(rng) for _ in range(14)]
        if lesson == "sums":
            return None, [drills.sums(rng) for _ in range(14)]
        scene, turns = scene_turns(rng, lesson)
        if lesson.endswith(FORMS):  # nothing that says in words what is to be seen
            return scene, turns
        if rng.random() < _share(CAPTIONS, progress):
            turns.insert(0, ("Describe the image.", skills.caption(scene)))
        if rng.random() < _share(DENSE, progress):
            turns.insert(0, drills.dense(rng, scene))
        return scene, turns

    def sequence(
        self, step: int, index: int, progress: float
    ) -> tuple[list[Scene], np.ndarray, np.ndarray]:
        """The scenes shown, token ids [length] and how much each token counts in the loss."""
        rng = np.random.default_rng([self.seed, 2, step, index])
        length, scenes = self.length, []
        lesson = self._lesson(rng, progress)
        if lesson == "english":
            start = int(rng.integers(len(self.english) - length))
            ids = self.english[start : start + length]
            return [], ids, np.full(length, ENGLISH_WEIGHT, np.float32)
        ids, weight = np.zeros(0, np.int64), np.zeros(0, np.float32)
        while len(ids) < length - 2 * IMAGE_TOKENS or not len(
            ids
        ):  # two pictures where the first has little to say
            scene, turns = self._turns(rng, lesson, progress)
            more, learned = self._conversation(scene, turns)
            ids, weight = (
                np.concatenate([ids, more])[:length],
                np.concatenate([weight, learned])[:length],
            )
            if scene is not None:
                scenes.append(scene)
        pad = length - len(ids)
        return scenes, np.pad(ids, (0, pad)), np.pad(weight, (0, pad))

    def _conversation(
        self, scene: Scene | None, turns: list[Turn]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a conversation, and 1 for those of the answers."""
        pieces, learned = [[self.tokenizer.bos_token_id]], [False]
        for i, (question, answer) in enumerate(turns):
            image = self.chat.image if i == 0 and scene is not None else ""
            before = self.chat.between if i else ""
            ask = self._encode(before + self.chat.ask.format(image=image, question=question))
            reply = self._encode(self.chat.reply.format(answer=answer))
            if image:
                at = ask.index(self.image)
                ask = ask[:at] + [self.image] * IMAGE_TOKENS + ask[at + 1 :]
            pieces += [ask, reply]
            learned += [False, True]
        ids = np.concatenate([np.asarray(p, np.int64) for p in pieces])
        return ids, np.concatenate(
            [np.full(len(p), flag, np.float32) for p, flag in zip(pieces, learned, strict=True)]
        )

    def _encode(self, piece: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(
            piece, add_special_tokens=False
        ).ids
        return ids

    def batch(self, step: int, progress: float) -> Batch:
        """The batch of a step; `progress` in [0, 1] is how far the training is."""
        rows = [self.sequence(step, i, progress) for i in range(self.size)]
        scenes, ids, weight = zip(*rows, strict=True)
        return Batch(
            [scene for shown in scenes for scene in shown], np.stack(ids), np.stack(weight)
        )


def fact(rng: np.random.Generator) -> Turn:
    """A question about the world without a picture: openly, as a claim, or all about a person."""
    if rng.random() < 0.12:
        name = facts.pick(rng, facts.people())
        return drills.who(rng, name, f"Who is {name}?")
    q = text_question(rng)
    if rng.random() < 0.7 or not q.distractors:
        return q.text + SHORT, q.answer
    return claim(q, rng.random() < 0.5)


def scene_turns(rng: np.random.Generator, lesson: str = "scene") -> tuple[Scene, list[Turn]]:
    """One train scene and turns about it, in the words of the benchmarks that could ask them; no question twice."""
    about, _, _ = lesson.partition("-")
    kinds, wanted = ABOUT.get(about, (tuple(KINDS), ()))
    shares = np.array([KINDS[k] for k in kinds])
    kind = str(rng.choice(kinds, p=shares / shares.sum()))
    scene = make_scene(rng, kind)
    asked = [
        *(s for s in skills.SKILLS[kind] if not wanted or s in wanted),
        *(s for s in skills.SKILLS[kind] if s in skills.HARD and not wanted),
    ]
    if rng.random() < 0.1 and not wanted:
        asked.append(skills.scene_type)
    turns: list[Turn] = []
    before: set[str] = (
        set()
    )  # what was asked of this picture: the second time the answer can be copied
    for _ in range(4 * TURNS[kind]):
        q = asked[int(rng.integers(len(asked)))](rng, scene)
        if q is not None and q.claim not in before:
            before.add(q.claim)
            turns += forms(rng, kind, q, lesson)
        if len(turns) >= TURNS[kind]:
            break
    return scene, turns


def forms(rng: np.random.Generator, kind: str, q: Question, lesson: str = "scene") -> list[Turn]:
    """One question in one form, or open, as a claim and as a choice one after the other, in any order."""
    if lesson.endswith("claims"):
        return [claim(q, rng.random() < 0.5)] if q.distractors else []
    if lesson.endswith("choices"):
        return [choice(rng, kind, q)] if len(q.distractors) >= 2 else []
    if not q.distractors or lesson.endswith("open") or rng.random() < OPEN:
        return [openly(rng, kind, q)]
    turns = [claim(q, rng.random() < 0.5)]
    if rng.random() < 0.5:
        turns.append(openly(rng, kind, q))
    if len(q.distractors) >= 2 and rng.random() < 0.5:
        turns.append(choice(rng, kind, q))
    return [turns[int(i)] for i in rng.permutation(len(turns))]


def claim(q: Question, true: bool) -> Turn:
    """A yes/no question."""
    return PROMPTS["mme"](
        {"question": q.claim.format(q.answer if true else q.distractors[0])}
    ), "Yes" if true else "No"


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
