"""Does the memory of an evaluation grow with the dataset?

`python benchmarks/evaluation_memory.py [counts ...]`

Each count is a process of its own: a DocVQA parquet file of that many pages (1300 x 1700 pixels,
noise in stripes, about 150 kB each as PNG), of which pocket_llava answers all questions through the
evaluation's own path. Prints the file's size, and the peaks of two kinds of memory, sampled every
20 ms: what the process itself holds (anonymous pages), and the pages of mapped files, which the
kernel drops when it needs the room, so that they count as resident and bind nothing.
"""

import multiprocessing
import sys
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

if TYPE_CHECKING:
    from luq.questions.tables import Questions

out = Console(highlight=False, width=160)


def page(seed: int) -> bytes:
    """A page that does not compress to nothing."""
    pixels = np.full((1700, 1300), 255, np.uint8)
    pixels[::8] = np.random.default_rng(seed).integers(0, 255, (213, 1300), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write(file: Path, count: int) -> None:
    """A parquet file in small row groups; only 50 different pages are drawn."""
    pages = [page(i) for i in range(50)]
    with pq.ParquetWriter(file, schema()) as writer:
        for start in range(0, count, 100):
            rows = [
                {
                    "questionId": str(i),
                    "question": "What is the total?",
                    "answers": ["1"],
                    "image": {"bytes": pages[i % 50], "path": None},
                }
                for i in range(start, min(count, start + 100))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema()))


def schema() -> pa.Schema:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [
            ("questionId", pa.string()),
            ("question", pa.string()),
            ("answers", pa.list_(pa.string())),
            ("image", image),
        ]
    )


class Peak(threading.Thread):
    """The peaks of this process's memory in MB, by kind, since the thread started."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = 0.0
        self.mapped = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            lines = (
                line.split()
                for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            )
            kinds = {
                words[0]: int(words[1]) / 1000
                for words in lines
                if words[0] in ("RssAnon:", "RssFile:")
            }
            self.own = max(self.own, kinds["RssAnon:"])
            self.mapped = max(self.mapped, kinds["RssFile:"])

    def stop(self) -> tuple[float, float]:
        self.done.set()
        self.join()
        return self.own, self.mapped


def prepare(folder: Path) -> None:
    """Write the memory-mapped table, in a process of its own.

    Converting parquet takes memory that no evaluation needs.
    """
    opened(folder)


def opened(folder: Path) -> "Questions":
    """The questions, from a table that is written if it is not there yet."""
    from luq.config import EvaluationConfig
    from luq.questions.sources import evaluation_table
    from luq.store.store import Store

    config = EvaluationConfig("memory", ["docvqa"], data=str(folder), split="all")
    tools = Store(folder / "store").tools
    return evaluation_table("docvqa", config, folder / "cache").open(tools)


def measure(folder: Path, answer: multiprocessing.Queue) -> None:
    from luq.config import ModelConfig
    from luq.evaluation.ask import ask, make_lm
    from luq.evaluation.predictions import Predictions
    from luq.models.vlm import load_vlm
    from luq.questions.subsets import Subset, choose

    vlm = load_vlm(ModelConfig("pocket_llava", "pocket:pocket_llava", device="cpu"))
    lm = make_lm(vlm, 32)
    questions = opened(folder)
    peak = Peak()
    peak.start()
    first_ids = choose(questions, Subset("all"))[:64]
    ask(lm, questions, first_ids, Predictions(folder / "warm.jsonl"))
    peak_of_few = peak.stop()
    peak = Peak()
    begun = time.perf_counter()
    peak.start()
    ask(lm, questions, choose(questions, Subset("all")), Predictions(folder / "kept.jsonl"))
    answer.put((peak_of_few, peak.stop(), time.perf_counter() - begun))


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    for count in [int(a) for a in sys.argv[1:]] or [100, 1000, 5000]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            answer = spawn.Queue()
            write(folder / "docvqa.parquet", count)
            size = (folder / "docvqa.parquet").stat().st_size / 1e6
            first = spawn.Process(target=prepare, args=(folder,))
            first.start()
            first.join()
            process = spawn.Process(target=measure, args=(folder, answer))
            process.start()
            peak_of_few, peak_of_all, seconds = answer.get()
            process.join()
            out.print(
                f"{count:>5} pages, {size:6.0f} MB of parquet: own memory {peak_of_all[0]:.0f} MB "
                f"({peak_of_all[0] - peak_of_few[0]:+.0f} MB over the first 64 questions), "
                f"mapped files {peak_of_all[1]:.0f} MB "
                f"({peak_of_all[1] - peak_of_few[1]:+.0f}); {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
