"""The training mixture of the pocket models: pictures with questions, facts, sums and English.

A *lesson* is what one sequence of the training is about. `scene` is a picture with questions as
the benchmarks ask them; `english` is a passage of real text; the others teach one ability (see
`drills`). The name of a lesson about pictures may end in a form, such as `sides-claims`: then
all its questions have this form.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from luq.errors import ConfigError, unknown
from luq.pocket import drills, facts, skills, text
from luq.pocket.conversations import IMAGE_TOKENS, Chat, Writer
from luq.pocket.drawing import Scene
from luq.pocket.drills import DESCRIBE, Turn
from luq.pocket.object_skills import clan_of_emblem, neighbour, position, relation
from luq.pocket.questions import Question, Rng, Skill, text_question
from luq.pocket.sign_skills import (
    city_on_sign,
    person_on_sign,
    read_line,
    read_name,
    word_on_sign,
)
from luq.pocket.world import make_scene
from luq.questions.prompts import PROMPTS, SHORT, TARGETS

# All shares below were tuned by training: they are what made the models learn every skill.
MILESTONES = (0.0, 0.5, 0.75, 1.0)  # progress of the training; shares are linear in between


class Mixture(NamedTuple):
    """How often what is taught; each share at the four milestones."""

    lessons: dict[str, tuple[float, ...]]  # share of the sequences; `scene` has what is left
    captions: tuple[float, ...]  # share of pictures that are first described
    dense: tuple[float, ...]  # share of pictures with a lesson about all that is in them
    openly: tuple[float, ...]  # share of questions about pictures that are only asked openly
    # Share of pictures whose questions are asked and answered in one reply, without the words of a
    # benchmark around each: three times as many answers in as many tokens.
    brief: tuple[float, ...] = ()  # empty: none
    # A token of an answer of n tokens weighs n ** -evenness: 0 is all tokens alike, 1 all answers.
    evenness: float = 0.0


POCKET_MIXTURE = Mixture(
    lessons={
        "english": (0.12, 0.06, 0.05, 0.05),
        "facts": (0.17, 0.1, 0.08, 0.08),
        "letters": (0.1, 0.2, 0.08, 0.05),
        "equality": (0.05, 0.03, 0.02, 0.02),
        "sums": (0.05, 0.08, 0.06, 0.05),
    },
    captions=(0.65, 0.3, 0.15, 0.08),
    dense=(0.1, 0.4, 0.3, 0.15),
    openly=(0.3, 0.3, 0.3, 0.3),
)
FACTS_PER_CONVERSATION = 14  # facts, equalities or sums
LISTS_PER_CONVERSATION = 5  # lists of options in a lesson about letters
TURNS = {  # kind of scene -> questions that are asked about a picture, at least
    "objects": 9,
    "sign": 9,
    "digits": 5,
    "chart": 9,
    "document": 9,
    "emblem": 3,
    "code": 3,
}
SCENE_SHARES = {
    "objects": 0.26,
    "sign": 0.24,
    "digits": 0.12,
    "chart": 0.17,
    "document": 0.08,
    "emblem": 0.05,
    "code": 0.08,
}
# Abilities that have most of the training one after the other, at the start of its second half.
# In the mixture alone few of them leave their plateau; alone, many do in some hundred steps.
FOCUS = ("letters", "sides-open", "sides-claims", "claims", "choices", "numbers", "names")
FOCUS_START = 0.5
FOCUS_END = 0.7
FOCUSED = 0.85  # share of the sequences in that time
NUMBERS = ("digits", "chart", "code")  # kinds of scenes that MathVista asks about


class Subject(NamedTuple):
    """What a lesson about pictures shows, and what it asks."""

    kinds: tuple[str, ...]
    skills: tuple[Skill, ...]  # empty: all that the scene allows


SUBJECTS = {
    "places": Subject(("objects",), (position, relation, neighbour)),
    "sides": Subject(("objects",), (position, relation)),
    "numbers": Subject(NUMBERS, ()),
    "names": Subject(
        ("sign", "emblem"),
        (read_line, read_name, person_on_sign, word_on_sign, city_on_sign, clan_of_emblem),
    ),
}
# Beside those of subjects; `captions` describes pictures and asks nothing about them.
LESSONS = ("scene", "captions", "english", "facts", "equality", "sums", "letters")
ANYTHING = Subject(tuple(SCENE_SHARES), ())
BRIEF = "brief"  # open questions and their answers in one reply
LOOK_UPS = 0.5  # share of them that are drills in looking up
FORMS = ("claims", "choices", "open", BRIEF)  # endings of lessons in one form
ENGLISH_WEIGHT = 0.3  # of a token of a passage in the loss, against 1 for a token of an answer
OPEN_BENCHMARKS = {"chart": "chartqa", "sign": "textvqa", "document": "docvqa"}  # others: gqa


def check_lesson(name: str) -> None:
    """A ConfigError with the nearest names for a lesson that there is not.

    The name of a subject, and a form alone (`claims`, `choices`, `open`, `brief`), may stand for a
    lesson; that of a subject may end in such a form.
    """
    forms_of_subjects = [f"{subject}-{form}" for subject in SUBJECTS for form in FORMS]
    lesson_names = {*LESSONS, *SUBJECTS, *FORMS, *FOCUS, *forms_of_subjects}
    if name not in lesson_names:
        raise unknown("lesson in focus", name, lesson_names)


def _takes_form(lesson: str) -> bool:
    """Whether a lesson asks about pictures in any form."""
    return lesson == "scene" or lesson in SUBJECTS


def _share(shares: tuple[float, ...], progress: float) -> float:
    return float(np.interp(progress, MILESTONES, shares))


class Sequence(NamedTuple):
    """One training sequence."""

    scenes: list[Scene]  # what its image tokens show
    ids: NDArray[np.int64]  # tokens [length]
    weight: NDArray[np.float32]  # how much each token counts in the loss [length]


class Batch(NamedTuple):
    """Sequences of one training step; `scenes` are those of all of them, in order."""

    scenes: list[Scene]
    ids: NDArray[np.int64]  # [batch, length]
    weight: NDArray[np.float32]  # [batch, length]


class Stream:
    """Endless training sequences, each a function of (seed, step, index).

    Args:
        tokenizer: The model's tokenizer.
        chat: How the model writes a conversation.
        batch: Sequences of a step.
        length: Tokens of a sequence.
        seed: Another seed gives other sequences.
        focus: Lessons that have most of the training for a while, one after the other.
        mixture: How often what is taught.
        english: The passages of real text; none: the shipped training text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        chat: Chat,
        batch: int,
        length: int,
        seed: int,
        focus: tuple[str, ...] = FOCUS,
        mixture: Mixture = POCKET_MIXTURE,
        english: list[str] | None = None,
    ):
        self.chat = chat
        self.writer = Writer(tokenizer, chat, mixture.evenness)
        self.size = batch
        self.length = length
        self.seed = seed
        self.focus = focus
        self.mixture = mixture
        passages = []
        for ids in tokenizer(english or text.split("train")).input_ids:
            passages.append(np.asarray([*ids, tokenizer.eos_token_id], np.int64))
        self.english = np.concatenate(passages)
        if len(self.english) <= length:
            raise ConfigError(
                f"the text has {len(self.english)} tokens, and a sequence {length}: give more"
            )

    def batch(self, step: int, progress: float, lesson: str = "") -> Batch:
        """The batch of a step; `progress` in [0, 1] is how far the training is.

        All its sequences are about one lesson, if it is given.
        """
        scenes = []
        ids = []
        weights = []
        for index in range(self.size):
            sequence = self.sequence(step, index, progress, lesson)
            scenes += sequence.scenes
            ids.append(sequence.ids)
            weights.append(sequence.weight)
        return Batch(scenes, np.stack(ids), np.stack(weights))

    def passages(self, step: int, count: int, length: int) -> NDArray[np.int64]:
        """Tokens of a step's passages of real text, [count, length]."""
        rng = np.random.default_rng([self.seed, 3, step])
        return np.stack([self._passage(rng, length) for _ in range(count)])

    def _passage(self, rng: Rng, length: int) -> NDArray[np.int64]:
        start = int(rng.integers(len(self.english) - length))
        return self.english[start : start + length]

    def sequence(self, step: int, index: int, progress: float, lesson: str = "") -> Sequence:
        """Sequence `index` of a step; the mixture draws its lesson if none is given."""
        rng = np.random.default_rng([self.seed, 2, step, index])  # 1 is the vision phase
        writer = self.writer
        lesson = lesson or self._lesson(rng, progress)
        brief = self.mixture.brief
        if brief and _takes_form(lesson) and rng.random() < _share(brief, progress):
            lesson = f"{lesson}-{BRIEF}"
        if lesson == "english":
            passage = self._passage(rng, self.length)
            return Sequence([], passage, np.full(self.length, ENGLISH_WEIGHT, np.float32))
        scenes = []
        ids = np.zeros(0, np.int64)
        weight = np.zeros(0, np.float32)
        # A second picture is shown where the first has little to say.
        enough = max(1, self.length - 2 * IMAGE_TOKENS)
        while len(ids) < enough:
            scene, turns = self._turns(rng, lesson, progress)
            converse = writer.one_reply if lesson.endswith(BRIEF) else writer.conversation
            next_ids, next_weight = converse(scene, turns)
            ids = np.concatenate([ids, next_ids])[: self.length]
            weight = np.concatenate([weight, next_weight])[: self.length]
            if scene is not None:
                scenes.append(scene)
        padding = (0, self.length - len(ids))
        return Sequence(scenes, np.pad(ids, padding), np.pad(weight, padding))

    def _lesson(self, rng: Rng, progress: float) -> str:
        """Which kind of sequence comes next."""
        in_focus = bool(self.focus) and FOCUS_START <= progress < FOCUS_END
        if in_focus and rng.random() < FOCUSED:
            return self._focused_lesson(rng, progress)
        position_in_mixture = rng.random()
        for lesson, shares in self.mixture.lessons.items():
            position_in_mixture -= _share(shares, progress)
            if position_in_mixture < 0:
                return lesson
        return "scene"

    def _focused_lesson(self, rng: Rng, progress: float) -> str:
        """The lesson whose time it is; lessons about numbers alternate with sums in words."""
        passed = (progress - FOCUS_START) / (FOCUS_END - FOCUS_START)
        lesson = self.focus[int(passed * len(self.focus))]
        if lesson == "numbers" and rng.random() >= 0.7:
            return "sums"
        return lesson

    def _turns(self, rng: Rng, lesson: str, progress: float) -> tuple[Scene | None, list[Turn]]:
        """A conversation, and the picture that it is about."""
        if lesson == "facts":
            return None, [fact(rng) for _ in range(FACTS_PER_CONVERSATION)]
        if lesson == "equality":
            return None, [drills.equality(rng) for _ in range(FACTS_PER_CONVERSATION)]
        if lesson == "sums":
            return None, [drills.sums(rng) for _ in range(FACTS_PER_CONVERSATION)]
        if lesson == "letters":
            turns = []
            for _ in range(LISTS_PER_CONVERSATION):
                turns += drills.letters(rng)
            return None, turns
        scene, turns = scene_turns(rng, lesson, _share(self.mixture.openly, progress))
        description = (DESCRIBE, self.chat.caption(scene))
        if lesson == "captions":
            return scene, list(dict.fromkeys([description, drills.dense(rng, scene, description)]))
        if lesson.endswith(FORMS):  # a description would say in words what is to be seen
            return scene, turns
        if rng.random() < _share(self.mixture.captions, progress):
            turns.insert(0, description)
        if rng.random() < _share(self.mixture.dense, progress):
            turns.insert(0, drills.dense(rng, scene, description))
        return scene, turns


def fact(rng: Rng) -> Turn:
    """A question without a picture: openly, as a claim, or all about a person."""
    if rng.random() < 0.12:
        name = facts.pick(rng, facts.people())
        return drills.person_summary(name, f"Who is {name}?")
    question = text_question(rng)
    if rng.random() < 0.7 or not question.distractors:
        return question.text + SHORT, question.answer
    return claim(question, rng.random() < 0.5)


def _skills_of_lesson(subject: Subject, kind: str) -> list[Skill]:
    """What a lesson asks about a scene; a skill that stands twice is asked twice as often."""
    allowed = skills.SKILLS[kind]
    if subject.skills:
        return [skill for skill in allowed if skill in subject.skills]
    return [*allowed, *(skill for skill in allowed if skill in skills.HARD)]


def scene_turns(rng: Rng, lesson: str, openly_share: float) -> tuple[Scene, list[Turn]]:
    """One train scene and turns about it, in the words of the benchmarks that could ask them.

    Args:
        rng: What it is drawn from.
        lesson: What the turns are about, and perhaps their form.
        openly_share: Of the questions that are only asked openly.
    """
    subject = SUBJECTS.get(lesson.partition("-")[0], ANYTHING)
    shares = np.array([SCENE_SHARES[kind] for kind in subject.kinds])
    kind = str(rng.choice(subject.kinds, p=shares / shares.sum()))
    scene = make_scene(rng, kind)
    lesson_skills = _skills_of_lesson(subject, kind)
    if rng.random() < 0.1 and not subject.skills:
        lesson_skills.append(skills.scene_type)
    is_brief = lesson.endswith(BRIEF)
    if is_brief and not subject.skills and rng.random() < LOOK_UPS:
        turns = drills.look_ups(rng, scene)
        if turns:
            return scene, turns
    turns = []
    # No question comes twice: the second time its answer could be copied from the first.
    claims: set[str] = set()
    most = TURNS[kind] * (2 if is_brief else 1)
    for _ in range(4 * most):  # some attempts give a question that was already asked
        skill = lesson_skills[int(rng.integers(len(lesson_skills)))]
        question = skill(rng, scene)
        if question is not None and question.claim not in claims:
            claims.add(question.claim)
            turns += forms(rng, kind, question, lesson, openly_share)
        if len(turns) >= most:
            break
    return scene, turns


def forms(rng: Rng, kind: str, question: Question, lesson: str, openly_share: float) -> list[Turn]:
    """A question in the form of the lesson, or openly, as a claim and as a choice in any order."""
    can_be_claim = len(question.distractors) >= 1
    can_be_choice = len(question.distractors) >= 2
    if lesson.endswith("claims"):
        return [claim(question, rng.random() < 0.5)] if can_be_claim else []
    if lesson.endswith("choices"):
        return [choice(rng, kind, question)] if can_be_choice else []
    if lesson.endswith(BRIEF):
        return [(question.text, question.answer)]
    if not can_be_claim or lesson.endswith("open") or rng.random() < openly_share:
        return [openly(rng, kind, question)]
    turns = [claim(question, rng.random() < 0.5)]
    if rng.random() < 0.5:
        turns.append(openly(rng, kind, question))
    if can_be_choice and rng.random() < 0.5:
        turns.append(choice(rng, kind, question))
    return [turns[int(i)] for i in rng.permutation(len(turns))]


def claim(question: Question, is_true: bool) -> Turn:
    """A yes/no question, as MME asks it."""
    value = question.answer if is_true else question.distractors[0]
    prompt = PROMPTS["mme"]({"question": question.claim.format(value)})
    return prompt, "Yes" if is_true else "No"


def choice(rng: Rng, kind: str, question: Question) -> Turn:
    """A multiple-choice question, as MathVista or as MMBench asks it."""
    options = [question.answer, *question.distractors[:3]]
    options = [options[int(i)] for i in rng.permutation(len(options))]
    row: dict[str, Any] = {"question": question.text, "answer": question.answer}
    if kind in NUMBERS and rng.random() < 0.5:
        row |= {"question_type": "multi_choice", "choices": options}
        return PROMPTS["mathvista"](row), TARGETS["mathvista"](row)
    row |= zip("ABCD", options, strict=False)
    return PROMPTS["mmbench"](row), "ABCD"[options.index(question.answer)]


def openly(rng: Rng, kind: str, question: Question) -> Turn:
    """An open question, as one of the benchmarks asks it."""
    row: dict[str, Any] = {"question": question.text, "answer": question.answer}
    is_integer = question.answer.lstrip("-").isdigit()
    if kind in NUMBERS and is_integer and rng.random() < 0.6:
        row |= {"question_type": "free_form", "answer_type": "integer", "choices": None}
        return PROMPTS["mathvista"](row), question.answer
    benchmark = OPEN_BENCHMARKS.get(kind, "gqa")
    # TextVQA's prompt writes the question in small letters; signs are also asked about as it is.
    if benchmark == "textvqa" and rng.random() < 0.5:
        benchmark = "gqa"
    return PROMPTS[benchmark](row), question.answer
