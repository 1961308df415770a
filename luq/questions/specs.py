"""What the task YAMLs say: of lm-eval's tasks, and of the datasets behind them."""

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luq.questions.prompts import DEFAULT_PROTOCOL, protocol_of
from luq.store.keys import digest

TASKS = Path(__file__).parent / "tasks"


class Spec(NamedTuple):
    """What a task YAML says of its dataset.

    `images`: the configuration, split and key of a table of images of its own.
    """

    path: str
    name: str | None
    split: str
    data: str  # name of the local file or folder
    columns: list[str]
    optional: list[str]
    images: dict[str, str] | None
    calibration: str | None  # the split that no benchmark asks


class _TextLoader(yaml.SafeLoader):
    """Reads lm-eval's task YAML with the names of functions as texts."""


class _FunctionLoader(yaml.SafeLoader):
    """Reads lm-eval's task YAML; `!function module.name` is what stands under that name."""


def _function_name(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    module, _, name = _function_name(loader, node).rpartition(".")
    return getattr(import_module(module), name)


_TextLoader.add_constructor("!function", _function_name)
_FunctionLoader.add_constructor("!function", _function)


def _merged(benchmark: str, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    """A benchmark's task YAML with those it includes."""
    merged: dict[str, Any] = {}
    file: str | None = f"{benchmark}.yaml"
    while file:
        content = yaml.load((TASKS / file).read_text(encoding="utf-8"), loader)
        merged = content | merged
        file = content.get("include")
    del merged["include"]
    return merged


def _task_name(benchmark: str, protocol: str) -> str:
    """The name of the task that asks in a protocol's wording."""
    benchmark_protocol = protocol_of(benchmark, protocol)
    return (
        benchmark if benchmark_protocol == DEFAULT_PROTOCOL else f"{benchmark}_{benchmark_protocol}"
    )


def task_config(benchmark: str, protocol: str = DEFAULT_PROTOCOL) -> dict[str, Any]:
    """A benchmark's task as lm-eval takes it, with its functions."""
    return _merged(_task_name(benchmark, protocol), _FunctionLoader)


@lru_cache(maxsize=32)
def task_digest(benchmark: str, protocol: str = DEFAULT_PROTOCOL) -> str:
    """Digest of all that a task's YAML says: dataset, prompts, stop strings, answer length."""
    return digest("task", _merged(_task_name(benchmark, protocol), _TextLoader))


@lru_cache(maxsize=32)
def spec(benchmark: str) -> Spec:
    """What a benchmark's task says of its dataset."""
    task = _merged(benchmark, _TextLoader)
    about = task["metadata"]
    return Spec(
        path=task["dataset_path"],
        name=task.get("dataset_name"),
        split=task["test_split"],
        data=about.get("data", benchmark),
        columns=about["columns"],
        optional=about.get("optional", []),
        images=about.get("images"),
        calibration=about.get("calibration_split"),
    )
