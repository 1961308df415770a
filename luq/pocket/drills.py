"""Lessons that no benchmark asks, each about one ability, with many answers in few tokens.

A yes/no question teaches one bit and a letter two, and both come at the end of a long chain (see, compare, name). Alone
they leave the training on a plateau where every letter is equally likely. These lessons teach the links one by one.
"""

from collections import Counter

import numpy as np

from luq.pocket import facts
from luq.pocket.questions import arithmetic, one_of
from luq.pocket.skills import caption
from luq.pocket.world import COLOUR_NAMES, SHAPES, Scene
from luq.questions.prompts import LETTER, LETTERS, PROMPTS, SHORT

Rng = np.random.Generator
Turn = tuple[str, str]  # what the user asks and what the assistant answers


def _pool(rng: Rng) -> list[str]:
    pools = (
        COLOUR_NAMES, SHAPES, facts.JOBS, facts.PETS, facts.FOODS, facts.COUNTRY_CODES, tuple(facts.people()),
        tuple(facts.cities()), tuple(facts.clans().values()), [str(n) for n in range(10)], [str(n) for n in range(10, 80)],
    )  # fmt: skip
    pool = pools[int(rng.integers(len(pools)))]
    return [str(pool[int(i)]) for i in rng.permutation(len(pool))[:4]]


def letters(rng: Rng, n: int = 4) -> list[Turn]:
    """One list of options and then `n` times which letter stands for what, as MMBench or MathVista write it."""
    options = _pool(rng)[: int(rng.integers(2, 5))]
    if rng.random() < 0.75:
        listed = "".join(
            f"\n{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)
        )
    else:
        listed = "\nChoices:" + "".join(
            f"\n({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False)
        )
    turns = []
    for i in range(n):
        at = int(rng.integers(len(options)))
        turns.append(
            (f"Which of these is {options[at]}?{listed if i == 0 else ''}{LETTER}", LETTERS[at])
        )
    return turns


def equality(rng: Rng) -> Turn:
    """Whether two words are the same."""
    a, b, *_ = _pool(rng)
    same = rng.random() < 0.5
    return f"Is {a} the same as {a if same else b}?{SHORT}", "Yes" if same else "No"


def sums(rng: Rng) -> Turn:
    """Arithmetic in words, openly or as a claim."""
    q = arithmetic(rng)
    if rng.random() < 0.7:
        return q.text + SHORT, q.answer
    true = rng.random() < 0.5
    return PROMPTS["mme"](
        {"question": q.claim.format(q.answer if true else q.distractors[0])}
    ), "Yes" if true else "No"


def who(rng: Rng, name: str, text: str) -> Turn:
    """All that is known of a person at once."""
    return text, ", ".join(facts.people()[name][a] for a in facts.ATTRIBUTES)


def tally(rng: Rng, scene: Scene) -> Turn:
    """How many of each shape, or of each colour, there are."""
    shapes = rng.random() < 0.5
    counts = Counter(item.shape if shapes else item.colour for item in scene.items)
    order = [name for name in (SHAPES if shapes else COLOUR_NAMES) if counts[name]]
    return f"How many of each {'shape' if shapes else 'color'}?", ", ".join(
        f"{name} {counts[name]}" for name in order
    )


def places(rng: Rng, scene: Scene) -> Turn:
    """Row and column of everything in the picture, counted from one."""
    parts = []
    for item in sorted(scene.items, key=lambda i: (i.row, i.col)):
        what = item.text or (item.name if item.shape else f"{item.colour} {item.digit}")
        parts.append(f"{what} {item.row + 1} {item.col + 1}")
    return "Where is everything?", ", ".join(parts)


def dense(rng: Rng, scene: Scene) -> Turn:
    """One lesson about a picture with an answer for everything in it."""
    if scene.kind == "objects" and rng.random() < 0.5:
        return tally(rng, scene)
    if scene.kind == "sign" and rng.random() < 0.7:
        return who(
            rng,
            scene.fields["person"],
            one_of(rng, "Who is the person on the sign?", "Who is this?"),
        )
    return (
        places(rng, scene)
        if scene.kind in ("objects", "sign", "digits")
        else ("Describe the image.", caption(scene))
    )
