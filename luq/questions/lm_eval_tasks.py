"""Benchmarks beside the built-in ones: what lm-eval knows by name, and tasks of a user's own.

A user's task is a YAML of lm-eval's in a folder (`evaluation.include_path`). Opening one runs the
Python that its YAML names (`!function`): the folder is the user's own, as a script would be.
"""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from luq.config import EvaluationConfig
from luq.config.checks import VOLATILE
from luq.config.evaluation import BENCHMARKS
from luq.errors import ConfigError, DataError, unknown
from luq.models.quiet import quiet
from luq.questions.pictures import reason
from luq.questions.tables import change_error
from luq.store.digests import file_digest
from luq.store.keys import Identified, digest

FEWSHOT_SEED = 1234  # lm-eval's own, of the examples before a question
BATCH_ROWS = 256  # that are read at once
# What a task's config says of places: its data stand in keys by what was read.
PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, eq=False, repr=False)
class TaskTable(Identified):
    """A task of lm-eval's as it stands in keys: by what it says and by its rows."""

    benchmark: str
    content: str  # digest of the rows
    task: str  # digest of its config, and of the Python beside it
    metric: str  # the score: METRIC,FILTER
    lm_eval: str  # the version that asks and scores
    include_path: str | None = field(default=None, metadata=VOLATILE)

    def opened(self) -> "OpenTask":
        """The task with its rows.

        Raises:
            DataError: it is another one than stands in keys, or cannot be opened.
        """
        opened = _opened(self.benchmark, self.include_path, _state(self.include_path))
        if (opened.content, opened.task) != (self.content, self.task):
            raise change_error(self.benchmark, self.include_path or "lm-eval")
        return OpenTask(self, opened.loaded)


@dataclass(frozen=True)
class OpenTask:
    """A task, or a group of tasks, that lm-eval has loaded."""

    table: TaskTable
    loaded: Any  # lm-eval's TaskDict

    @property
    def parts(self) -> dict[str, Any]:
        """The tasks that it is made of, by name; one task is its own only part."""
        parts: dict[str, Any] = self.loaded["tasks"]
        return parts

    @property
    def sizes(self) -> dict[str, int]:
        """How many questions each part has."""
        return {name: len(part.eval_docs) for name, part in self.parts.items()}

    @property
    def is_chat(self) -> bool:
        """Whether its questions are put as chats: where the model writes an answer.

        Likelihoods are of plain text, which is how lm-eval's published numbers are made.
        """
        return any(part.OUTPUT_TYPE == "generate_until" for part in self.parts.values())


def is_built_in(benchmark: str) -> bool:
    """Whether a benchmark is one of the project's own, with a task and a scorer here."""
    return benchmark in BENCHMARKS


def task_table(benchmark: str, config: EvaluationConfig, download: bool = True) -> TaskTable:
    """What an evaluation asks of a task that is no built-in benchmark.

    Args:
        benchmark: the task's name.
        config: where tasks of the user's own are, and which metric is the score.
        download: whether data may be fetched from the hub.

    Raises:
        ConfigError: nobody knows the task, or it has no metric of that name.
        DataError: its data or functions cannot be read, or it cannot be asked.
    """
    folder = config.include_path
    with nullcontext() if download else _offline():
        opened = _opened(benchmark, folder, _state(folder))
    metric = _metric(benchmark, opened.shares, config.metrics.get(benchmark))
    version = importlib.metadata.version("lm_eval")
    return TaskTable(benchmark, opened.content, opened.task, metric, version, folder)


def check_include_path(folder: str | None) -> None:
    """A ConfigError unless the folder of a user's tasks is there and hides no built-in name."""
    if folder is None:
        return
    if not Path(folder).expanduser().is_dir():
        raise ConfigError(
            f"evaluation.include_path={folder}: there is no such folder. It holds tasks of your "
            "own as lm-eval's YAML"
        )
    hidden = set(_manager(folder, False, _state(folder)).all_tasks).intersection(BENCHMARKS)
    if hidden:
        raise ConfigError(
            f"evaluation.include_path={folder} has a task {min(hidden)}, which is the name of a "
            "built-in benchmark: give it another name"
        )


def _state(folder: str | None) -> str:
    """What changes when a file of the folder is written, so that it is opened again."""
    states: list[list[Any]] = []
    for file in sorted(Path(folder).expanduser().rglob("*")) if folder is not None else []:
        if file.is_file():
            status = file.stat()
            states.append([str(file), status.st_size, status.st_mtime_ns, status.st_ino])
    return digest("state", states)


@lru_cache(maxsize=4)
def _manager(folder: str | None, with_lm_evals: bool, state: str) -> Any:
    """lm-eval's index of tasks: of the folder alone in milliseconds, with its own in seconds."""
    from lm_eval.tasks import TaskManager

    path = None if folder is None else str(Path(folder).expanduser())
    with quiet():
        return TaskManager(include_path=path, include_defaults=with_lm_evals)


class _Opened(NamedTuple):
    """A task that was loaded, what tells it from others, and what it can be scored by."""

    loaded: Any  # lm-eval's TaskDict
    content: str
    task: str
    shares: list[str]  # METRIC,FILTER


@lru_cache(maxsize=32)  # the runs of a sweep ask the same
def _opened(benchmark: str, folder: str | None, state: str) -> _Opened:
    manager = _manager(folder, False, state) if folder is not None else None
    if manager is None or benchmark not in manager.all_tasks:
        manager = _manager(folder, True, state)
    if benchmark not in manager.all_tasks:
        raise unknown("benchmark", benchmark, [*BENCHMARKS, *manager.all_tasks])
    loaded = _loaded(manager, benchmark)
    for part in loaded["tasks"].values():
        _check_askable(benchmark, part)
    content = _content(benchmark, loaded["tasks"])
    return _Opened(loaded, content, _description(manager, loaded), _shares(benchmark, loaded))


def _loaded(manager: Any, benchmark: str) -> Any:
    """lm-eval's tasks of a name, with their data.

    Raises:
        DataError: a YAML, its functions or its data cannot be read.
    """
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar

    disable_progress_bar()
    try:
        with quiet():
            return manager.load(benchmark)
    except Exception as error:  # YAML, the user's functions, `datasets` and the hub raise any kind
        raise DataError(
            f"the benchmark {benchmark} cannot be opened by lm-eval ({reason(error)}): look at "
            "its YAML, the functions and the data that it names, and the connection to the hub"
        ) from error
    finally:
        enable_progress_bar()


@contextmanager
def _offline() -> Iterator[None]:
    """The hub is not asked: `datasets` reads what it has."""
    from datasets import config as datasets_config
    from huggingface_hub import constants

    settings_before = datasets_config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets_config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets_config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = settings_before


def _check_askable(benchmark: str, part: Any) -> None:
    """A DataError if a task cannot be asked here, before any work."""
    problem = ""
    generation = part.config.generation_kwargs or {}
    if getattr(part, "UNSAFE_CODE", False):
        problem = "it runs code that a model writes (unsafe_code): that is not done here"
    elif part.config.doc_to_audio:
        problem = "it asks about sounds, which no model here hears"
    elif part.config.doc_to_image and part.OUTPUT_TYPE != "generate_until":
        problem = "of pictures lm-eval asks no likelihoods: set output_type: generate_until"
    elif part.OUTPUT_TYPE == "generate_until" and generation.get("do_sample"):
        problem = "its generation_kwargs say do_sample: answers must be repeatable, leave it out"
    elif len(part.eval_docs) == 0:
        problem = "it has no question"
    if problem:
        raise DataError(f"the benchmark {benchmark} cannot be asked: {part.task_name}: {problem}")


# What stands in keys


def _content(benchmark: str, parts: dict[str, Any]) -> str:
    """Digest of all rows that are asked or shown before a question."""
    digests: list[Any] = []
    for name, part in parts.items():
        for split in _splits(part):
            try:
                digests.append([name, split, _rows_digest(part.dataset[split])])
            except (KeyError, OSError, ValueError) as error:
                raise DataError(
                    f"the rows of {benchmark} cannot be read: {name}, split {split} "
                    f"({reason(error)})"
                ) from error
    return digest("rows", digests)


def _splits(part: Any) -> list[str]:
    """The splits of its dataset that a task reads."""
    config = part.config
    splits = [config.test_split or config.validation_split]
    if config.num_fewshot:
        shots_split = part.fewshot_cfg.split or config.training_split or config.validation_split
        splits.append(shots_split)
    return [split for split in dict.fromkeys(splits) if split is not None]


def _rows_digest(rows: Any) -> str:
    """Digest of a split's rows, with the encoded bytes of their pictures."""
    running = hashlib.sha256()
    for row in _plain_rows(rows):
        line = json.dumps(_without_places(row), sort_keys=True, default=str)
        running.update(line.encode() + b"\n")
    return running.hexdigest()


def _plain_rows(rows: Any) -> Iterator[Any]:
    """Rows as Python values, pictures undecoded."""
    if not hasattr(rows, "with_format"):
        yield from rows  # a task's own function made a list of them
        return
    for table in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from table.to_pylist()


def _without_places(value: Any) -> Any:
    """A value with digests for bytes, and without where a picture's file once was."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"bytes", "path"}:
        if value["bytes"] is None and value["path"] is not None:
            return file_digest(Path(value["path"]))[1]
        return _without_places(value["bytes"])
    return {name: _without_places(item) for name, item in value.items()}


def _description(manager: Any, loaded: Any) -> str:
    """Digest of what the YAMLs say, of the functions that they name and the Python beside them."""
    configs: dict[str, Any] = {}
    folders: set[Path] = set()
    for name in [*loaded["tasks"], *loaded.get("groups", {})]:
        entry = manager.task_index.get(name)
        if entry is not None and entry.yaml_path is not None:
            folders.add(entry.yaml_path.parent)
    for name, part in loaded["tasks"].items():
        config = part.dump_config()
        for place in PLACES:
            config.pop(place, None)
        config["metadata"] = dict(config.get("metadata") or {})
        config["metadata"].pop("config_source", None)
        configs[name] = config
    for name, group in loaded.get("groups", {}).items():
        about = dict(group.to_dict() or {})
        about["metadata"] = dict(about.get("metadata") or {})
        about["metadata"].pop("config_source", None)
        configs[name] = about
    yaml_content = _ADDRESS.sub("", json.dumps(configs, sort_keys=True, default=str))
    sources = [
        [file.name, *file_digest(file)]
        for folder in sorted(folders)
        for file in sorted(folder.glob("*.py"))
    ]
    return digest("lm_eval_task", yaml_content, sources)


# The score


def _metric(benchmark: str, shares: list[str], metric: str | None) -> str:
    """METRIC,FILTER of the score: that of a metric, else the first that is a share of the maximum.

    Args:
        benchmark: whose score it is.
        shares: METRIC,FILTER of every score that is a share of the maximum.
        metric: METRIC or METRIC,FILTER, as the setting names it.

    Raises:
        ConfigError: the metric is not there.
        DataError: there is none.
    """
    if not shares:
        raise DataError(
            f"the benchmark {benchmark} has no score: it needs a metric of which each question has "
            "a value in [0, 1], higher is better (metric_list; of a group aggregate_metric_list)"
        )
    if metric is None:
        return shares[0]
    for share in shares:
        if metric in (share, share.partition(",")[0]):
            return share
    raise unknown(f"metric in evaluation.metrics.{benchmark}", metric, shares)


def _shares(benchmark: str, loaded: Any) -> list[str]:
    """METRIC,FILTER of all that a task or a group can be scored by.

    Raises:
        DataError: it is a tag, or the functions of a task fail on its first row.
    """
    shares: list[str] = []
    for part in loaded["tasks"].values():
        shares += [share for share in _shares_of_part(benchmark, part) if share not in shares]
    group = loaded.get("groups", {}).get(benchmark)
    if group is not None:
        aggregated = [entry.metric for entry in group.aggregate_metric_list or []]
        return [share for share in shares if share.partition(",")[0] in aggregated]
    if list(loaded["tasks"]) != [benchmark]:
        names = ", ".join(list(loaded["tasks"])[:10])
        raise DataError(
            f"the benchmark {benchmark} is a tag of tasks that have no score together: name them "
            f"({names})"
        )
    return shares


def _shares_of_part(benchmark: str, part: Any) -> list[str]:
    """A task's metrics that are shares of the maximum, by a wrong answer to its first question."""
    try:
        doc = part.eval_docs[0]
        part.doc_to_text(doc)
        part.doc_to_image(doc)
        values = part.process_results(doc, _wrong_answer(part, doc))
    except Exception as error:  # the user's functions raise any kind
        raise DataError(
            f"the benchmark {benchmark} cannot be asked: the functions or templates of "
            f"{part.task_name} fail on its first row ({reason(error)})"
        ) from error
    if not isinstance(values, dict):
        raise DataError(
            f"the benchmark {benchmark} cannot be scored: process_results of {part.task_name} "
            f"gives {type(values).__name__}, it must be a dict of metrics"
        )
    shares: list[str] = []
    higher_is_better = part.higher_is_better()
    for name, value in values.items():
        if is_share(value) and higher_is_better.get(name) is not False:
            shares += [f"{name},{ensemble.name}" for ensemble in part._filters]
    return shares


def _wrong_answer(part: Any, doc: Any) -> list[Any]:
    """What lm-eval would hand to a task's scoring if the model said nothing."""
    if part.OUTPUT_TYPE == "generate_until":
        return [""]
    if part.OUTPUT_TYPE == "loglikelihood_rolling":
        return [-1.0]
    count = 1
    if part.OUTPUT_TYPE == "multiple_choice":
        count = len(part.doc_to_choice(doc))
        if "acc_mutual_info" in part._metric_fn_list:
            count *= 2
    return [(-1.0 - i, False) for i in range(count)]


def is_share(value: Any) -> bool:
    """Whether one question's value of a metric is a share of the maximum."""
    try:
        return not isinstance(value, str | tuple | list) and 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False
