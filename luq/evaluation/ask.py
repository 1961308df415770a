"""lm-eval on the model in memory: the packed weights that were stored are the ones that answer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from luq.errors import DataError
from luq.evaluation.lm import LoadedVLM, StoredAnswers
from luq.evaluation.predictions import AnswerRow, Predictions, refuse_errors
from luq.models.quiet import quiet
from luq.models.vlm import VLM
from luq.questions.pictures import reason
from luq.questions.prompts import MISSING, PROMPTS, TARGETS, Doc, options, text_of
from luq.questions.specs import task_config
from luq.questions.tables import Questions

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

UNLABELLED = "the row has no answer: it is unlabelled"
_ROW = "luq_row"  # the column of row ids that is added for lm-eval


def make_lm(vlm: VLM, batch_size: int, compute: str = "model") -> "LoadedVLM":
    """An lm-eval model around the loaded VLM and its processor; `compute` as of the settings."""
    with quiet():
        return LoadedVLM(vlm, batch_size, compute)


def problem(benchmark: str, doc: Doc) -> str:
    """What keeps a row from being asked and scored; empty if nothing does."""
    if _is_missing(doc.get("question")):
        return "the question is empty"
    answers = doc["answers"] if "answers" in doc else [doc.get("answer")]
    if not answers or all(_is_missing(_text_of(answer)) for answer in answers):
        return UNLABELLED
    try:
        PROMPTS[benchmark](doc)
        target = TARGETS[benchmark](doc)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return f"no question with its answer can be read ({reason(error)})"
    if _is_missing(target):
        return UNLABELLED
    allowed = _allowed_answers(benchmark, doc)
    if allowed and target.strip().lower() not in [answer.lower() for answer in allowed]:
        return f"the answer {target.strip()} is none of {', '.join(allowed)}"
    return ""


def _is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, a number that is none, blank, or the text that pandas makes
    of these.
    """
    return text_of(value).strip().lower() in ("", MISSING)


def _text_of(answer: Any) -> Any:
    """VQAv2's answers are records."""
    return answer.get("answer") if isinstance(answer, dict) else answer


def _allowed_answers(benchmark: str, doc: Doc) -> list[str]:
    """What the reference answer must be one of; empty for anything."""
    if benchmark in ("mme", "pope"):
        return ["Yes", "No"]
    if benchmark == "mmbench":
        return list(options(doc))
    return []


class Checked(NamedTuple):
    """Rows by whether they can be asked."""

    good: list[int]  # ids
    bad: list[AnswerRow]  # {id, error}


def check(questions: Questions, ids: list[int], strict: bool) -> Checked:
    """The rows that can be asked and those that cannot.

    Raises:
        DataError: a row cannot be asked, and `strict` is set.
    """
    good: list[int] = []
    bad: list[AnswerRow] = []
    for id_, doc in zip(ids, questions.docs.select(ids), strict=True):
        reason = problem(questions.benchmark, doc)
        if not reason:
            good.append(id_)
        elif strict:
            raise DataError(f"{questions.benchmark} row {id_}: {reason}")
        else:
            bad.append({"id": id_, "error": reason})
    return Checked(good, bad)


def _task(questions: Questions, ids: list[int]) -> "ConfigurableTask":
    """The benchmark's own lm-eval task, over these rows and their images on disk."""
    from lm_eval.api.task import ConfigurableTask

    docs = questions.docs.select(ids).add_column(_ROW, ids)
    config = task_config(questions.benchmark, questions.protocol)
    # The rows are here: lm-eval downloads nothing.
    config["custom_dataset"] = lambda **kwargs: {"test": docs}
    config["test_split"] = "test"
    # The task's own functions expect an image column. Ours opens images one by one, when they are
    # asked.
    config["process_docs"] = None
    config["doc_to_image"] = lambda doc: [questions.image(doc[_ROW])]
    return ConfigurableTask(config=config)


def ask(
    lm: "StoredAnswers",
    questions: Questions,
    ids: list[int],
    predictions: Predictions,
    strict: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> list[AnswerRow]:
    """Ask a model questions through lm-eval.

    Args:
        lm: from `make_lm`.
        questions: of one benchmark.
        ids: rows that are asked.
        predictions: where answers are added batch by batch; those in it are not asked again.
        strict: the first row that cannot be asked is a DataError, instead of a row {id, error}.
        advance: is told how many more questions are done.

    Returns:
        Rows {id, text} or {id, error}, in the order of `ids`.
    """
    from lm_eval.evaluator import evaluate

    good, bad = check(questions, ids, strict)
    if strict:
        stored_rows = [predictions.rows[id_] for id_ in ids if id_ in predictions.rows]
        refuse_errors(questions.benchmark, stored_rows)
    if bad:
        predictions.append([row for row in bad if row["id"] not in predictions.rows])
        advance(len(bad))
    if any(id_ not in predictions.rows for id_ in good):
        # All good rows go to lm-eval, the answered ones too: batches are cut from all of them, so
        # that a question has the same company after an interruption.
        lm.begin(predictions, good, strict, advance)
        with quiet(), torch.no_grad():
            evaluate(
                lm,
                {f"luq_{questions.benchmark}": _task(questions, good)},
                bootstrap_iters=0,  # intervals are our own, by unit
                log_samples=False,
                apply_chat_template=True,
                system_instruction=lm.system_prompt or None,
            )
    return [predictions.rows[id_] for id_ in ids]


def with_docs(questions: Questions, rows: list[AnswerRow]) -> list[AnswerRow]:
    """The rows with the columns that their scores need: they are scored again without a dataset."""
    docs = questions.docs.select([row["id"] for row in rows])
    return [row | {"doc": doc} for row, doc in zip(rows, docs, strict=True)]
