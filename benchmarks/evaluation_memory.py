"""Does the memory of an evaluation grow with the dataset? `python benchmarks/evaluation_memory.py [counts ...]`

Each count is a process of its own: a DocVQA parquet file of that many pages (1300 x 1700 pixels, noise in stripes, about
150 kB each as PNG), of which pocket_llava answers all questions through the evaluation's own path. Prints the file's size,
the peak resident memory of the process and what the questions added to it.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

out = Console(highlight=False, width=120)


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
        [("questionId", pa.string()), ("question", pa.string()), ("answers", pa.list_(pa.string())), ("image", image)]
    )


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measure(folder: Path, count: int, answer: multiprocessing.Queue) -> None:
    from luq.config import EvaluationConfig, ModelConfig
    from luq.evaluation import data, harness, subsets
    from luq.evaluation.predictions import Predictions
    from luq.models.vlm import load_vlm

    config = EvaluationConfig("memory", ["docvqa"], data=str(folder), split="all")
    lm = harness.make_lm(load_vlm(ModelConfig("pocket_llava", "pocket:pocket_llava", device="cpu")), 32)
    warm = data.load("docvqa", config, folder / "cache")  # writes the memory-mapped table
    harness.ask(lm, warm, subsets.choose(warm, config)[:64], Predictions(folder / "warm.jsonl"))
    before, begun = peak(), time.perf_counter()
    harness.ask(lm, warm, subsets.choose(warm, config), Predictions(folder / "kept.jsonl"))
    answer.put((before, peak(), time.perf_counter() - begun))


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    for count in [int(a) for a in sys.argv[1:]] or [100, 1000, 5000]:
        with tempfile.TemporaryDirectory() as scratch:
            folder, answer = Path(scratch), spawn.Queue()
            write(folder / "docvqa.parquet", count)
            size = (folder / "docvqa.parquet").stat().st_size / 1e6
            process = spawn.Process(target=measure, args=(folder, count, answer))
            process.start()
            before, after, seconds = answer.get()
            process.join()
            out.print(
                f"{count:>5} pages, {size:6.0f} MB of parquet: peak {after:.0f} MB resident, {after - before:+.0f} MB over the "
                f"peak after 64 questions; {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
