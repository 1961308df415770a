"""Mutated exported folders, as a stranger may hand them over. Run by
`test_folder.py`.

A stranger can compute checksums as well as we: luq.json is sealed again after it was mutated, and
files are not compared with it.

`python -m tests.luq.export.fuzz FOLDER SCRATCH SEED COUNT` changes config.json, luq.json or the
weight file of copies of an exported folder, loads each copy as `luq chat` does and lets it answer.
Prints how many were refused and how many answered; anything but an error of ours ends it with a
traceback or a signal.
"""

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luq.errors import LuqError
from luq.export.about import ABOUT, read_about
from luq.export.checksums import NEVER, VARIABLE
from luq.models.quiet import quiet
from luq.store.sealed import sealed
from pipelines.chat import load

VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 7, 64, 2**31, 2**63, 2**64, -(2**63), 1.5, float("nan"), float("inf"),
    "", "x", "float32", "uint8", "../x", [], [1], [[]], {}, {"a": 1}, [-1, 4], [2**40, 2**40],
]  # fmt: skip
Place = tuple[Any, Any]  # a list or table of JSON, and the index or name in it


def places(value: Any) -> list[Place]:
    """Every place in nested JSON whose content can be replaced."""
    found: list[Place] = []
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for name, child in entries:
        found.append((value, name))
        found += places(child)
    return found


def mutate_json(file: Path, part: str | None, rng: random.Random) -> None:
    """Replace, remove or repeat something in a JSON file, or in one part of it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    holder, name = rng.choice(places(content if part is None else content[part]))
    choice = rng.randrange(4)
    if choice == 0 and isinstance(holder, dict):
        del holder[name]
    elif choice == 1 and isinstance(holder, list):
        holder.append(holder[name])
    elif choice == 2 and isinstance(holder, dict):
        holder[rng.choice(["x", "block", "bits", "format"])] = rng.choice(VALUES)
    else:
        holder[name] = rng.choice(VALUES)
    if file.name == ABOUT:
        content = sealed(content)
    file.unlink()  # the copy is a hard link
    file.write_text(json.dumps(content), encoding="utf-8")


def mutate_weights(file: Path, rng: random.Random) -> None:
    """Change some bytes of the header or of the tensors, or cut the file."""
    content = bytearray(file.read_bytes())
    header = int.from_bytes(content[:8], "little")
    choice = rng.randrange(4)
    if choice == 0:
        content = content[: rng.randrange(len(content))]
    else:
        first, last = (0, header) if choice == 1 else (header + 8, len(content))
        for _ in range(rng.choice([1, 8, 4000])):
            content[rng.randrange(first, last)] = rng.randrange(256)
    file.unlink()
    file.write_bytes(content)


def answer(folder: Path) -> None:
    """What `luq info` and `luq chat` do with a folder, but for the picture."""
    read_about(folder)
    model, _ = load(folder, "cpu")
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 5, 6, 7]]))


def campaign(folder: Path, scratch: Path, seed: int, count: int) -> Counter[str]:
    """How many mutated folders were refused, and how many answered."""
    os.environ[VARIABLE] = NEVER
    rng = random.Random(seed)
    mutations: list[Callable[[Path], None]] = [
        lambda copy: mutate_json(copy / "config.json", "quantization_config", rng),
        lambda copy: mutate_json(copy / "config.json", "quantization_config", rng),
        lambda copy: mutate_json(copy / "config.json", None, rng),
        lambda copy: mutate_json(copy / "luq.json", None, rng),
        lambda copy: mutate_weights(copy / "model.safetensors", rng),
        lambda copy: mutate_weights(copy / "model.safetensors", rng),
    ]
    outcomes: Counter[str] = Counter()
    for number in range(count):
        copy = scratch / str(number)
        shutil.copytree(folder, copy, copy_function=os.link)
        rng.choice(mutations)(copy)
        try:
            with quiet():
                answer(copy)
            outcomes["answered"] += 1
        except LuqError:
            outcomes["refused"] += 1
        shutil.rmtree(copy)
    return outcomes


if __name__ == "__main__":
    told = campaign(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(f"{told['refused']} refused, {told['answered']} answered\n")
