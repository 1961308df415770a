"""Bad input: each is refused at once, in one clear message that names it, and changes nothing.

The settings are in `bad_settings`; here are names, paths, options and folders that are none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import forked, outputs
from benchmarks.faults.bad_settings import bad_settings
from benchmarks.faults.forked import Done, luq, must_work
from benchmarks.faults.outcome import Plan, Tally
from benchmarks.faults.outputs import QUIET, RUN, SWEEP, Snapshot, to

RULE = "─"  # ends the line above a run, which repeats its settings
LINES = 24  # of a clear message
STAGES = ("run", "run", "run", "evaluate", "quantize")
NO_RUNS = (
    "nonsense", "clusters/nonsense", "nonsense/nonsense", "clusters/", "a/b/c", "../x", "*", "[",
    "x" * 300, "clusters/*", "-", "0",
)  # fmt: skip
# What a refused command may leave behind.
PASSING = re.compile(r"^fresh/(logs|failed)/|/\.locks/|(^|/)\.[^/]+\.lock$")
NO_SWEEPS = ("nonsense", "a/b", "../runs", "*", "[", "x" * 300, "clusters.yaml")
BROKEN_JSON = {
    "empty": "", "words": "nonsense", "list": "[]", "table": "{}", "null": "null",
    "version": '{"format_version": 99}', "no_version": '{"format_version": "x"}',
    "deep": "[" * 100_000, "nan": '{"format_version": NaN}', "ledger": '{"ledger": 1}',
}  # fmt: skip


@dataclass(frozen=True)
class BadInput:
    """A command that must be refused, and words of which one must stand in the message."""

    words: list[str]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What commands are given that is there."""

    swept: Path  # outputs of a sweep
    exported: Path  # a good exported folder
    file: Path  # a text file
    broken: Path  # of broken exported folders
    fresh: Path  # outputs that are not there yet


def _commands(scene: Scene) -> Iterator[BadInput]:
    """All bad input but settings."""
    yield from _runs(scene)
    yield from _sweeps(scene)
    yield from _folders(scene)
    yield from _outputs(scene)
    yield from _options(scene)


def _runs(scene: Scene) -> Iterator[BadInput]:
    last = ["--outputs", str(scene.swept)]
    target = str(scene.fresh.parent / "target")
    good_run = "clusters/profile.clusters=4"
    for name in NO_RUNS:
        sweep, _, run = name.partition("/")
        quoted_names = (repr(sweep), repr(run)) if run else (name,)
        options = ["--"] if name.startswith("-") else []
        yield BadInput(["export", *last, *options, name, target], quoted_names)
        for pair in ((name, good_run), (good_run, name)):
            yield BadInput(["compare", *last, *options, *pair], quoted_names)
    for name in NO_SWEEPS:
        yield BadInput(["report", name, *last], (name,))
        yield BadInput(["rescore", name, *last], (name,))
        yield BadInput(["compare", name, "--axis", "order", *last], (name,))
        yield BadInput(["store", "clean", "--yes", "--sweep", name, *last], (name,))


def _sweeps(scene: Scene) -> Iterator[BadInput]:
    place = to(scene.fresh)
    for name in NO_SWEEPS:
        yield BadInput(["sweep", name, place], (name,))
        yield BadInput(["status", name, place], (name,))
    for override in ("nonsense=1", "allocation.k=", "=4", "allocation.k=[1", "model=nonsense"):
        names = (override.partition("=")[2] or override, override.partition("=")[0] or override)
        yield BadInput(["sweep", "clusters", override, QUIET, place], names)
    for override in ("seed=-1", "calibration.tokens=nan", "profile.clusters=1"):
        setting = override.partition("=")[0].rpartition(".")[2]
        yield BadInput([*SWEEP, override, QUIET, place], (setting,))
    yield BadInput(["sweep", "clusters", "--nonsense", place], ("--nonsense",))
    yield BadInput(["sweep", "clusters", "hydra/launcher=nonsense", place], ("nonsense",))


def _folders(scene: Scene) -> Iterator[BadInput]:
    last = ["--outputs", str(scene.swept)]
    run = "clusters/profile.clusters=4"
    file, exported = str(scene.file), str(scene.exported)
    for target in (exported, file, "/proc/nowhere", "/"):
        yield BadInput(["export", run, target, *last], (target,))
    yield BadInput(["export", run, f"{file}/below", *last], (file,))
    yield BadInput(["export", run, "x", "--format", "nonsense", *last], ("nonsense",))
    for folder in ("nowhere", file, f"{file}/below", str(scene.swept), "x" * 300):
        yield BadInput(["info", folder], (folder,))
        yield BadInput(["info", "--verify", folder], (folder,))
        yield BadInput(["chat", folder, "--image", file, "--question", "?"], (folder,))
    for name in BROKEN_JSON:
        folder = str(scene.broken / name)
        yield BadInput(["info", folder], (folder,))
        yield BadInput(["chat", folder, "--image", file, "--question", "?"], (folder,))
    for image in ("nowhere.png", file, exported, "/dev/null"):
        yield BadInput(["chat", exported, "--image", image, "--question", "?"], (image,))
    yield BadInput(["chat", exported], ("--image",))
    for start in ("nowhere", file, str(scene.swept)):
        yield BadInput(["pocket", "train", "new", "--steps", "1", "--start", start], (start,))
    yield BadInput(["pocket", "train", file, "--steps", "1"], (file,))
    yield BadInput(["pocket", "data", file], (file,))


def _outputs(scene: Scene) -> Iterator[BadInput]:
    """Commands that read outputs which are not there, and that write where nothing can be."""
    file = str(scene.file)
    for place in ("nowhere", file, f"{file}/below", "/proc/nowhere"):
        last = ["--outputs", place]
        for words in (["store", "du"], ["store", "verify"], ["store", "clean", "--yes"]):
            yield BadInput([*words, *last], (place,))
        for words in (["report"], ["report", "clusters"], ["rescore"], ["compare", "a", "b"]):
            yield BadInput([*words, *last], (place, "clusters"))
        yield BadInput(["export", "a", "target", *last], (place,))
    for place in (file, f"{file}/below", "/proc/nowhere"):
        for words in (RUN, SWEEP, ["profile", *RUN[1:]]):
            yield BadInput([*words, QUIET, f"paths.outputs={place}"], (place,))
    yield BadInput(["report", "clusters", "--outputs", str(scene.swept), "--to", file], (file,))


def _options(scene: Scene) -> Iterator[BadInput]:
    """Options and commands that are not there, or that have no such value."""
    train = ["pocket", "train", "new", "--steps", "1", "--vision-steps", "1"]
    for option, values in {
        "--steps": ("0", "-1", "abc", "1.5", "nan"),
        "--vision-steps": ("-1", "abc"),
        "--seed": ("-1", "abc", "2147483648"),
        "--decay": ("-1", "2", "nan", "inf", "abc"),
        "--model": ("nonsense",),
        "--focus": ("nonsense", "letters,letters"),
        "--nonsense": ("1",),
    }.items():
        names = (option.strip("-").replace("-", "_"), option)
        for value in values:
            yield BadInput([*train, option, value], names)
    yield BadInput(["pocket", "data", "new", "--split", "nonsense"], ("nonsense",))
    last = ["--outputs", str(scene.swept)]
    run = "clusters/profile.clusters=4"
    yield BadInput(["compare", run, *last], ("two runs",))
    yield BadInput(["compare", "clusters", "--axis", "nonsense", *last], ("nonsense",))
    clusters = ["--axis", "profile.clusters", "--base", "nonsense"]
    yield BadInput(["compare", "clusters", *clusters, *last], ("nonsense",))
    for words in (["report", "--nonsense"], ["report", "--tracking", "nonsense"]):
        yield BadInput([*words, *last], ("nonsense",))
    for words in (["nonsense"], ["store", "nonsense"], ["pocket", "nonsense"], ["--nonsense"]):
        yield BadInput(words, ("nonsense",))
    yield BadInput(["completion", "zsh"], ("zsh",))
    for command in ("export", "info", "chat", "compare"):
        yield BadInput([command], ("Missing argument", "RUN", "FOLDER", "A"))
    yield BadInput(["run", "nonsense"], ("nonsense",))
    yield BadInput(["rescore", "a", "b"], ("b",))


def _inputs(scene: Scene) -> list[BadInput]:
    """All of the table, in its order."""
    table: list[BadInput] = []
    for number, setting in enumerate(bad_settings()):
        stage = STAGES[number % len(STAGES)]
        overrides = RUN[1:]
        if any(override.startswith("allocation=") for override in setting.overrides):
            overrides = [each for each in overrides if not each.startswith("allocation.")]
        words = [stage, *overrides, QUIET, to(scene.fresh), *setting.overrides]
        table.append(BadInput(words, setting.names))
    return table + list(_commands(scene))


def _scene(plan: Plan) -> Scene:
    scratch = plan.scratch
    swept = outputs.copy(plan.swept, scratch / "swept")
    exported = scratch / "exported"
    last = ["--outputs", str(swept)]
    must_work(luq("export", "clusters/profile.clusters=4", exported, *last))
    file = scratch / "file"
    file.write_text("not what you think\n")
    broken = scratch / "broken"
    for name, content in BROKEN_JSON.items():
        (broken / name).mkdir(parents=True)
        (broken / name / "luq.json").write_text(content)
    return Scene(swept, exported, file, broken, scratch / "fresh")


def inputs(plan: Plan) -> Tally:
    """Try all bad inputs, or a random part of them."""
    tally = Tally("inputs", plan)
    scene = _scene(plan)
    table = _inputs(scene)
    cases = list(range(len(table)))
    if plan.case is not None:
        cases = [plan.case]
    elif plan.count < len(table):
        cases = sorted(plan.random(0).sample(cases, plan.count))
    before = _files(plan.scratch)
    for case in cases:
        bad = table[case]
        done = forked.run(luq(*bad.words))
        problems = _problems(done, bad)
        after = _files(plan.scratch)
        problems += outputs.differences(before, after)
        before = after
        tally.add(case, " ".join(bad.words[:1] + bad.words[-3:])[:200], problems)
    return tally


def _files(scratch: Path) -> Snapshot:
    """All files but logs, locks, and notes of failures; empty folders are no harm."""
    stamps: Snapshot = {}
    for file in scratch.rglob("*"):
        name = file.relative_to(scratch).as_posix()
        if file.is_file() and not PASSING.search(name):
            status = file.stat()
            stamps[name] = f"{status.st_size} {status.st_mtime_ns}"
    return stamps


def _problems(done: Done, bad: BadInput) -> list[str]:
    """What is wrong with how a command refuses."""
    lines = done.output.strip().splitlines()
    if done.signal or done.code not in (1, 2):
        return [f"it ends by {done.end}"]
    if "Traceback" in done.output:
        return [f"there is a traceback: {done.end}"]
    problems: list[str] = []
    if len(lines) > LINES:
        problems.append(f"it says {len(lines)} lines: {done.end}")
    message = "\n".join(line for line in lines if not line.endswith(RULE))
    if not any(name in message for name in bad.names):
        problems.append(f"nothing names {' or '.join(bad.names)[:80]}: {done.end}")
    return problems
