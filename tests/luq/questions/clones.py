"""Small datasets as the hub holds them: the real configurations, splits and columns, with a few rows each."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from PIL import Image as Pictures

from luq.questions.sources import spec

ROWS: dict[str, list[dict[str, Any]]] = {
    "mme": [
        {"question_id": f"code_reasoning/{i:04d}.png", "question": f"{q} Please answer yes or no.", "answer": a,
         "category": "code_reasoning"}
        for i in range(3) for q, a in (("Is a python code shown in the picture?", "Yes"), ("Is the output 7?", "No"))
    ],
    "mmbench": [
        {"index": i + turn * 1_000_000, "question": "Which one is the correct caption?", "hint": "nan",
         "answer": "ABC"[-turn % 3], "A": ["a cat", "a dog", "a cow"][turn], "B": ["a dog", "a cow", "a cat"][turn],
         "C": ["a cow", "a cat", "a dog"][turn],
         "D": "nan", "category": "image_topic", "L2-category": "coarse_perception", "source": "x", "split": "dev"}
        for i in range(2) for turn in range(3)
    ],
    "textvqa": [
        {"image_id": "0054", "question_id": 34602 + i, "question": "what is the brand of this camera?",
         "answers": ["dakota"] * 9 + ["clos"], "ocr_tokens": ["DAKOTA", "DIGITAL"], "set_name": "val"} for i in range(3)
    ],
    "vqav2": [
        {"question_type": "what", "multiple_choice_answer": "net", "image_id": 262148, "answer_type": "other",
         "question_id": 262148000 + i, "question": "Where is he looking?",
         "answers": [{"answer": "down", "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)]} for i in range(3)
    ],
    "gqa": [
        {"id": str(201307251 + i), "imageId": f"n{i % 2}", "question": "Is it overcast?", "answer": "no",
         "fullAnswer": "No.", "isBalanced": True}
        for i in range(4)
    ],
    "pope": [
        {"id": str(i), "question_id": str(i), "question": "Is there a snowboard in the image?", "answer": ["yes", "no"][i % 2],
         "image_source": "COCO_val2014_000000310196", "category": ["random", "popular", "adversarial"][i % 3]}
        for i in range(6)
    ],
    "chartqa": [{"type": ["human_test", "augmented_test"][i % 2], "question": "How many items?", "answer": "14"} for i in (0, 1)],
    "docvqa": [
        {"questionId": str(49153 + i), "question": "What is the date?", "docId": 14465,
         "ucsf_document_id": "p", "ucsf_document_page_no": "1", "answers": ["1/8/93", "1/8/1993"], "data_split": "val"}
        for i in range(3)
    ],
    "mathvista": [
        {"pid": "1", "question": "Find $m\\angle H$", "choices": ["97", "102", "107", "122"], "unit": None, "precision": None,
         "answer": "97", "question_type": "multi_choice", "answer_type": "text", "query": "", "metadata": {"task": "geometry"}},
        {"pid": "2", "question": "What is the mean?", "choices": None, "unit": None, "precision": 1.0, "answer": "1.2",
         "question_type": "free_form", "answer_type": "float", "query": "", "metadata": {"task": "statistics"}},
    ],
}  # fmt: skip


def picture(seed: int, mode: str = "RGB") -> dict[str, Any]:
    """An encoded picture of noise."""
    from io import BytesIO

    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3), np.uint8)
    buffer = BytesIO()
    Pictures.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def clone(folder: Path, benchmark: str) -> Path:
    """The clone of a benchmark's dataset repository as `folder/<benchmark>`, read as `datasets` reads the hub's."""
    wanted, root = spec(benchmark), folder / benchmark
    rows, modes = ROWS[benchmark], ("RGB", "L", "RGBA")
    if wanted.images:
        pictures = [{"id": f"n{i}", "image": picture(i)} for i in range(2)]
        tables = {
            (wanted.name, wanted.split): Dataset.from_list(rows),
            (wanted.images["name"], wanted.images["split"]): Dataset.from_list(
                pictures
            ).cast_column("image", Image()),
        }
    else:
        column = "decoded_image" if benchmark == "mathvista" else "image"
        rows = [row | {column: picture(i, modes[i % 3])} for i, row in enumerate(rows)]
        tables = {(wanted.name, wanted.split): Dataset.from_list(rows).cast_column(column, Image())}
    lines = ["---", "configs:"]
    for (name, split), table in tables.items():
        file = f"{name or 'data'}/{split}-00000-of-00001.parquet"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(root / file)
        lines += [
            f"- config_name: {name or 'default'}",
            "  data_files:",
            f"  - split: {split}",
            f"    path: {file}",
        ]
    (root / "README.md").write_text("\n".join([*lines, "---", ""]))
    return root
