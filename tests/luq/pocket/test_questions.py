"""The world, its facts and what is asked about it."""

import hashlib
import re

import numpy as np
import pytest

from luq.pocket import drills, facts
from luq.pocket.drawing import HELD_OUT_DIGITS, SIZE, handwriting_masks
from luq.pocket.number_skills import bar_extreme, digit_sum
from luq.pocket.questions import Skill
from luq.pocket.sentences import ORDINALS
from luq.pocket.skills import SKILLS
from luq.pocket.world import KINDS, make_scene

FACTS_DIGEST = "9c42ae1ebe5e"  # the shipped weights know these facts and no others
KINDS_AND_SKILLS = [(kind, skill) for kind, skills in SKILLS.items() for skill in skills]


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_functions_of_their_seed(kind: str) -> None:
    scene = make_scene(np.random.default_rng(1), kind)
    same_scene = make_scene(np.random.default_rng(1), kind)
    different_scene = make_scene(np.random.default_rng(2), kind)
    assert np.array_equal(scene.pixels, same_scene.pixels)
    assert not np.array_equal(scene.pixels, different_scene.pixels)
    assert scene.pixels.shape == (SIZE, SIZE, 3)
    assert scene.items


@pytest.mark.parametrize(("kind", "skill"), KINDS_AND_SKILLS)
def test_every_skill_gives_a_question_with_wrong_answers_that_are_wrong(
    kind: str, skill: Skill
) -> None:
    rng = np.random.default_rng(0)
    attempts = [skill(rng, make_scene(rng, kind)) for _ in range(60)]
    questions = [question for question in attempts if question is not None]
    assert len(questions) >= 10
    for question in questions:
        assert question.answer
        assert question.answer not in question.distractors
        assert question.claim.count("{}") == 1
    assert len({question.text for question in questions}) >= 2


def test_answers_are_right() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        chart = make_scene(rng, "chart")
        heights = {bar.text: bar.value for bar in chart.items}
        question = bar_extreme(rng, chart)
        assert question is not None
        if question.answer in heights:
            extreme = max if "highest" in question.text else min
            assert heights[question.answer] == extreme(heights.values())
        digits = make_scene(rng, "digits")
        total = digit_sum(rng, digits)
        assert total is not None
        assert int(total.answer) == sum(item.digit for item in digits.items)


def test_facts_are_many_and_the_same_everywhere() -> None:
    assert len(facts.people()) == 300
    assert len(facts.words()) > 150
    assert len(facts.clans()) == 64
    assert len(set(facts.people()) | set(facts.cities()) | set(facts.words())) > 500
    tables = (facts.people(), facts.words(), facts.cities(), facts.clans())
    digest = hashlib.sha256(repr(tables).encode()).hexdigest()
    assert digest.startswith(FACTS_DIGEST)


def test_a_document_prints_each_of_its_fields_in_half_a_row() -> None:
    fields = facts.document_fields(np.random.default_rng(0), len(facts.DOCUMENT_KEYS))
    assert set(fields) == set(facts.DOCUMENT_KEYS)
    assert all(len(key) <= 6 and 1 <= len(value) <= 6 for key, value in fields.items())


def test_test_handwriting_is_never_drawn_in_training() -> None:
    masks = handwriting_masks()
    train = {mask.tobytes() for pool in masks["train"].values() for mask in pool}
    test = {mask.tobytes() for pool in masks["test"].values() for mask in pool}
    assert sum(len(pool) for pool in masks["test"].values()) == HELD_OUT_DIGITS
    assert not train & test


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_looked_up_is_in_the_picture_once(kind: str) -> None:
    """Every question has one answer, and each is what the items say."""
    rng = np.random.default_rng(0)
    asked = 0
    for _ in range(40):
        scene = make_scene(rng, kind)
        turns = drills.look_ups(rng, scene)
        asked += len(turns)
        answers: dict[str, set[str]] = {}
        for question, answer in turns:
            answers.setdefault(question, set()).add(answer)
        assert all(len(found) == 1 for found in answers.values())
        for question, answer in turns:
            place = re.fullmatch(r"row (\d), column (\d)\?", question)
            key = question.rstrip("?").split(" ")[0]
            if place is not None:
                row, col = (int(number) - 1 for number in place.groups())
                (item,) = (item for item in scene.items if (item.row, item.col) == (row, col))
                assert answer in (item.name, f"{item.colour} {item.digit}")
            elif kind == "document":
                pairs = {(f"{key}?", value) for key, value in scene.fields.items()}
                assert (question, answer) in pairs or (f"{answer}?", question[:-1]) in pairs
            elif question.endswith(" row?"):
                (item,) = (item for item in scene.items if item.text == answer)
                assert ORDINALS[item.row] == key
            else:
                of_item = [
                    {item.colour, item.shape, item.text, str(item.digit), str(item.value)}
                    for item in scene.items
                ]
                assert any({key, answer} <= known for known in of_item)
    assert asked == 0 if kind == "code" else asked >= 40
