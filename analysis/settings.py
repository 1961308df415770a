"""A run's settings under dotted names, and those that two runs must share to be compared."""

import re
from pathlib import Path
from typing import Any

from luq.config import CalibrationConfig, OrderConfig, RunConfig
from luq.config.building import plain
from luq.store import keys

# groups and settings that never change a result
WITHOUT_EFFECT = (
    "tracking",
    "paths",
    "group",
    "checkpoint",
    "objective",
    "model.device",
    "model.activations_gb",
    "model.caveat",
    "evaluation.batch_size",
)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting that can change a result, by its dotted name, in the order of the names."""
    settings: dict[str, Any] = {}
    _flatten(plain(config), "", settings)
    names = sorted(settings, key=lambda name: name.split("."))
    return without({name: settings[name] for name in names}, *WITHOUT_EFFECT)


def _flatten(group: dict[str, Any], prefix: str, settings: dict[str, Any]) -> None:
    """Put the settings of a group and of its groups into a flat table."""
    for name, value in group.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", settings)
        else:
            settings[f"{prefix}{name}"] = value


def without(settings: dict[str, Any], *groups: str) -> dict[str, Any]:
    """The settings that are not among the named settings and groups."""
    prefixes = tuple(f"{group}." for group in groups)
    return {
        name: value
        for name, value in settings.items()
        if name not in groups and not name.startswith(prefixes)
    }


def seedless(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without seeds: runs that differ in nothing else are of one plan."""
    return {name: value for name, value in settings.items() if name.rpartition(".")[2] != "seed"}


def plan_key(config: RunConfig) -> str:
    """What runs of one plan share, whatever their seeds (if they were asked the same questions)."""
    return keys.digest(seedless(settings_of(config)))


def differing(tables: list[dict[str, Any]]) -> list[str]:
    """The names of the settings that are not the same in all tables."""
    names = dict.fromkeys(name for settings in tables for name in settings)
    return [name for name in names if len({str(table.get(name)) for table in tables}) > 1]


def order_label(order: OrderConfig) -> str:
    """An order's name, with the modality of its tokens if those are not all, and its draws if they
    are several.
    """
    words = [] if order.modality == "all" else [f"{order.modality} tokens"]
    if order.draws > 1:
        words.append(f"{order.draws} draws")
    return f"{order.name} ({', '.join(words)})" if words else order.name


def is_entropy(label: str) -> bool:
    """Whether a label is that of ascending entropy over all tokens, by one draw or by several."""
    return re.fullmatch(r"entropy( \(\d+ draws\))?", label) is not None


def calibration_label(calibration: CalibrationConfig) -> str:
    """`text`, a user's own file, or the name of the multimodal set with its share of them."""
    if calibration.is_own:
        return Path(calibration.source).name
    if calibration.name == "text" or calibration.alpha == 0:
        return "text"
    return f"{calibration.name} {calibration.alpha:g}"


def weighting_label(calibration: CalibrationConfig) -> str:
    """`count`, `balance`, or `factor` with what an image token counts."""
    if calibration.weighting == "factor":
        return f"factor {calibration.image_factor:g}"
    return calibration.weighting
