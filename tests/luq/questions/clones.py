"""Small datasets as the hub holds them.

The real configurations, splits, columns and types, in several shards, with a few rows each.
"""

import hashlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

Row = dict[str, Any]
TEXT = Value("string")
TEXTS = List(TEXT)


class Table(NamedTuple):
    """One split of one configuration. `pictures`: its column of images, if it has one."""

    config: str | None
    split: str
    features: Features
    rows: list[Row]
    pictures: str | None = "image"


def texts(*names: str) -> dict[str, Value]:
    """Columns of text."""
    return dict.fromkeys(names, TEXT)


def with_values(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows with other values in some columns."""
    return [row | values for row in rows]


MME = Features({**texts("question_id", "question", "answer", "category"), "image": Image()})
MMBENCH = Features(
    {
        "index": Value("int64"),
        **texts("question", "hint", "answer", "A", "B", "C", "D", "category"),
        "image": Image(),
        **texts("source", "L2-category", "comment", "split"),
    }
)
TEXTVQA = Features(
    {
        "image_id": TEXT,
        "question_id": Value("int32"),
        "question": TEXT,
        "question_tokens": TEXTS,
        "image": Image(),
        "image_width": Value("int32"),
        "image_height": Value("int32"),
        **texts("flickr_original_url", "flickr_300k_url"),
        "answers": TEXTS,
        "image_classes": TEXTS,
        "set_name": TEXT,
        "ocr_tokens": TEXTS,
    }
)
VQAV2 = Features(
    {
        **texts("question_type", "multiple_choice_answer"),
        "answers": List({**texts("answer", "answer_confidence"), "answer_id": Value("int64")}),
        "image_id": Value("int64"),
        "answer_type": TEXT,
        "question_id": Value("int64"),
        "question": TEXT,
        "image": Image(),
    }
)
GQA = Features(
    {
        **texts("id", "imageId", "question", "answer", "fullAnswer"),
        "isBalanced": Value("bool"),
        "groups": texts("global", "local"),
        **texts("entailed", "equivalent"),
        "types": texts("structural", "semantic", "detailed"),
        "annotations": {"answer": List(texts("objectId", "value"))},
        "semantic": List({**texts("operation", "argument"), "dependencies": List(Value("int32"))}),
        "semanticStr": TEXT,
    }
)
GQA_IMAGES = Features({"id": TEXT, "image": Image()})
POPE = Features(
    {**texts("id", "question_id", "question", "answer", "image_source"), "image": Image()}
    | texts("category")
)
CHARTQA = Features({**texts("type", "question", "answer"), "image": Image()})
DOCVQA = Features(
    {
        **texts("questionId", "question"),
        "question_types": TEXTS,
        "image": Image(),
        "docId": Value("int64"),
        **texts("ucsf_document_id", "ucsf_document_page_no"),
        "answers": TEXTS,
        "data_split": TEXT,
    }
)
MATHVISTA = Features(
    {
        **texts("pid", "question", "image"),
        "decoded_image": Image(),
        "choices": TEXTS,
        "unit": TEXT,
        "precision": Value("float64"),
        **texts("answer", "question_type", "answer_type"),
        "metadata": {
            **texts("category", "context", "grade"),
            "img_height": Value("int64"),
            "img_width": Value("int64"),
            "language": TEXT,
            "skills": TEXTS,
            **texts("source", "split", "task"),
        },
        "query": TEXT,
    }
)


def _mme() -> list[Row]:
    rows: list[Row] = []
    for image in range(3):
        pair = ("Is a python code shown in the picture?", "Yes"), ("Is the output 7?", "No")
        for question, answer in pair:
            rows.append(
                {
                    "question_id": f"code_reasoning/{image:04d}.png",
                    "question": f"{question} Please answer yes or no.",
                    "answer": answer,
                    "category": "code_reasoning",
                }
            )
    return rows


def _mmbench() -> list[Row]:
    """Two base questions in three rotations. Missing options are None or a text."""
    rows: list[Row] = []
    animals = ["a cat", "a dog", "a cow"]
    for base in range(2):
        for turn in range(3):
            rotated = animals[turn:] + animals[:turn]
            rows.append(
                {
                    "index": base + turn * 1_000_000,
                    "question": "Which one is the correct caption?",
                    "hint": ["nan", None][base],
                    "answer": "ABC"[rotated.index("a cat")],
                    "A": rotated[0],
                    "B": rotated[1],
                    "C": rotated[2],
                    "D": ["nan", None][base],
                    "category": "image_topic",
                    "source": "x",
                    "L2-category": "coarse_perception",
                    "comment": None,
                    "split": "dev",
                }
            )
    return rows


def _textvqa() -> list[Row]:
    rows: list[Row] = []
    for i in range(3):
        rows.append(
            {
                "image_id": "0054",
                "question_id": 34602 + i,
                "question": "what is the brand of this camera?",
                "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
                "image_width": 90,
                "image_height": 60,
                "flickr_original_url": "",
                "flickr_300k_url": None,
                "answers": ["dakota"] * 9 + ["clos"],
                "image_classes": ["Camera"],
                "set_name": "val",
                "ocr_tokens": ["DAKOTA", "DIGITAL"] if i else [],
            }
        )
    return rows


def _vqav2() -> list[Row]:
    answers = [{"answer": "down", "answer_confidence": "yes", "answer_id": n} for n in range(10)]
    rows: list[Row] = []
    for i in range(3):
        rows.append(
            {
                "question_type": "what",
                "multiple_choice_answer": "down",
                "answers": answers,
                "image_id": 262148,
                "answer_type": "other",
                "question_id": 262148000 + i,
                "question": "Where is he looking?",
            }
        )
    return rows


def _gqa() -> list[Row]:
    rows: list[Row] = []
    for i in range(4):
        rows.append(
            {
                "id": str(201307251 + i),
                "imageId": f"n{i % 2}",
                "question": "Is it overcast?",
                "answer": "no",
                "fullAnswer": "No.",
                "isBalanced": True,
                "groups": {"global": None, "local": "13-cloudy"},
                "entailed": "",
                "equivalent": "",
                "types": {"structural": "verify", "semantic": "global", "detailed": "weather"},
                "annotations": {"answer": []},
                "semantic": [{"operation": "select", "argument": "scene", "dependencies": []}],
                "semanticStr": "select: scene",
            }
        )
    return rows


def _pope() -> list[Row]:
    rows: list[Row] = []
    for i in range(6):
        rows.append(
            {
                "id": str(i),
                "question_id": str(i),
                "question": "Is there a snowboard in the image?",
                "answer": ["yes", "no"][i % 2],
                "image_source": "COCO_val2014_000000310196",
                "category": ["random", "popular", "adversarial"][i % 3],
            }
        )
    return rows


def _chartqa() -> list[Row]:
    kinds = ("human_test", "augmented_test")
    return [{"type": kind, "question": "How many items?", "answer": "14"} for kind in kinds]


def _docvqa() -> list[Row]:
    rows: list[Row] = []
    for i in range(3):
        rows.append(
            {
                "questionId": str(49153 + i),
                "question": "What is the date?",
                "question_types": ["form", "layout"],
                "docId": 14465,
                "ucsf_document_id": "p",
                "ucsf_document_page_no": "1",
                "answers": ["1/8/93", "1/8/1993"],
                "data_split": "val",
            }
        )
    return rows


def _mathvista() -> list[Row]:
    choice = {
        "pid": "1",
        "question": "Find $m\\angle H$",
        "image": "images/1.jpg",
        "choices": ["97", "102", "107", "122"],
        "unit": None,
        "precision": None,
        "answer": "97",
        "question_type": "multi_choice",
        "answer_type": "text",
        "metadata": {"task": "geometry", "skills": ["geometry reasoning"], "img_height": 60},
        "query": "Hint: ...",
    }
    number = {
        "pid": "2",
        "question": "What is the mean?",
        "image": "images/2.jpg",
        "choices": None,
        "unit": "years",
        "precision": 1.0,
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "metadata": {"task": "statistics", "skills": [], "img_height": 60},
        "query": "Hint: ...",
    }
    return [choice, number]


def _gqa_images() -> list[Row]:
    return [{"id": f"n{i}"} for i in range(2)]


# The rows that a benchmark asks.
ROWS: dict[str, list[Row]] = {
    "mme": _mme(),
    "mmbench": _mmbench(),
    "textvqa": _textvqa(),
    "vqav2": _vqav2(),
    "gqa": _gqa(),
    "pope": _pope(),
    "chartqa": _chartqa(),
    "docvqa": _docvqa(),
    "mathvista": _mathvista(),
}


def tables(benchmark: str, rows: list[Row] | None = None) -> list[Table]:
    """All tables of a benchmark's repository.

    Args:
        benchmark: its name.
        rows: those of the split that is asked; None for `ROWS`. Other splits say something else.
    """
    rows = ROWS[benchmark] if rows is None else rows
    other = ROWS[benchmark]
    if benchmark == "mme":
        return [Table(None, "test", MME, rows)]
    if benchmark == "mmbench":
        unlabelled = with_values(other, answer="nan", split="test")
        return [
            Table("cn", "dev", MMBENCH, with_values(other, question="?")),
            Table("en", "dev", MMBENCH, rows),
            Table("en", "test", MMBENCH, unlabelled),
        ]
    if benchmark == "textvqa":
        return [
            Table(None, "train", TEXTVQA, with_values(other, question="train?", set_name="train")),
            Table(None, "validation", TEXTVQA, rows),
            Table(None, "test", TEXTVQA, with_values(other, answers=[], set_name="test")),
        ]
    if benchmark == "vqav2":
        unlabelled = with_values(other, answers=None, multiple_choice_answer=None)
        return [
            Table(None, "validation", VQAV2, rows),
            Table(None, "testdev", VQAV2, unlabelled),
            Table(None, "test", VQAV2, unlabelled),
        ]
    if benchmark == "gqa":
        challenge = with_values(other, answer=None, fullAnswer=None)
        return [
            Table("testdev_balanced_instructions", "testdev", GQA, rows, None),
            Table("testdev_balanced_images", "testdev", GQA_IMAGES, _gqa_images()),
            Table("testdev_all_images", "testdev", GQA_IMAGES, _gqa_images()),
            Table("challenge_all_instructions", "challenge", GQA, challenge, None),
        ]
    if benchmark == "pope":
        kinds = ("adversarial", "popular", "random")
        parts = [Table("Full", kind, POPE, with_values(other, category=kind)) for kind in kinds]
        return [Table(None, "test", POPE, rows), *parts]
    if benchmark == "chartqa":
        return [Table(None, "test", CHARTQA, rows)]
    if benchmark == "docvqa":
        return [
            Table("DocVQA", "validation", DOCVQA, rows),
            Table("DocVQA", "test", DOCVQA, with_values(other, answers=None)),
            Table("InfographicVQA", "validation", DOCVQA, with_values(other, question="?")),
        ]
    return [
        Table(None, "testmini", MATHVISTA, rows, "decoded_image"),
        Table(None, "test", MATHVISTA, with_values(other, answer=None), "decoded_image"),
    ]


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (90, 60)) -> Row:
    """An encoded picture of noise, (width, height)."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    buffer = BytesIO()
    Pictures.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def dataset(table: Table) -> Dataset:
    """A table's rows with pictures of several modes where they have none of their own."""
    modes = ("RGB", "L", "RGBA")
    rows: list[Row] = []
    for i, row in enumerate(table.rows):
        if table.pictures is not None and table.pictures not in row:
            row = row | {table.pictures: picture(i, modes[i % len(modes)])}
        # `Features` reads nested records as they are: a key that a row lacks is None.
        rows.append({name: row.get(name) for name in table.features})
    return Dataset.from_list(rows, features=table.features)


def write_shards(data: Dataset, folder: Path, split: str, shards: int) -> list[Path]:
    """Write a split as the hub names its files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for index in range(shards):
        name = hashlib.sha256(f"{folder.name} {split} {index}".encode()).hexdigest()[:16]
        file = folder / f"{split}-{index:05}-of-{shards:05}-{name}.parquet"
        data.shard(shards, index, contiguous=True).to_parquet(file)
        files.append(file)
    return files


def clone(
    folder: Path,
    benchmark: str,
    rows: list[Row] | None = None,
    shards: int = 2,
    counts: bool = True,
) -> Path:
    """The clone of a benchmark's dataset repository as `folder/<benchmark>`.

    Args:
        folder: is given a folder named after the benchmark.
        benchmark: its name.
        rows: of the split that is asked; None for `ROWS`.
        shards: files of every split.
        counts: whether the README says how many rows each split has.
    """
    root = folder / benchmark
    configs: dict[str, list[Row]] = {}
    infos: dict[str, list[Row]] = {}
    for table in tables(benchmark, rows):
        data = dataset(table)
        name = table.config or "default"
        place = table.config or "data"
        pieces = min(shards, max(1, len(data)))
        write_shards(data, root / place, table.split, pieces)
        files = {"split": table.split, "path": f"{place}/{table.split}-*"}
        configs.setdefault(name, []).append(files)
        count = {"name": table.split, "num_bytes": 1, "num_examples": len(data)}
        infos.setdefault(name, []).append(count)
    head: Row = {
        "configs": [{"config_name": n, "data_files": files} for n, files in configs.items()]
    }
    if counts:
        head["dataset_info"] = [
            {"config_name": name, "splits": splits} for name, splits in infos.items()
        ]
    text = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# {benchmark}\n"
    (root / "README.md").write_text(text, encoding="utf-8")
    return root
