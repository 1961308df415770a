"""lm-eval on the model in memory: the packed weights that were stored are the ones that answer."""

import contextlib
import gc
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luq import registry
from luq.allocation.plans import Allocation
from luq.config import EvaluationConfig
from luq.errors import DataError, ModelError
from luq.evaluation.prompts import Doc
from luq.evaluation.scorers.summary import Summary
from luq.models.vlm import LINEARS, VLM
from luq.quantization.linear import installed_tiers

log = logging.getLogger(__name__)
TASKS = Path(__file__).parent / "tasks"
UNITS = {"mme": lambda d: d["question_id"], "mmbench": lambda d: int(d["index"]) % 1_000_000}


def assert_installed(vlm: VLM, allocation: Allocation) -> None:
    """A ModelError unless every layer's linears really are in the tier that the allocation says."""
    for index, tier in enumerate(allocation.tiers):
        found = installed_tiers(vlm.layers[index], LINEARS)
        if found != {tier}:
            raise ModelError(f"layer {index} should be in tier {tier}, but its linears are in {found}")


def make_lm(vlm: VLM, batch_size: int) -> Any:
    """An lm-eval model around the loaded VLM and its processor."""
    from lm_eval.models.hf_vlms import HFMultimodalLM

    class LoadedVLM(HFMultimodalLM):
        def _create_tokenizer(self, *args: Any, **kwargs: Any) -> None:
            self.processor, self.tokenizer = vlm.processor, vlm.processor.tokenizer

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return super().generate_until(requests, disable_tqdm=True)  # the pipeline has its own bar

    with _quiet():
        return LoadedVLM(pretrained=vlm.model, batch_size=batch_size, max_length=2048, convert_img_format=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval collects garbage after every batch and logs a lot: freeze what lives, and let only warnings out."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def choose(docs: list[Doc], benchmark: str, config: EvaluationConfig) -> list[int] | None:
    """Row ids of `samples` units (whole MME pairs and MMBench rotations), stratified by category; None: all."""
    if config.samples is None:
        return None
    unit_of = UNITS.get(benchmark, id)
    units: dict[Any, list[int]] = {}
    for i, doc in enumerate(docs):
        units.setdefault(unit_of(doc) if benchmark in UNITS else i, []).append(i)
    strata: dict[str, list[list[int]]] = {}
    rng = np.random.default_rng([config.seed, 19])
    keys = list(units)
    for j in rng.permutation(len(keys)):
        rows = units[keys[int(j)]]
        strata.setdefault(str(docs[rows[0]].get("category", "")), []).append(rows)
    chosen: list[list[int]] = []
    while len(chosen) < min(config.samples, len(units)):
        for name in sorted(strata):
            if strata[name] and len(chosen) < config.samples:
                chosen.append(strata[name].pop())
    return sorted(i for rows in chosen for i in rows)


def data_file(folder: Path, benchmark: str) -> Path:
    file = folder / f"{benchmark}.parquet"
    if not file.exists():
        raise DataError(f"{file} is missing: evaluation.data must be a folder with one parquet file per benchmark")
    return file


def _local_task(folder: Path, benchmark: str, data: Path, cache: Path) -> Path:
    """A task YAML that is the benchmark's own, pointed at a local parquet file."""
    files = {"data_files": {"test": str(data.resolve())}, "cache_dir": str(cache)}
    local = {"include": str(TASKS / f"{benchmark}.yaml"), "dataset_path": "parquet", "dataset_name": None}
    path = folder / f"{benchmark}.yaml"
    path.write_text(json.dumps(local | {"dataset_kwargs": files, "test_split": "test"}))  # JSON is YAML
    return path


def ask(vlm: VLM, benchmark: str, data: Path, cache: Path, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Ask one benchmark's questions; rows of {id, doc (no image), text, values}, in the data's order."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    registry.check("benchmark", benchmark)
    task = f"luq_{benchmark}"
    with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        local = _local_task(Path(folder), benchmark, data_file(data, benchmark), cache)
        tasks = TaskManager(include_path=str(TASKS), include_defaults=False).load([str(local)])
        docs = list(tasks["tasks"][task].test_docs())
        ids = choose(docs, benchmark, config)
        results = evaluate(
            make_lm(vlm, config.batch_size),
            tasks,
            samples=None if ids is None else {task: ids},
            bootstrap_iters=0,
            apply_chat_template=True,
            system_instruction=vlm.config.system_prompt or None,
            verbosity="ERROR",
        )
    assert results is not None
    rows = sorted(results["samples"][task], key=lambda s: s["doc_id"])
    scorer = {"textvqa": "textvqa", "vqav2": "vqav2"}.get(benchmark, "process")
    process = getattr(registry.load("benchmark", benchmark), scorer)
    asked = []
    for row in rows:
        text, doc = row["resps"][0][0], docs[row["doc_id"]]
        plain = {k: v for k, v in doc.items() if k not in ("image", "decoded_image")}
        asked.append({"id": row["doc_id"], "doc": plain, "text": text, "values": process(doc, [text])})
    return asked


def summarise(benchmark: str, rows: list[dict[str, Any]]) -> Summary:
    """The benchmark's official metrics and its score in percent, from the rows of `ask`."""
    summary: Summary = registry.load("benchmark", benchmark).summarise([(r["doc"], r["values"]) for r in rows])
    return summary


def collapsed(rows: list[dict[str, Any]]) -> bool:
    """One answer makes up more than 95 % of them all, or most answers are empty: no model any more."""
    texts = [r["text"].strip().lower() for r in rows]
    most = max(texts.count(t) for t in set(texts))
    return len(texts) >= 20 and (most > 0.95 * len(texts) or sum(not t for t in texts) > 0.5 * len(texts))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
