"""lm-eval on the model in memory: the packed weights that were stored are the ones that answer."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from luq.allocation.plans import Allocation
from luq.errors import DataError, ModelError
from luq.evaluation.predictions import Predictions, Row
from luq.formats.layer_file import read_layer
from luq.formats.linear import installed_tiers
from luq.models.families import LINEARS
from luq.models.vlm import VLM
from luq.questions.prompts import PROMPTS, TARGETS, Doc
from luq.questions.sources import Questions, task_config

log = logging.getLogger(__name__)


def assert_installed(vlm: VLM, allocation: Allocation, folders: list[Path]) -> None:
    """A ModelError unless the linears of every layer are in the tier that the allocation says, bit for bit as stored."""
    for index, (tier, folder) in enumerate(zip(allocation.tiers, folders, strict=True)):
        found = installed_tiers(vlm.layers[index], LINEARS)
        if found != {tier}:
            raise ModelError(
                f"layer {index} should be in tier {tier}, but its linears are in {found}"
            )
        for name, weight in read_layer(folder).items():
            buffers = dict(vlm.layers[index].get_submodule(name).named_buffers(recurse=False))
            for buffer, stored in weight.buffers.items():
                if not torch.equal(buffers[buffer].cpu(), stored):
                    raise ModelError(
                        f"{buffer} of layer {index} {name} in memory is not what {folder} holds: start again"
                    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries log a lot while they are asked: let only errors out."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def make_lm(vlm: VLM, batch_size: int) -> Any:
    """An lm-eval model around the loaded VLM and its processor."""
    from luq.evaluation.lm import LoadedVLM

    with quiet():
        return LoadedVLM(vlm, batch_size)


def problem(benchmark: str, doc: Doc) -> str:
    """What keeps a row from being asked and scored; empty if nothing does."""
    try:
        if not PROMPTS[benchmark](doc).strip():
            return "the question is empty"
        if not TARGETS[benchmark](doc).strip():
            return "the answer is empty"
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return f"no reference answer can be read ({type(error).__name__}: {error})"
    return ""


def sound(questions: Questions, ids: list[int], strict: bool) -> tuple[list[int], list[Row]]:
    """The ids that can be asked, and rows {id, error} for the others; strict: a DataError for the first of them."""
    good, bad = [], []
    for id_, doc in zip(ids, questions.docs.select(ids), strict=True):
        wrong = problem(questions.benchmark, doc)
        if wrong and strict:
            raise DataError(f"{questions.benchmark} row {id_}: {wrong}")
        if wrong:
            bad.append({"id": id_, "error": wrong})
        else:
            good.append(id_)
    return good, bad


def _task(questions: Questions, ids: list[int]) -> Any:
    """The benchmark's own lm-eval task, over these rows and their images on disk."""
    from lm_eval.api.task import ConfigurableTask

    asked = questions.docs.select(ids).add_column("luq_row", ids)
    return ConfigurableTask(
        config={
            **task_config(questions.benchmark),
            "custom_dataset": lambda **kwargs: {"test": asked},
            "test_split": "test",
            "process_docs": None,
            "doc_to_image": lambda doc: [questions.image(doc["luq_row"])],
        }
    )


def ask(
    lm: Any,
    questions: Questions,
    ids: list[int],
    kept: Predictions,
    strict: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Row]:
    """Ask the model of `make_lm` these questions through lm-eval; rows {id, text} or {id, error}, in the data's order.

    Answers are added to `kept` batch by batch, and those that it has are not asked again. `advance` takes how many more
    questions are done.
    """
    from lm_eval.evaluator import evaluate

    good, bad = sound(questions, ids, strict)
    if bad:
        kept.append([row for row in bad if row["id"] not in kept.rows])
        advance(len(bad))
    if any(id_ not in kept.rows for id_ in good):
        lm.keep(kept, good, strict, advance)
        with quiet(), torch.no_grad():
            evaluate(
                lm,
                {f"luq_{questions.benchmark}": _task(questions, good)},
                bootstrap_iters=0,
                log_samples=False,
                apply_chat_template=True,
                system_instruction=lm.vlm.config.system_prompt or None,
            )
    return [kept.rows[id_] for id_ in ids]


def with_docs(questions: Questions, rows: list[Row]) -> list[Row]:
    """The rows with the columns that their scores need, so that they can be scored again without the dataset."""
    docs = questions.docs.select([row["id"] for row in rows])
    return [row | {"doc": doc} for row, doc in zip(rows, docs, strict=True)]
