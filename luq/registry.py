"""Name -> "module:attribute" tables, loaded when asked for, with "did you mean" errors."""

from importlib import import_module
from typing import Any

from luq.errors import unknown

TABLES: dict[str, dict[str, str]] = {
    "order": {
        "entropy": "luq.allocation.orders:entropy",
        "entropy_reverse": "luq.allocation.orders:entropy_reverse",
        "depth": "luq.allocation.orders:depth",
        "depth_reverse": "luq.allocation.orders:depth_reverse",
        "random": "luq.allocation.orders:random",
        "variance": "luq.allocation.orders:variance",
        "lim": "luq.allocation.orders:lim",
        "zd": "luq.allocation.orders:zd",
        "kurtosis": "luq.allocation.orders:kurtosis",
        "output_error": "luq.allocation.orders:output_error",
        "kl": "luq.allocation.orders:kl",
        "delta_loss": "luq.allocation.orders:delta_loss",
    },
    "plan": {
        "uniform": "luq.allocation.plans:uniform",
        "count": "luq.allocation.plans:count",
        "threshold": "luq.allocation.plans:threshold",
        "budget": "luq.allocation.plans:budget",
        "quality": "luq.allocation.plans:quality",
        "search": "luq.allocation.plans:search",
    },
    "benchmark": {
        "mme": "luq.evaluation.scorers.mme",
        "mmbench": "luq.evaluation.scorers.mmbench",
        "textvqa": "luq.evaluation.scorers.vqa",
        "textvqa_ocr": "luq.evaluation.scorers.vqa",
        "vqav2": "luq.evaluation.scorers.vqa",
        "gqa": "luq.evaluation.scorers.exact",
        "pope": "luq.evaluation.scorers.pope",
        "chartqa": "luq.evaluation.scorers.chartqa",
        "docvqa": "luq.evaluation.scorers.docvqa",
        "mathvista": "luq.evaluation.scorers.mathvista",
    },
}


def check(kind: str, name: str) -> None:
    """Raise a ConfigError unless `name` is in the table `kind`."""
    if name not in TABLES[kind]:
        raise unknown(kind, name, TABLES[kind])


def load(kind: str, name: str) -> Any:
    """Import what the table `kind` holds under `name`."""
    check(kind, name)
    module, _, attribute = TABLES[kind][name].partition(":")
    loaded = import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
