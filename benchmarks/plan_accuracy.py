"""`luq run --plan` beside the run: seconds, bytes and memory, projected and real.

`OMP_NUM_THREADS=1 python benchmarks/plan_accuracy.py [pocket] [layer] [--scratch DIR]`

pocket: pocket_llava with 4 layers in billm and 6 in gptq4, 20 questions of each benchmark. layer: a
checkpoint of LLaVA-1.5-7B's shapes with random weights and one decoder layer, in gptq4 and in billm
(two runs that share what they can), 2,048 calibration tokens, two questions. Each is planned in a
process of its own, whose outputs are empty, and then run in another. Seconds are CPU seconds of
the process, so that other work on the machine does not count; what imports and loading took is
what is left of the whole process. It takes a minute for pocket, and eight for layer.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# The store's journal and the plan's measurements go by this clock.
time.perf_counter = time.process_time
sys.path.insert(0, str(Path(__file__).parent.parent))

SHARED = ("tracking=none",)
POCKET = ("model=pocket_llava", "evaluation.samples=20", "allocation.k=4")
LAYER = (
    "model=own",
    "evaluation=quick",
    "evaluation.data=pocket",
    "evaluation.text=pocket",
    "calibration.source=pocket",
    "calibration.text=pocket",
    "calibration.tokens=2048",
    "profile.tokens=1024",
    "profile.orders=[entropy]",
    "evaluation.benchmarks=[gqa]",
    "evaluation.samples=2",
    "evaluation.fidelity=1",
    "evaluation.text_tokens=512",
    "evaluation.text_length=128",
)
Row = dict[str, float]


def planned(words: Sequence[str]) -> dict[str, Row]:
    """Kind of work -> what the plan says of it; nothing is written."""
    from pipelines.plan import run_plan

    plan = run_plan(list(words), is_multirun=True)
    begin = time.perf_counter()
    totals = plan.totals()
    rows: dict[str, Row] = {}
    for kind, total in totals.items():
        assert not total.problem, f"{kind}: {total.problem}"
        rows[kind] = {"seconds": total.seconds, "bytes": total.bytes, "memory": total.memory}
    rows["(the plan)"] = {"seconds": time.perf_counter() - begin, "bytes": 0, "memory": 0}
    return rows


def real(words: Sequence[str], outputs: Path) -> dict[str, Row]:
    """Run; kind of work -> what it took."""
    from luq.store.store import Store
    from pipelines import runs_folder
    from pipelines.cli import main as luq
    from pipelines.cost import QUESTIONS, kind_of
    from pipelines.plan import START

    assert luq(["run", "-m", *words]) == 0
    rows: dict[str, Row] = {}
    for entry in Store(outputs / "store").built():
        kind = QUESTIONS if entry.stage == "pocket" else kind_of(entry.stage, entry.what)
        row = rows.setdefault(kind, {"seconds": 0.0, "bytes": 0, "memory": 0.0})
        row["seconds"] += entry.seconds
        row["bytes"] += entry.bytes
    peak = max(record.memory.peak_bytes for record in runs_folder.iterate(outputs))
    made_seconds = sum(row["seconds"] for row in rows.values())
    rows[START] = {"seconds": time.process_time() - made_seconds, "bytes": 0, "memory": peak}
    return rows


def child(mode: str, words: Sequence[str], outputs: Path) -> dict[str, Row]:
    """One of these in a process of its own."""
    with tempfile.NamedTemporaryFile() as answer:
        command = [sys.executable, __file__, mode, answer.name, str(outputs), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows: dict[str, Row] = json.loads(Path(answer.name).read_text(encoding="utf-8"))
        return rows


def compare(name: str, words: Sequence[str], out: Console) -> None:
    """Plan, then run, then a table."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        words = [*words, *SHARED, f"paths.outputs={outputs}"]
        plan = child("--planned", words, outputs)
        assert not outputs.exists(), "a plan writes nothing"
        done = child("--real", words, outputs)
    took = plan.pop("(the plan)")["seconds"]
    table = Table(title=f"{name}: CPU seconds, bytes", title_justify="left")
    for title in ("work", "projected s", "real s", "ratio", "projected MB", "real MB", "ratio"):
        table.add_column(title, justify="left" if title == "work" else "right")
    empty = {"seconds": 0.0, "bytes": 0.0, "memory": 0.0}
    for kind in plan:
        table.add_row(kind, *_cells(plan[kind], done.get(kind, empty)))
    table.add_section()
    table.add_row("all", *_cells(_sum(plan), _sum(done)))
    out.print(table)
    memory = max(row["memory"] for row in plan.values())
    peak = max(row["memory"] for row in done.values())
    out.print(
        f"memory: projected {memory / 1e9:.2f} GB, real {peak / 1e9:.2f} GB, "
        f"{memory / peak:.2f}; the plan took {took:.1f} CPU s beside the start"
    )


def _sum(rows: dict[str, Row]) -> Row:
    return {name: sum(row[name] for row in rows.values()) for name in ("seconds", "bytes")}


def _cells(plan: Row, done: Row) -> list[str]:
    cells: list[str] = []
    for name, unit, form in (("seconds", 1, "{:.1f}"), ("bytes", 1e6, "{:.3f}")):
        ratio = f"{plan[name] / done[name]:.2f}" if done[name] else ""
        cells += [form.format(plan[name] / unit), form.format(done[name] / unit), ratio]
    return cells


def write_layer(folder: Path) -> None:
    """A checkpoint of one decoder layer."""
    from tests.luq.models.true_shapes import write

    write(folder, "llava_1_5_7b", 1)


def main() -> None:
    arguments: list[Any] = sys.argv[1:]
    if arguments[:1] in (["--planned"], ["--real"]):
        mode, answer, outputs, *words = arguments
        rows = planned(words) if mode == "--planned" else real(words, Path(outputs))
        Path(answer).write_text(json.dumps(rows), encoding="utf-8")
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["pocket"], choices=["pocket", "layer"])
    parser.add_argument("--scratch", type=Path, help="where the checkpoint of a layer is written")
    options = parser.parse_args()
    out = Console(highlight=False, width=110)
    if "pocket" in options.cases:
        compare("pocket_llava", POCKET, out)
    if "layer" in options.cases:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            model = Path(folder) / "layer"
            write_layer(model)
            words = [*LAYER, f"model.path={model}", "allocation.k=0,1"]
            compare("a layer of LLaVA-1.5-7B's shapes", words, out)


if __name__ == "__main__":
    main()
