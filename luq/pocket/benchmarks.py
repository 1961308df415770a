"""Nine miniature benchmarks: questions of the pocket world in the real datasets' columns.

`ROWS[benchmark](rng, split)` makes the rows of one base question (MME: a yes/no pair; MMBench: four rotations;
others: one row). The same makers feed training (endless, `train` handwriting) and the report and selection
splits (`test` handwriting, other seeds), so a model is asked in the words it was taught.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from luq.errors import DataError
from luq.pocket import facts
from luq.pocket import skills as q
from luq.pocket.questions import Question, Skill
from luq.pocket.world import Scene, make_scene

Row = dict[str, Any]
Rng = np.random.Generator
VERSION = 2
SEEDS = {"train": 1000, "selection": 2000, "report": 3000, "calibration": 4000}
BASES = {  # base questions per split at full size
    "mme": 112, "mmbench": 60, "textvqa": 160, "vqav2": 160, "gqa": 160, "pope": 180, "chartqa": 160, "docvqa": 160,
    "mathvista": 160,
}  # fmt: skip

MME = {  # category -> (scene kind, skill); perception first, then cognition
    "existence": ("objects", q.exists),
    "count": ("objects", q.count_shape),
    "position": ("objects", q.position),
    "color": ("objects", q.colour_of),
    "posters": ("sign", q.read_line),
    "celebrity": ("emblem", q.clan_of_emblem),
    "scene": ("", q.scene_type),
    "landmark": ("sign", q.city_on_sign),
    "artwork": ("digits", q.handwriting),
    "OCR": ("document", q.document_field),
    "commonsense_reasoning": ("sign", q.job_on_sign),
    "numerical_calculation": ("digits", q.digit_sum),
    "text_translation": ("sign", q.word_on_sign),
    "code_reasoning": ("code", q.code_result),
}
MMBENCH = {
    "attribute_recognition": ("objects", q.colour_of),
    "object_localization": ("objects", q.neighbour),
    "ocr": ("sign", q.read_name),
    "identity_reasoning": ("sign", q.person_on_sign),
    "structuralized_imagetext_understanding": ("chart", q.bar_extreme),
    "celebrity_recognition": ("emblem", q.clan_of_emblem),
}
OPEN = {  # benchmark -> (scene kind, skills) of its open questions
    "textvqa": (("sign", (q.read_line, q.read_number, q.read_name)),),
    "vqav2": (
        (
            "objects",
            (q.count_shape, q.count_colour, q.count_all, q.colour_of, q.shape_of, q.position),
        ),
    ),
    "gqa": (
        ("objects", (q.relation, q.neighbour, q.colour_of)),
        ("sign", (q.person_on_sign, q.word_on_sign, q.city_on_sign)),
    ),
    "chartqa": (
        ("chart", (q.bar_value, q.bar_label, q.bar_extreme, q.bar_arithmetic, q.bar_count)),
    ),
    "docvqa": (("document", (q.document_field, q.document_field, q.document_key)),),
    "mathvista": (
        ("digits", (q.digit_sum, q.digit_pair, q.digit_largest)),
        ("chart", (q.bar_arithmetic,)),
        ("code", (q.code_result,)),
    ),
}


def _ask(rng: Rng, kind: str, skill: Skill, split: str, wrong: int = 1) -> tuple[Scene, Question]:
    """Draw scenes until one allows the question with at least `wrong` distractors."""
    kinds = tuple(q.SKILLS)
    for _ in range(200):
        scene = make_scene(
            rng, kind or str(rng.choice(kinds)), "train" if split == "train" else "test"
        )
        question = skill(rng, scene)
        if question is not None and len(question.distractors) >= wrong:
            return scene, question
    raise DataError(f"no scene of kind {kind!r} allows {skill.__name__}")


def _mme(rng: Rng, split: str, i: int) -> list[Row]:
    category = list(MME)[i % len(MME)]
    scene, ask = _ask(rng, *MME[category], split)
    post = " Please answer yes or no."
    shared = {"question_id": f"{category}/{i:05d}.png", "image": scene, "category": category}
    pair = [(ask.claim.format(ask.answer), "Yes"), (ask.claim.format(ask.distractors[0]), "No")]
    return [shared | {"question": text + post, "answer": answer} for text, answer in pair]


def _mmbench(rng: Rng, split: str, i: int) -> list[Row]:
    category = list(MMBENCH)[i % len(MMBENCH)]
    scene, ask = _ask(rng, *MMBENCH[category], split, wrong=2)
    options = [ask.answer, *ask.distractors[:3]]
    options = [options[int(j)] for j in rng.permutation(len(options))]
    rows = []
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        letters = dict(zip("ABCD", turned + ["nan"] * (4 - len(turned)), strict=True))
        row = {
            "index": i + turn * 1_000_000,
            "question": ask.text,
            "hint": "nan",
            "image": scene,
            "category": category,
        }
        row |= {"answer": "ABCD"[turned.index(ask.answer)], "L2-category": category.split("_")[0]}
        rows.append(row | letters)
    return rows


def _open(benchmark: str, rng: Rng, split: str, i: int) -> tuple[Scene, Question, str]:
    kind, skills = OPEN[benchmark][i % len(OPEN[benchmark])]
    skill = skills[(i // len(OPEN[benchmark])) % len(skills)]
    scene, ask = _ask(rng, kind, skill, split)
    return scene, ask, skill.__name__


def _textvqa(rng: Rng, split: str, i: int) -> list[Row]:
    scene, ask, _ = _open("textvqa", rng, split, i)
    tokens = [item.text for item in scene.items if item.text]
    return [
        {
            "image": scene,
            "question": ask.text,
            "answers": [ask.answer] * 10,
            "ocr_tokens": tokens,
            "question_id": i,
        }
    ]


def _vqav2(rng: Rng, split: str, i: int) -> list[Row]:
    scene, ask, skill = _open("vqav2", rng, split, i)
    answers = [
        {"answer": ask.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)
    ]
    kind = "number" if skill.startswith("count") else "other"
    return [
        {
            "image": scene,
            "question": ask.text,
            "answers": answers,
            "question_id": i,
            "answer_type": kind,
        }
    ]


def _gqa(rng: Rng, split: str, i: int) -> list[Row]:
    scene, ask, _ = _open("gqa", rng, split, i)
    return [
        {
            "id": str(i),
            "imageId": f"pocket{i}",
            "image": scene,
            "question": ask.text,
            "answer": ask.answer,
        }
    ]


def _pope(rng: Rng, split: str, i: int) -> list[Row]:
    """Half yes, half no; the no-object is random, of a frequent shape, or a near miss of one that is there."""
    category = ("random", "popular", "adversarial")[i % 3]
    scene, ask = _ask(rng, "objects", q.exists, split)
    thing, answer = ask.answer, "yes"
    if (i // 3) % 2:
        present = {item.name for item in scene.items}
        shapes = {item.shape for item in scene.items}
        absent = [n for n in facts.clans() if n not in present]
        near = [
            n
            for n in absent
            if n.split()[1] in (shapes if category == "adversarial" else {"circle", "square"})
        ]
        pool = absent if category == "random" or not near else near
        thing, answer = pool[int(rng.integers(len(pool)))], "no"
    return [
        {
            "image": scene,
            "question": ask.claim.format(thing),
            "answer": answer,
            "question_id": str(i),
            "category": category,
        }
    ]


def _chartqa(rng: Rng, split: str, i: int) -> list[Row]:
    scene, ask, skill = _open("chartqa", rng, split, i)
    kind = "augmented_test" if skill in ("bar_value", "bar_label") else "human_test"
    return [{"image": scene, "question": ask.text, "answer": ask.answer, "type": kind}]


def _docvqa(rng: Rng, split: str, i: int) -> list[Row]:
    scene, ask, _ = _open("docvqa", rng, split, i)
    return [{"image": scene, "question": ask.text, "answers": [ask.answer], "questionId": i}]


def _mathvista(rng: Rng, split: str, i: int) -> list[Row]:
    scene, ask, skill = _open("mathvista", rng, split, i)
    row = {
        "decoded_image": scene,
        "question": ask.text,
        "unit": "",
        "precision": None,
        "answer": ask.answer,
        "pid": str(i),
    }
    choices = None
    if i % 4 == 3:
        options = [ask.answer, *ask.distractors[:3]]
        choices = [options[int(j)] for j in rng.permutation(len(options))]
    kind = {
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": "text" if choices else "integer",
    }
    metadata = {"source": "pocket", "task": skill, "language": "english"}
    return [row | kind | {"choices": choices, "query": ask.text, "metadata": metadata}]


ROWS: dict[str, Callable[[Rng, str, int], list[Row]]] = {
    "mme": _mme, "mmbench": _mmbench, "textvqa": _textvqa, "vqav2": _vqav2, "gqa": _gqa, "pope": _pope,
    "chartqa": _chartqa, "docvqa": _docvqa, "mathvista": _mathvista,
}  # fmt: skip


def png(scene: Scene) -> bytes:
    buffer = BytesIO()
    scene.image().save(buffer, "PNG")
    return buffer.getvalue()


def build(benchmark: str, split: str, seed: int = 0, bases: int | None = None) -> list[Row]:
    """All rows of one benchmark's split, images as encoded PNG bytes."""
    rng = np.random.default_rng([SEEDS[split], seed, list(ROWS).index(benchmark)])
    rows = [row for i in range(bases or BASES[benchmark]) for row in ROWS[benchmark](rng, split, i)]
    for row in rows:
        column = "decoded_image" if "decoded_image" in row else "image"
        row[column] = {"bytes": png(row[column]), "path": None}
    return rows


def write(folder: Path, split: str, seed: int = 0) -> dict[str, int]:
    """Write `<benchmark>.parquet` for all nine into `folder`; returns rows per benchmark."""
    from datasets import Dataset, Image

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for benchmark in ROWS:
        rows = build(benchmark, split, seed)
        column = "decoded_image" if benchmark == "mathvista" else "image"
        Dataset.from_list(rows).cast_column(column, Image()).to_parquet(
            folder / f"{benchmark}.parquet"
        )
        sizes[benchmark] = len(rows)
    return sizes
