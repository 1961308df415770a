"""Settings that no run can have, by the group of the config that they are in."""

from collections.abc import Iterator
from typing import NamedTuple


class BadSetting(NamedTuple):
    """Overrides that are refused, and words of which one must stand in the message."""

    overrides: list[str]
    names: tuple[str, ...]


# Setting -> the first value below its range, and overrides without which it is not read.
COUNTS: dict[str, tuple[str, list[str]]] = {
    "model.text_length": ("1", []),
    "model.calibration_tokens": ("255", []),
    "model.min_pixels": ("0", []),
    "model.max_pixels": ("0", []),
    "calibration.tokens": ("255", []),
    "calibration.sample_tokens": ("7", []),
    "profile.clusters": ("1", []),
    "profile.tokens": ("63", []),
    "profile.seeds": ("0", []),
    "profile.samples": ("0", []),
    "allocation.k": ("-1", []),
    "allocation.swaps": ("-1", ["allocation=search", "allocation.bits=3.5"]),
    "allocation.samples": ("0", ["allocation=search", "allocation.bits=3.5"]),
    "evaluation.samples": ("0", []),
    "evaluation.fidelity": ("-1", []),
    "evaluation.text_tokens": ("-1", []),
    "evaluation.text_length": ("1", []),
    "evaluation.batch_size": ("0", []),
    "quantizer.tiers.gptq3.bits": ("1", []),
    "quantizer.tiers.gptq3.group_size": ("-1", []),
    "quantizer.tiers.gptq3.clip_steps": ("-1", []),
    "quantizer.tiers.gptq3.descent": ("-1", []),
    "quantizer.tiers.gptq3.block": ("0", ["++quantizer.tiers.gptq3.block=0"]),
}
NO_COUNTS = ("1.5", "nan", "inf", "abc", "99999999999999999999", "[]", "{a: 1}", "''")
SEEDS = ("seed", "calibration.seed", "profile.seed", "order.seed", "evaluation.seed")
NO_SEEDS = ("-1", "2147483648", "1.5", "nan", "abc", "[0]")
NUMBERS: dict[str, list[str]] = {
    "model.activations_gb": [],
    "calibration.alpha": [],
    "calibration.image_factor": ["calibration.weighting=factor"],
    "allocation.entropy_max": ["allocation=threshold"],
    "allocation.quantile": ["allocation=threshold"],
    "allocation.bits": ["allocation=budget"],
    "allocation.drop": ["allocation=quality"],
    "quantizer.tiers.gptq3.damping": [],
}
NO_NUMBERS = ("nan", "inf", "-inf", "-2", "1e999", "abc", "[]", "{a: 1}")
CHOICES = (
    "model.device", "calibration.weighting", "order.name", "order.modality", "allocation.name",
    "allocation.error", "allocation.unit", "quantizer.low", "quantizer.high",
    "quantizer.propagation", "evaluation.split", "evaluation.protocol", "tracking.name",
)  # fmt: skip
NO_CHOICES = ("nonsense", "''", "[]", "{a: 1}", "null")
GROUPS = (
    "model", "calibration", "profile", "order", "allocation", "quantizer", "evaluation",
    "tracking", "paths", "experiment",
)  # fmt: skip
NO_GROUPS = ("nonsense", "../run", "a/b")
LISTS: dict[str, list[str]] = {
    "model.benchmarks": [],
    "calibration.benchmarks": [],
    "evaluation.benchmarks": [],
    "profile.orders": [],
    "allocation.tiers": ["allocation=budget", "allocation.bits=3"],
}
NO_LISTS = ("[nonsense]", "[gqa,gqa]", "gqa", "[1]", "[[]]", "{a: 1}", "[null]")
FLAGS = ("checkpoint", "model.stream", "model.do_pad", "evaluation.strict", "allocation.tie")
NO_FLAGS = ("nonsense", "2", "[]", "nan")
TEXTS = (
    "model.name", "model.path", "model.data", "model.text", "calibration.source",
    "calibration.text", "evaluation.data", "evaluation.text", "evaluation.organisation",
    "evaluation.fallback", "paths.outputs", "group",
)  # fmt: skip
NO_TEXTS = ("''", "' '", "[]", "null")
NO_PLACES = ("/nowhere/at/all", "nowhere")
PLACES = (
    "model.path", "calibration.source", "calibration.text", "evaluation.data", "evaluation.text",
    "evaluation.sources.gqa",
)  # fmt: skip
NO_PLAIN_NAMES = ("a/b", "..", "/a", "a\\\\b", ".")
# Overrides that are none, or of settings that are not there.
BROKEN: dict[str, tuple[str, ...]] = {
    "=4": ("=4",),
    "allocation.k": ("allocation.k",),
    "allocation.k=": ("allocation.k", "k"),
    "nonsense=1": ("nonsense",),
    "allocation.nonsense=1": ("nonsense",),
    "+nonsense=1": ("nonsense",),
    "+allocation.nonsense=1": ("nonsense",),
    "~nonsense": ("nonsense",),
    "allocation.k=[1": ("allocation.k", "[1"),
    "allocation.k='": ("allocation.k", "'"),
    "allocation.k=${nonsense}": ("nonsense",),
    "allocation.k=${oc.env:NONSENSE}": ("NONSENSE",),
    "seed=${seed}": ("seed",),
    "allocation.k=choice(1": ("allocation.k", "choice"),
    "allocation.k=1,2": ("allocation.k", "1,2"),
    "allocation=count,budget": ("allocation",),
    "allocation@nonsense=count": ("nonsense", "allocation"),
    "hydra/launcher=nonsense": ("nonsense", "launcher"),
    "model.path=???": ("model.path", "path"),
    "calibration.tokens=???": ("tokens",),
    "allocation=null": ("allocation",),
    "quantizer.tiers=null": ("tiers",),
    "quantizer.tiers=[]": ("tiers",),
    "quantizer.tiers.gptq3=null": ("gptq3",),
    "quantizer.tiers.gptq3.nonsense=1": ("nonsense",),
    "+quantizer.tiers.gptq3.nonsense=1": ("nonsense",),
    "quantizer.tiers.gptq3.method=nonsense": ("nonsense",),
    "+quantizer.tiers.new.bits=3": ("new",),
    "+quantizer.tiers.new.method=nonsense": ("new", "nonsense"),
    "evaluation.sources.nonsense=x": ("nonsense",),
    "evaluation.sources=x": ("sources",),
    "--nonsense": ("--nonsense",),
    "--cfg=nonsense": ("nonsense",),
    "--config-name=nonsense": ("nonsense",),
    "--config-dir=/nowhere/at/all": ("/nowhere/at/all",),
    "model.device=cuda:999": ("cuda",),
    "model.path=pocket:nonsense": ("nonsense",),
    "allocation.k=11": ("allocation.k",),
}
TOGETHER: list[BadSetting] = [
    BadSetting(["allocation=threshold"], ("entropy_max", "quantile")),
    BadSetting(
        ["allocation=threshold", "allocation.quantile=0.5", "allocation.entropy_max=5"],
        ("entropy_max", "quantile"),
    ),
    BadSetting(["allocation=budget"], ("allocation.bits",)),
    BadSetting(["allocation=budget", "allocation.bits=3", "allocation.bytes=2MB"], ("bytes",)),
    BadSetting(["allocation=budget", "allocation.bytes=nonsense"], ("bytes", "nonsense")),
    BadSetting(["allocation=budget", "allocation.bytes=-1MB"], ("bytes", "-1MB")),
    BadSetting(["allocation=budget", "allocation.bytes=1"], ("bytes", "budget")),
    BadSetting(["allocation=budget", "allocation.bits=0.01"], ("bits",)),
    BadSetting(["allocation=search"], ("allocation.bits",)),
    BadSetting(["allocation=quality"], ("drop",)),
    BadSetting(["calibration.image_factor=2"], ("image_factor",)),
    BadSetting(["calibration.tokens=256", "calibration.sample_tokens=257"], ("sample_tokens",)),
    BadSetting(["model.min_pixels=10", "model.max_pixels=9"], ("min_pixels",)),
    BadSetting(["evaluation.text_tokens=5", "evaluation.text_length=6"], ("text_tokens",)),
    BadSetting(["calibration.benchmarks=[]"], ("benchmarks",)),
    BadSetting(["calibration.text=/etc/hostname", "evaluation.text=/etc/hostname"], ("text",)),
    BadSetting(["profile.clusters=1000", "profile.tokens=64"], ("clusters",)),
    BadSetting(["evaluation.text=/etc/hostname"], ("/etc/hostname",)),
    BadSetting(["calibration.text=/etc"], ("/etc",)),
    BadSetting(["evaluation.data=/etc"], ("/etc",)),
    BadSetting(["model.path=/etc"], ("/etc",)),
    BadSetting(["model.path=/etc/hostname"], ("/etc/hostname",)),
]


def bad_settings() -> Iterator[BadSetting]:
    """All of them."""
    for setting, (below, needed) in COUNTS.items():
        yield from _of_values(setting, (below, *NO_COUNTS), needed)
    for setting in SEEDS:
        yield from _of_values(setting, NO_SEEDS, [])
    for setting, needed in NUMBERS.items():
        yield from _of_values(setting, NO_NUMBERS, needed)
    for setting in CHOICES:
        yield from _of_values(setting, NO_CHOICES, [])
    for setting, needed in LISTS.items():
        yield from _of_values(setting, NO_LISTS, needed)
    for setting in FLAGS:
        yield from _of_values(setting, NO_FLAGS, [])
    for setting in TEXTS:
        yield from _of_values(setting, NO_TEXTS, [])
    for setting in PLACES:
        yield from _of_values(setting, NO_PLACES, [])
    yield from _of_values("group", NO_PLAIN_NAMES, [])
    for group in GROUPS:
        yield from _of_values(group, NO_GROUPS, [])
    for override, names in BROKEN.items():
        yield BadSetting([override], names)
    yield from TOGETHER


def _of_values(setting: str, values: tuple[str, ...], needed: list[str]) -> Iterator[BadSetting]:
    short = setting.rpartition(".")[2]
    for value in values:
        names = tuple(word for word in (short, value, value.strip("[]").partition(",")[0]) if word)
        yield BadSetting([*needed, f"{setting}={value}"], names)
