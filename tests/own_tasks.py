"""A folder with benchmarks of a user's own: tasks as lm-eval's YAML, their Python and their data."""

import io
import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

CHOICE = """
task: my_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/sums.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
num_fewshot: 2
fewshot_config: {{split: test}}
output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
PICTURES = """
task: my_colours
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {folder}/colours.parquet}}, cache_dir: {folder}/cache}}
test_split: test
output_type: generate_until
doc_to_image: !function utils.images
doc_to_text: "<image>{{{{question}}}}\\nAnswer the question using a single word or phrase."
doc_to_target: answer
process_results: !function utils.process
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8}}
metric_list:
  - {{metric: length, aggregation: mean, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
UTILS = """
def images(doc):
    return [doc["image"]]


def process(doc, results):
    answer = results[0].strip().lower()
    return {"acc": float(doc["answer"] in answer), "length": len(answer) + 2}
"""
GROUP = """
group: my_both
task: [my_sums, my_colours]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: false}
"""
COLOURS = ("red", "blue", "green", "yellow", "black", "white")


def picture(colour: str) -> bytes:
    """A small PNG of one colour."""
    encoded = io.BytesIO()
    Pictures.new("RGB", (32, 24), colour).save(encoded, "PNG")
    return encoded.getvalue()


def write_colours(folder: Path, questions: list[str]) -> None:
    """Questions about pictures of one colour each, and their answers."""
    rows: list[dict[str, Any]] = []
    for index, question in enumerate(questions):
        colour = COLOURS[index % len(COLOURS)]
        image = {"bytes": picture(colour), "path": None}
        rows.append({"image": image, "question": question, "answer": colour})
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(folder / "colours.parquet")


def write_sums(folder: Path, count: int = 12) -> None:
    """Sums with three choices each, of which the first is right."""
    lines = []
    for number in range(count):
        choices = [str(number + number), "red", "a blue sky"]
        row = {"question": f"What is {number} plus {number}?", "choices": choices, "label": 0}
        lines.append(json.dumps(row) + "\n")
    (folder / "sums.jsonl").write_text("".join(lines), encoding="utf-8")


def write_tasks(folder: Path) -> Path:
    """Two tasks, a group of both, and what they read; the folder itself."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sums(folder)
    write_colours(folder, ["What colour is it?"] * 8)
    (folder / "sums.yaml").write_text(CHOICE.format(folder=folder), encoding="utf-8")
    (folder / "colours.yaml").write_text(PICTURES.format(folder=folder), encoding="utf-8")
    (folder / "both.yaml").write_text(GROUP, encoding="utf-8")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")
    return folder
