"""Nine miniature benchmarks: questions of the pocket world in the real datasets' columns.

`ROWS[benchmark](rng, split, index)` makes the rows of one base question (MME: a yes/no pair;
MMBench: one row per rotation of the options; all others: one row). The same makers feed training
(endless, `train` handwriting) and the report and selection splits (`test` handwriting, other
seeds), so a model is asked in the words it was taught.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luq.errors import DataError
from luq.pocket import facts
from luq.pocket.drawing import Scene
from luq.pocket.number_skills import (
    bar_arithmetic,
    bar_count,
    bar_extreme,
    bar_label,
    bar_value,
    code_result,
    digit_largest,
    digit_pair,
    digit_sum,
    document_field,
    document_key,
    handwriting,
)
from luq.pocket.object_skills import (
    clan_of_emblem,
    colour_of,
    count_all,
    count_colour,
    count_shape,
    exists,
    neighbour,
    position,
    relation,
    shape_of,
)
from luq.pocket.questions import Question, Rng, Skill
from luq.pocket.sign_skills import (
    city_on_sign,
    job_on_sign,
    person_on_sign,
    read_line,
    read_name,
    read_number,
    word_on_sign,
)
from luq.pocket.skills import SKILLS, scene_type
from luq.pocket.world import make_scene

# One row of a benchmark; its values are what the benchmark's columns hold. The image is a `Scene`
# until `build` writes it as PNG.
Row = dict[str, Any]
VERSION = 2  # raise it when any row of any benchmark changes
SEEDS = {"train": 1000, "selection": 2000, "report": 3000, "calibration": 4000}
BASE_QUESTIONS = {  # per split at full size
    "mme": 112,
    "mmbench": 60,
    "textvqa": 160,
    "vqav2": 160,
    "gqa": 160,
    "pope": 180,
    "chartqa": 160,
    "docvqa": 160,
    "mathvista": 160,
}
ATTEMPTS = 200  # scenes that are drawn until one allows a question; far more than any skill needs
ANY_SCENE = ""


class Topic(NamedTuple):
    """What a question is about: the kind of its scene (or `ANY_SCENE`) and its skill."""

    scene: str
    skill: Skill


class Topics(NamedTuple):
    """Skills about one kind of scene that take turns."""

    scene: str
    skills: tuple[Skill, ...]


MME = {  # category -> what it asks; perception first, then cognition
    "existence": Topic("objects", exists),
    "count": Topic("objects", count_shape),
    "position": Topic("objects", position),
    "color": Topic("objects", colour_of),
    "posters": Topic("sign", read_line),
    "celebrity": Topic("emblem", clan_of_emblem),
    "scene": Topic(ANY_SCENE, scene_type),
    "landmark": Topic("sign", city_on_sign),
    "artwork": Topic("digits", handwriting),
    "OCR": Topic("document", document_field),
    "commonsense_reasoning": Topic("sign", job_on_sign),
    "numerical_calculation": Topic("digits", digit_sum),
    "text_translation": Topic("sign", word_on_sign),
    "code_reasoning": Topic("code", code_result),
}
MMBENCH = {
    "attribute_recognition": Topic("objects", colour_of),
    "object_localization": Topic("objects", neighbour),
    "ocr": Topic("sign", read_name),
    "identity_reasoning": Topic("sign", person_on_sign),
    "structuralized_imagetext_understanding": Topic("chart", bar_extreme),
    "celebrity_recognition": Topic("emblem", clan_of_emblem),
}

READING = Topics("sign", (read_line, read_number, read_name))
LOOKING = Topics("objects", (count_shape, count_colour, count_all, colour_of, shape_of, position))
RELATIONS = Topics("objects", (relation, neighbour, colour_of))
KNOWLEDGE = Topics("sign", (person_on_sign, word_on_sign, city_on_sign))
CHARTS = Topics("chart", (bar_value, bar_label, bar_extreme, bar_arithmetic, bar_count))
DOCUMENTS = Topics("document", (document_field, document_field, document_key))
DIGITS = Topics("digits", (digit_sum, digit_pair, digit_largest))
CHART_ARITHMETIC = Topics("chart", (bar_arithmetic,))
PROGRAMS = Topics("code", (code_result,))
OPEN = {  # benchmark -> what its open questions ask, in turn
    "textvqa": (READING,),
    "vqav2": (LOOKING,),
    "gqa": (RELATIONS, KNOWLEDGE),
    "chartqa": (CHARTS,),
    "docvqa": (DOCUMENTS,),
    "mathvista": (DIGITS, CHART_ARITHMETIC, PROGRAMS),
}


def _ask(rng: Rng, topic: Topic, split: str, least_distractors: int = 1) -> tuple[Scene, Question]:
    """Draw scenes until one allows the question with enough distractors."""
    kinds = tuple(SKILLS)
    handwriting_split = "train" if split == "train" else "test"
    for _ in range(ATTEMPTS):
        kind = topic.scene
        if kind == ANY_SCENE:
            kind = str(rng.choice(kinds))
        scene = make_scene(rng, kind, handwriting_split)
        question = topic.skill(rng, scene)
        if question is not None and len(question.distractors) >= least_distractors:
            return scene, question
    raise DataError(
        f"no scene of kind {topic.scene!r} allows {topic.skill.__name__}: "
        "give that skill another kind of scene in luq/pocket/benchmarks.py"
    )


def _shuffled_options(rng: Rng, question: Question) -> list[str]:
    """The answer and up to three distractors, in random order."""
    options = [question.answer, *question.distractors[:3]]
    return [options[int(i)] for i in rng.permutation(len(options))]


def _mme(rng: Rng, split: str, index: int) -> list[Row]:
    """A claim that is true and one that is false, about the same picture."""
    category = list(MME)[index % len(MME)]
    scene, question = _ask(rng, MME[category], split)
    rows = []
    for value, answer in ((question.answer, "Yes"), (question.distractors[0], "No")):
        row = {
            "question_id": f"{category}/{index:05d}.png",
            "image": scene,
            "category": category,
            "question": question.claim.format(value) + " Please answer yes or no.",
            "answer": answer,
        }
        rows.append(row)
    return rows


def _mmbench(rng: Rng, split: str, index: int) -> list[Row]:
    """The question once for every rotation of its options, as MMBench's CircularEval asks it."""
    category = list(MMBENCH)[index % len(MMBENCH)]
    scene, question = _ask(rng, MMBENCH[category], split, least_distractors=2)
    options = _shuffled_options(rng, question)
    rows = []
    for rotation in range(len(options)):
        rotated = options[rotation:] + options[:rotation]
        missing = ["nan"] * (4 - len(rotated))  # as the real table writes an empty option
        row = {
            "index": index + rotation * 1_000_000,  # the real table's step between rotations
            "question": question.text,
            "hint": "nan",
            "image": scene,
            "category": category,
            "answer": "ABCD"[rotated.index(question.answer)],
            "L2-category": category.split("_")[0],
        }
        row |= zip("ABCD", rotated + missing, strict=True)
        rows.append(row)
    return rows


def _open(benchmark: str, rng: Rng, split: str, index: int) -> tuple[Scene, Question, str]:
    """An open question, and the name of its skill."""
    topics = OPEN[benchmark]
    scene_kind, skills = topics[index % len(topics)]
    skill = skills[(index // len(topics)) % len(skills)]
    scene, question = _ask(rng, Topic(scene_kind, skill), split)
    return scene, question, skill.__name__


def _textvqa(rng: Rng, split: str, index: int) -> list[Row]:
    scene, question, _ = _open("textvqa", rng, split, index)
    row = {
        "image": scene,
        "question": question.text,
        "answers": [question.answer] * 10,  # ten people answer; here they agree
        "ocr_tokens": [item.text for item in scene.items if item.text],
        "question_id": index,
    }
    return [row]


def _vqav2(rng: Rng, split: str, index: int) -> list[Row]:
    scene, question, skill = _open("vqav2", rng, split, index)
    answers = []
    for answer_id in range(1, 11):  # ten people answer; here they agree
        answer = {
            "answer": question.answer,
            "answer_confidence": "yes",
            "answer_id": answer_id,
        }
        answers.append(answer)
    row = {
        "image": scene,
        "question": question.text,
        "answers": answers,
        "question_id": index,
        "answer_type": "number" if skill.startswith("count") else "other",
    }
    return [row]


def _gqa(rng: Rng, split: str, index: int) -> list[Row]:
    scene, question, _ = _open("gqa", rng, split, index)
    row = {
        "id": str(index),
        "imageId": f"pocket{index}",
        "image": scene,
        "question": question.text,
        "answer": question.answer,
    }
    return [row]


def _absent_object(rng: Rng, scene: Scene, category: str) -> str:
    """An object that POPE asks about although it is not in the picture.

    Args:
        rng: What it is drawn from.
        scene: The picture.
        category: `random`: any; `popular`: of a shape that is asked about most; `adversarial`: of
            a shape that is in the picture in another colour.
    """
    present_names = {item.name for item in scene.items}
    absent_names = [name for name in facts.clans() if name not in present_names]
    if category == "random":
        shapes = set()
    elif category == "popular":
        shapes = {"circle", "square"}
    else:
        shapes = {item.shape for item in scene.items}
    likely_names = [name for name in absent_names if name.split()[1] in shapes]
    pool = likely_names or absent_names
    return pool[int(rng.integers(len(pool)))]


def _pope(rng: Rng, split: str, index: int) -> list[Row]:
    """Half yes, half no, in each of POPE's three categories."""
    category = ("random", "popular", "adversarial")[index % 3]
    scene, question = _ask(rng, Topic("objects", exists), split)
    object_name = question.answer
    answer = "yes"
    if (index // 3) % 2:
        object_name = _absent_object(rng, scene, category)
        answer = "no"
    row = {
        "image": scene,
        "question": question.claim.format(object_name),
        "answer": answer,
        "question_id": str(index),
        "category": category,
    }
    return [row]


def _chartqa(rng: Rng, split: str, index: int) -> list[Row]:
    scene, question, skill = _open("chartqa", rng, split, index)
    # ChartQA's machine-made questions ask for values, its human ones for comparisons.
    source = "augmented_test" if skill in ("bar_value", "bar_label") else "human_test"
    row = {
        "image": scene,
        "question": question.text,
        "answer": question.answer,
        "type": source,
    }
    return [row]


def _docvqa(rng: Rng, split: str, index: int) -> list[Row]:
    scene, question, _ = _open("docvqa", rng, split, index)
    row = {
        "image": scene,
        "question": question.text,
        "answers": [question.answer],
        "questionId": index,
    }
    return [row]


def _mathvista(rng: Rng, split: str, index: int) -> list[Row]:
    """Every fourth question is a multiple choice."""
    scene, question, skill = _open("mathvista", rng, split, index)
    choices = None
    question_type = "free_form"
    answer_type = "integer"
    if index % 4 == 3:
        choices = _shuffled_options(rng, question)
        question_type = "multi_choice"
        answer_type = "text"
    row = {
        "decoded_image": scene,
        "question": question.text,
        "unit": "",
        "precision": None,
        "answer": question.answer,
        "pid": str(index),
        "question_type": question_type,
        "answer_type": answer_type,
        "choices": choices,
        "query": question.text,
        "metadata": {"source": "pocket", "task": skill, "language": "english"},
    }
    return [row]


# The place of a benchmark in this table is part of its seed: add new ones at the end.
ROWS: dict[str, Callable[[Rng, str, int], list[Row]]] = {
    "mme": _mme,
    "mmbench": _mmbench,
    "textvqa": _textvqa,
    "vqav2": _vqav2,
    "gqa": _gqa,
    "pope": _pope,
    "chartqa": _chartqa,
    "docvqa": _docvqa,
    "mathvista": _mathvista,
}


def image_column(benchmark: str) -> str:
    """The column that holds a benchmark's image, which is its `Scene` in the rows of `ROWS`."""
    return "decoded_image" if benchmark == "mathvista" else "image"


def _png(scene: Scene) -> bytes:
    buffer = BytesIO()
    scene.image().save(buffer, "PNG")
    return buffer.getvalue()


def build(benchmark: str, split: str, seed: int = 0, bases: int | None = None) -> list[Row]:
    """All rows of one benchmark's split.

    Args:
        benchmark: One of `ROWS`.
        split: One of `SEEDS`.
        seed: Another seed gives other questions.
        bases: Number of base questions; None: the full size.

    Returns:
        The rows, with images as `datasets.Image` stores them: encoded PNG bytes.
    """
    rng = np.random.default_rng([SEEDS[split], seed, list(ROWS).index(benchmark)])
    column = image_column(benchmark)
    rows = []
    for index in range(bases or BASE_QUESTIONS[benchmark]):
        rows += ROWS[benchmark](rng, split, index)
    for row in rows:
        row[column] = {"bytes": _png(row[column]), "path": None}
    return rows


def write(folder: Path, split: str, seed: int = 0) -> dict[str, int]:
    """Write `<benchmark>.parquet` for all nine into `folder`; returns rows per benchmark."""
    from datasets import Dataset, Image

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for benchmark in ROWS:
        rows = build(benchmark, split, seed)
        table = Dataset.from_list(rows).cast_column(image_column(benchmark), Image())
        table.to_parquet(folder / f"{benchmark}.parquet")
        sizes[benchmark] = len(rows)
    return sizes
