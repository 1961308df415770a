"""Damaged files: each must be noticed in one clear message, or be made again.

Each case damages one file of a finished sweep, of an exported folder, of the cache of compiled
kernels or of a training, and asks the command whose task it is to notice.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.faults import forked, outputs
from benchmarks.faults.forked import Act, Done, luq, must_work, refused
from benchmarks.faults.outcome import Plan, Tally
from benchmarks.faults.outputs import GGUF, QUIET, RUN, SWEEP, snapshot, to
from benchmarks.faults.training import after_half, after_tower, train_act
from luq.config import ModelConfig
from luq.export.about import ABOUT
from luq.formats.layer_file import read_layer
from luq.models.checkpoint import resolve_path
from luq.models.weight_files import INDEX, SINGLE
from luq.store.store import JOURNAL, MANIFEST
from pipelines import console, runs_folder
from pipelines.chat import load

BLOCK = 4096  # bytes that a disk loses at once
STATE = "state.pt"  # of a training
TOWER = "vision.pt"
LINES = 24  # of a clear message
README = "README.md"  # people edit it: it has no checksum


def flipped_byte(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= rng.randint(1, 255)


def flipped_bit(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def emptied(content: bytearray, rng: random.Random) -> None:
    content.clear()


def zeroed(content: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(content)) // BLOCK * BLOCK
    length = min(BLOCK, len(content) - begin)
    content[begin : begin + length] = bytes(length)


def lengthened(content: bytearray, rng: random.Random) -> None:
    content += rng.randbytes(rng.choice([1, 7, BLOCK]))


CHANGES = (flipped_byte, flipped_bit, cut, emptied, zeroed, lengthened)
DELETED = "deleted"


def damage(file: Path, rng: random.Random) -> str:
    """Damage a file in one way; returns what was done."""
    intact = file.read_bytes()
    if rng.randrange(len(CHANGES) + 1) == 0:
        file.unlink()
        return DELETED
    content = bytearray(intact)
    change = rng.choice(CHANGES)
    change(content, rng)
    while content == intact:  # zeros were zeros before
        change = flipped_byte
        change(content, rng)
    file.write_bytes(content)
    return change.__name__


@dataclass(frozen=True)
class Damaged:
    """A damaged file in a copy of the folder that it belongs to."""

    file: Path
    root: Path  # the copy
    base: Path  # the folder that was copied
    layers: Path  # packed layers that kernels can read
    how: str
    rng: random.Random

    @property
    def says_the_same(self) -> bool:
        """Whether it is JSON that was changed between its words only."""
        before = (self.base / self.file.relative_to(self.root)).read_bytes()
        try:
            return bool(json.loads(before) == json.loads(self.file.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return False


@dataclass(frozen=True)
class Kind:
    """Files that the same command looks after."""

    name: str
    share: int
    base: Path  # what is copied for each case
    make: Callable[[Path], None]  # it, when it is needed first
    files: Callable[[Path], list[Path]]
    check: Callable[[Damaged], list[str]]


def told(done: Done, names: list[str], codes: tuple[int, ...] = (1,)) -> list[str]:
    """What is wrong with how a command tells of damage.

    Args:
        done: How it ended.
        names: Its message must have one of them.
        codes: Exit codes that are right.
    """
    lines = done.output.strip().splitlines()
    problems: list[str] = []
    if done.signal or done.code not in codes:
        problems.append(f"it ends by {done.end}")
    elif "Traceback" in done.output:
        problems.append(f"there is a traceback: {done.end}")
    elif not any(name in done.output for name in names):
        problems.append(f"nothing names {' or '.join(names)}: {done.end}")
    elif 1 in codes and len(codes) == 1 and len(lines) > LINES:
        problems.append(f"it says {len(lines)} lines")
    return problems


def _same_again(damaged: Damaged) -> list[str]:
    """What differs after the sweep was started again."""
    done = forked.run(luq(*SWEEP, QUIET, to(damaged.root)))
    if done.code or done.signal:
        return [f"the sweep ends by {done.end}"]
    return outputs.differences(snapshot(damaged.base), snapshot(damaged.root))


def check_artefact(damaged: Damaged) -> list[str]:
    """`luq store verify` names it; an artefact without a manifest is none, and made again."""
    if damaged.file.name == MANIFEST:
        if damaged.how == DELETED:
            shutil.rmtree(damaged.root / "runs")
            return _same_again(damaged)
        if damaged.says_the_same:
            return []
    done = forked.run(luq("store", "verify", "--outputs", damaged.root))
    return told(done, [damaged.file.parent.name])


def check_journal(damaged: Damaged) -> list[str]:
    """The journal only helps to guess what a sweep will cost."""
    done = forked.run(luq(*SWEEP, QUIET, "seed=1", to(damaged.root), "--plan"))
    return told(done, ["clusters"], (0,))


def check_record(damaged: Damaged) -> list[str]:
    """What reads records names it, and the next start of the sweep makes it again."""
    if damaged.says_the_same:
        return []
    key = damaged.file.parent.name
    root = damaged.root
    choice = damaged.rng.randrange(4)
    if choice == 0:
        return _same_again(damaged)
    if choice == 1 or damaged.how == DELETED:
        done = forked.run(luq("report", "clusters", "--outputs", root))
        return told(done, [key], (0, 1))
    if choice == 2:
        return told(forked.run(luq("rescore", "clusters", "--outputs", root)), [key])
    return told(forked.run(luq("export", key, root / "exported", "--outputs", root)), [key])


def check_note(damaged: Damaged) -> list[str]:
    """As a record: the note is what counts the record among those of the sweep."""
    if damaged.says_the_same:
        return []
    if damaged.how == DELETED:
        return _same_again(damaged)
    done = forked.run(luq("report", "clusters", "--outputs", damaged.root))
    return told(done, [damaged.file.stem], (0, 1))


def check_failure(damaged: Damaged) -> list[str]:
    """The report names it; none is none."""
    if damaged.says_the_same:
        return []
    names = [""] if damaged.how == DELETED else [damaged.file.stem]
    done = forked.run(luq("report", "clusters", "--outputs", damaged.root))
    return told(done, names, (0, 1))


def check_exported(damaged: Damaged) -> list[str]:
    """`luq info --verify` names it, and nothing loads it."""
    if damaged.file.name == ABOUT and damaged.says_the_same:
        return []
    problems = told(forked.run(luq("info", damaged.root, "--verify")), [damaged.file.name])
    done = forked.run(lambda: refused(lambda: load(damaged.root, "cpu")))
    if damaged.file.name != ABOUT or damaged.how != DELETED:
        problems += [f"loading it: {line}" for line in told(done, [damaged.file.name])]
    return problems


def check_gguf(damaged: Damaged) -> list[str]:
    """`luq info --verify` names it, and so does what would ask it."""
    if damaged.file.name == ABOUT and damaged.says_the_same:
        return []
    problems = told(forked.run(luq("info", damaged.root, "--verify")), [damaged.file.name])
    evaluation = luq("evaluate", "--gguf", damaged.root, "--outputs", damaged.root)
    return problems + told(forked.run(evaluation), [damaged.file.name])


def check_kernels(damaged: Damaged) -> list[str]:
    """The library is compiled again, and then the cache is whole."""
    layers = damaged.layers
    done = forked.run(lambda: _use_kernels(layers, damaged.root))
    if done.code or done.signal or "Traceback" in done.output:
        return [f"it ends by {done.end}"]
    problems = outputs.differences(
        dict.fromkeys(snapshot(damaged.base), ""), dict.fromkeys(snapshot(damaged.root), "")
    )
    second_run = forked.run(lambda: _use_kernels(layers, damaged.root))
    if second_run.code or "made anew" in second_run.output:
        problems.append(f"the cache is still damaged: {second_run.end}")
    return problems


def _use_kernels(layers: Path, cache: Path) -> int:
    """Unpack a layer with the kernels of a cache, and compare with torch; 0 if that is the same."""
    os.environ["XDG_CACHE_HOME"] = str(cache)
    console.log_warnings()
    weight = next(iter(read_layer(next(layers.iterdir())).values()))
    kernel = weight.cpu_kernel()
    if kernel is None:
        return 1
    return 0 if kernel.unpack(torch.float32).equal(weight.dequantize(torch.float32)) else 1


def check_training(damaged: Damaged) -> list[str]:
    """Going on names it, or makes what was lost again."""
    done = forked.run(lambda: refused(train_act(damaged.root)))
    if done.code == 0 and done.signal == 0:
        return outputs.differences(
            snapshot(damaged.base.parent / "trained"), snapshot(damaged.root)
        )
    return told(done, [damaged.file.name])


def _sharded_model(folder: Path) -> Path:
    """The pocket model in two weight files, and their index."""
    source = resolve_path(ModelConfig(name="pocket_llava", path="pocket:pocket_llava"))
    shutil.copytree(source, folder)
    (folder / SINGLE).unlink()
    tensors = load_file(source / SINGLE)
    names = sorted(tensors)
    half = len(names) // 2
    places: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        places |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def _exported(folder: Path) -> None:
    """A folder with two weight files and their index."""
    model = _sharded_model(folder.with_name("model"))
    outputs_folder = folder.with_name("sharded")
    path = f"model.path={model}"
    words = ["checkpoint=true", "model=pocket_llava", path, to(outputs_folder)]
    must_work(luq(*RUN, QUIET, *words))
    (exported,) = (outputs_folder / "checkpoints").glob("[!.]*")
    exported.rename(folder)


def _exported_gguf(swept: Path, folder: Path) -> None:
    """A folder for llama.cpp."""
    key = next(swept.glob("runs/*")).name
    must_work(luq("export", key, folder, *GGUF, "--outputs", swept))


def _kinds(plan: Plan) -> list[Kind]:
    """All files that a case may damage."""
    swept = plan.scratch / "swept"
    trained = plan.scratch / "trained"

    def with_failure(folder: Path) -> None:
        outputs.copy(plan.swept, folder)
        failure = runs_folder.Failure("0" * 16, "broken", "clusters", "OSError", "no disk")
        runs_folder.write_failure(folder, failure)

    def cache(folder: Path) -> None:
        folder.mkdir()
        must_work(lambda: _use_kernels(plan.swept / "store" / "layers", folder))

    def gguf(folder: Path) -> None:
        _exported_gguf(plan.swept, folder)

    def training(stop: Callable[[Path], Act]) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            if not trained.exists():
                must_work(train_act(trained))
            must_work(stop(folder))

        return make

    def of(pattern: str, *without: str) -> Callable[[Path], list[Path]]:
        def files(folder: Path) -> list[Path]:
            candidates = [file for file in folder.glob(pattern) if file.is_file()]
            return sorted(file for file in candidates if file.name not in without)

        return files

    def of_sweep(
        name: str,
        share: int,
        files: Callable[[Path], list[Path]],
        check: Callable[[Damaged], list[str]],
    ) -> Kind:
        return Kind(name, share, swept, with_failure, files, check)

    half, tower = plan.scratch / "half", plan.scratch / "tower"
    return [
        of_sweep("artefact", 26, of("store/[!.d]*/*/*", MANIFEST), check_artefact),
        of_sweep("manifest", 14, of(f"store/*/*/{MANIFEST}"), check_artefact),
        of_sweep("journal", 4, of(f"store/{JOURNAL}"), check_journal),
        of_sweep("record", 12, of(f"runs/*/{runs_folder.FILE}"), check_record),
        of_sweep("note", 4, of("sweeps/*/*.json"), check_note),
        of_sweep("failure", 3, of("failed/*.json"), check_failure),
        Kind("exported", 24, plan.scratch / "exported", _exported, of("*", README), check_exported),
        Kind("exported gguf", 8, plan.scratch / "exported_gguf", gguf, of("*", README), check_gguf),
        Kind("kernels", 5, plan.scratch / "cache", cache, of("luq/*"), check_kernels),
        Kind("training, half", 5, half, training(after_half), of("*"), check_training),
        Kind("training, tower", 3, tower, training(after_tower), of("*"), check_training),
    ]


def damages(plan: Plan) -> Tally:
    """Damage files, one at a time."""
    tally = Tally("damage", plan)
    kinds = _kinds(plan)
    layers = plan.swept / "store" / "layers"
    for case in plan.cases():
        rng = plan.random(case)
        kind = rng.choices(kinds, [kind.share for kind in kinds])[0]
        if not kind.base.exists():
            kind.make(kind.base)
        copy = plan.scratch / f"case{case}"
        shutil.copytree(kind.base, copy)
        file = rng.choice(kind.files(copy))
        damaged = Damaged(file, copy, kind.base, layers, damage(file, rng), rng)
        what = f"{kind.name} {file.relative_to(copy)} {damaged.how}"
        tally.add(case, what, kind.check(damaged))
        shutil.rmtree(copy)
    return tally
