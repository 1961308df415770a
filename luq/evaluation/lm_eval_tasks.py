"""Tasks of lm-eval, asked of the model in memory and scored by lm-eval. Imported late."""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM

from luq.errors import DataError
from luq.evaluation.answers import TaskResult
from luq.evaluation.lm import LoadedVLM, UnaskableError
from luq.evaluation.predictions import AnswerRow, Predictions, refuse_errors
from luq.evaluation.scorers.summary import Summary, standard_error
from luq.models.asking import PLACEHOLDER, plain_text
from luq.models.computing import answered_in
from luq.models.quiet import quiet
from luq.models.vlm import VLM
from luq.questions.lm_eval_tasks import FEWSHOT_SEED, OpenTask, is_share
from luq.questions.pictures import reason
from luq.questions.subsets import Subset, choose_of_parts
from luq.store.artefact import Progress

BOOTSTRAP = 1000  # resamples for standard errors that have no formula; means have one
Answer = Callable[[list[Instance]], list[AnswerRow]]
# What a likelihood is where the question could not be asked.
NO_LIKELIHOOD = (-math.inf, False)


class TaskLM(LoadedVLM):
    """The model as lm-eval's tasks ask it: pictures and texts, answers and likelihoods.

    Each batch is stored, as for the built-in benchmarks: batches are cut from all requests,
    longest first, whatever was answered before.
    """

    def __init__(self, vlm: VLM, batch_size: int, compute: str = "model"):
        with quiet():
            super().__init__(vlm, batch_size, compute)

    def begin_task(self, predictions: Predictions, strict: bool, progress: Progress) -> None:
        """Begin a task, before lm-eval is asked to evaluate.

        Args:
            predictions: what was answered before an interruption, and where answers are added.
            strict: the first request that cannot be asked is an error.
            progress: is told how many requests are done.
        """
        self.predictions = predictions
        self._strict = strict
        self._progress = progress
        self._asked = 0  # requests of the kinds that were asked before
        self.errors: dict[tuple[str, int], str] = {}  # (part, place) -> why

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The texts of all requests; lm-eval calls this."""
        rows = self._in_batches(requests, self._generate)
        return [row.get("text", "") for row in rows]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy) of all continuations; lm-eval calls this."""
        likelihoods: list[tuple[float, bool]] = []
        for row in self._in_batches(requests, self._measure):
            value, is_greedy = json.loads(row["text"]) if "text" in row else NO_LIKELIHOOD
            likelihoods.append((float(value), bool(is_greedy)))
        return likelihoods

    def _in_batches(self, requests: list[Instance], answer: Answer) -> list[AnswerRow]:
        """A row per request, whose `id` is its place among all requests of the task."""
        stored_rows = self.predictions.rows
        first = self._asked
        self._asked += len(requests)

        def longest_first(position: int) -> tuple[int, str, int]:
            context: str = requests[position].args[0]
            return -len(self.tok_encode(context)), context, position

        order = sorted(range(len(requests)), key=longest_first)
        name = requests[0].metadata[0] if requests else ""
        with self._progress.bar(str(name), len(order)) as advance:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                missing = [position for position in batch if first + position not in stored_rows]
                if missing:
                    rows = answer([requests[position] for position in missing])
                    for position, row in zip(missing, rows, strict=True):
                        row["id"] = first + position
                    self.predictions.append(rows)
                advance("", len(batch))
        answered = [stored_rows[first + position] for position in range(len(requests))]
        if self._strict:
            refuse_errors(str(name), answered)
        for request, row in zip(requests, answered, strict=True):
            if "error" in row:
                self.errors[str(request.metadata[0]), request.doc_id] = row["error"]
        return answered

    def _generate(self, batch: list[Instance]) -> list[AnswerRow]:
        """Rows of texts; of errors where the processor refuses, or the prompt is too long."""
        rows: list[AnswerRow] = [{"id": 0} for _ in batch]
        remaining = list(range(len(batch)))
        while remaining:
            try:
                texts = self.texts_of([batch[position] for position in remaining])
            except UnaskableError as error:
                for place, why in error.reasons.items():
                    rows[remaining[place]]["error"] = why
                remaining = [p for place, p in enumerate(remaining) if place not in error.reasons]
                continue
            for position, text in zip(remaining, texts, strict=True):
                rows[position]["text"] = text
            break
        return rows

    def _measure(self, batch: list[Instance]) -> list[AnswerRow]:
        """Rows whose text is a likelihood as JSON, which keeps every bit of it."""
        with answered_in(self._compute, self.vlm):
            likelihoods = HFMultimodalLM.loglikelihood(self, batch, disable_tqdm=True)
        return [{"id": 0, "text": json.dumps(likelihood)} for likelihood in likelihoods]

    def apply_chat_template(
        self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """As lm-eval's; what looks like a special token in a question is text, but for the places
        of images, which a task's own prompt says.
        """
        messages: list[dict[str, Any]] = []
        for message in chat_history:
            parts = str(message["content"]).split(PLACEHOLDER)
            plain = PLACEHOLDER.join(plain_text(self.processor, part) for part in parts)
            messages.append({**message, "content": plain})
        chat: str = HFMultimodalLM.apply_chat_template(self, messages, add_generation_prompt)
        return chat


class Scoring(NamedTuple):
    """What lm-eval says of a task: its numbers, and its samples by part."""

    numbers: dict[str, Any]  # METRIC,FILTER -> value, of the task or group itself
    samples: dict[str, list[dict[str, Any]]]


def run_task(lm: TaskLM, task: OpenTask, subset: Subset) -> tuple[TaskResult, dict[str, Any]]:
    """Ask a task and score the answers.

    Args:
        lm: after `begin_task`.
        task: what is asked.
        subset: which of its questions.

    Returns:
        The rows with lm-eval's score, and lm-eval's numbers of the task and all its parts.

    Raises:
        DataError: no question is in the subset, or a function of the task fails.
    """
    from lm_eval.evaluator import evaluate

    benchmark = task.table.benchmark
    sizes = task.sizes
    chosen = choose_of_parts(sizes, subset)
    if not chosen:
        raise DataError(
            f"no question of {benchmark} is in the split {subset.split}: it has "
            f"{sum(sizes.values())}. evaluation.split=all asks all of them"
        )
    parts = {name: task.parts[name] for name in chosen}
    for part in parts.values():
        part.set_fewshot_seed(FEWSHOT_SEED)  # the same examples for each model
    try:
        with quiet(), torch.no_grad():
            results = evaluate(
                lm,
                {**task.loaded, "tasks": parts},
                samples=chosen,
                bootstrap_iters=BOOTSTRAP,
                log_samples=True,
                apply_chat_template=task.is_chat,
                fewshot_as_multiturn=task.is_chat,
                system_instruction=(lm.vlm.config.system_prompt or None) if task.is_chat else None,
            )
    except (DataError, MemoryError, torch.OutOfMemoryError, OSError):
        raise
    except Exception as error:  # the user's functions raise any kind
        raise DataError(
            f"the benchmark {benchmark} stopped in lm-eval ({reason(error)}): look at its YAML "
            "and its functions"
        ) from error
    numbers = _plain_numbers(results["results"])
    errors: dict[tuple[str, int], str] = {}
    for (name, position), why in lm.errors.items():  # lm-eval counts the questions that it asks
        errors[name, chosen[name][position]] = why
    scoring = Scoring(numbers[benchmark], results["samples"])
    return _result(task, scoring, errors), numbers


def _plain_numbers(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """lm-eval's results with plain floats in place of numpy's; what is no number is left out."""
    numbers: dict[str, dict[str, Any]] = {}
    for name, values in results.items():
        numbers[name] = {}
        for metric, value in values.items():
            if "," in metric and value != "N/A":
                numbers[name][metric] = float(value)
    return numbers


def _result(task: OpenTask, scoring: Scoring, errors: dict[tuple[str, int], str]) -> TaskResult:
    metric, _, filter_name = task.table.metric.partition(",")
    first_ids: dict[str, int] = {}
    count = 0
    for part, size in task.sizes.items():
        first_ids[part] = count
        count += size
    rows: list[AnswerRow] = []
    names: list[str] = []
    values: list[float] = []
    parts_of_units: list[str] = []
    for part, samples in scoring.samples.items():
        for sample in samples:
            # A part of a group may lack the metric, and has each sample once per filter.
            if sample["filter"] != filter_name or not is_share(sample.get(metric)):
                continue
            question = int(sample["doc_id"])
            row: AnswerRow = {"id": first_ids[part] + question}
            if (part, question) in errors:
                row["error"] = errors[part, question]
            else:
                row["text"] = _said(sample)
            rows.append(row)
            names.append(f"{part}/{question}")
            values.append(float(sample[metric]))
            parts_of_units.append(part)
    return TaskResult(rows, _summary(task, scoring.numbers, values, parts_of_units), names)


def _said(sample: dict[str, Any]) -> str:
    """What the model wrote, or the continuation that it finds likeliest."""
    responses = [repeats[0] for repeats in sample["resps"]]
    if isinstance(responses[0], str):
        return responses[0]
    likelihoods = [float(response[0]) for response in responses]
    likeliest = likelihoods.index(max(likelihoods))
    return str(sample["arguments"][likeliest][1])


def _summary(
    task: OpenTask, numbers: dict[str, Any], values: list[float], parts: list[str]
) -> Summary:
    """lm-eval's score and standard error in percent, and its other numbers as they are."""
    metric, _, filter_name = task.table.metric.partition(",")
    score = numbers[task.table.metric]
    error = numbers.get(f"{metric}_stderr,{filter_name}", standard_error(values))
    metrics: dict[str, float] = {}
    for name, value in numbers.items():
        metric_name, _, filter_of_answers = name.partition(",")
        if filter_of_answers != "none":
            metric_name = f"{metric_name} ({filter_of_answers})"
        metrics[metric_name] = value
    weights = _weights(score, values, parts)
    return Summary(100 * score, 100 * error, len(values), metrics, values, weights)


def _weights(score: float, values: list[float], parts: list[str]) -> list[float]:
    """Shares of the units in the score: all alike, or all parts of a group alike."""
    equal_weights = [1 / len(values)] * len(values)
    sizes = {part: parts.count(part) for part in parts}
    by_part = [1 / len(sizes) / sizes[part] for part in parts]
    mean_by_part = sum(w * v for w, v in zip(by_part, values, strict=True))
    # lm-eval says the score, not its weights: those that come nearer to it
    mean_of_all = sum(values) / len(values)
    is_by_part = abs(mean_by_part - score) < abs(mean_of_all - score)
    return by_part if is_by_part else equal_weights
