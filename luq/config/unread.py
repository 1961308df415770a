"""Settings that were given and that no part of the run reads: nothing is ignored without a word.

A setting of the allocation that its plan does not read is an error: another plan was meant. Others
are what runs of several plans share on a command line: they get their defaults, and a note.

A setting counts as given where it differs from its default. Seeds follow the run's, so one that
equals it is not given.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from luq.config.allocation import ERRORS
from luq.config.order import ORDERS_OVER_TOKENS
from luq.config.run import RunConfig
from luq.errors import ConfigError

# Plans that rank layers by the order. `budget` with tiers of its own and `search` go by errors.
RANKING_PLANS = ("count", "quality")


@dataclass(frozen=True)
class Unread:
    """A setting by its dotted name, its value, and what would read it."""

    name: str
    value: object
    reader: str

    def __str__(self) -> str:
        return f"{self.name}={self.value} has no effect: it is read by {self.reader}"

    def is_among(self, names: Sequence[str]) -> bool:
        """Whether some names, of settings or groups, have it among them."""
        return any(f"{self.name}.".startswith(f"{name}.") for name in names)


def with_what_is_read(config: RunConfig, shared: Sequence[str] = ()) -> RunConfig:
    """The config with the defaults of all that nothing of the run reads.

    Args:
        config: of a run.
        shared: settings and groups that were given for many runs at once, as in a sweep: there
            other runs read what this one does not.

    Raises:
        ConfigError: the run itself was given a setting of the allocation that its plan ignores.
    """
    for setting in unread(config):
        if setting.is_among(["allocation"]) and not setting.is_among(shared):
            raise ConfigError(f"{setting}. Leave it out, or choose what reads it")
        config = _with_default(config, setting.name)
    return config


def unread(config: RunConfig) -> list[Unread]:
    """Every setting that was given and that nothing reads."""
    unread_settings: list[Unread] = []
    for name, reader in _unread_names(config).items():
        group, _, setting = name.partition(".")
        value = getattr(getattr(config, group), setting)
        follows_run = setting == "seed" and value == config.seed
        if value != _default(config, name) and not follows_run:
            unread_settings.append(Unread(name, value, reader))
    return unread_settings


def reads(config: RunConfig, name: str) -> bool:
    """Whether a setting (`order.seed`) or the choice of a group (`order`) has an effect."""
    unread_names = _unread_names(config)
    return name not in unread_names and f"{name}.name" not in unread_names


def _unread_names(config: RunConfig) -> dict[str, str]:
    """Settings that nothing of the run reads, whatever their values -> what would read them."""
    readers = _allocation_readers(config) | _order_readers(config) | _profile_readers(config)
    readers |= _calibration_readers(config) | _quantizer_readers(config)
    if config.calibration.alpha == 0:
        with_images = "calibration sets with images: calibration.alpha above 0"
        readers["calibration.weighting"] = with_images
        if config.quantizer.token_weights == "modality":  # all tokens are of one
            readers.setdefault("quantizer.token_weights", f"{with_images}, and `modality`")
    return readers


def _calibration_readers(config: RunConfig) -> dict[str, str]:
    """Settings of the calibration that samples of one's own make idle -> what reads them."""
    if not config.calibration.is_own:
        return {}
    reader = f"calibration sets that are mixed: {config.calibration.source} is taken whole"
    names = ("alpha", "tokens", "sample_tokens", "text", "benchmarks", "seed")
    return {f"calibration.{name}": reader for name in names}


def _quantizer_readers(config: RunConfig) -> dict[str, str]:
    """Settings of refinement and Hessians that no tier of the run has use for -> their readers."""
    quantizer = config.quantizer
    names = [quantizer.low, quantizer.high, *config.allocation.tiers]
    if config.allocation.name == "uniform":
        names = [quantizer.high]
    tiers = [quantizer.tiers[name] for name in names]
    readers: dict[str, str] = {}
    if not quantizer.refine.is_on:
        readers["quantizer.refine"] = "runs with refine.fit=true or refine.steps above 0"
    elif all(tier.is_exact for tier in tiers):
        readers["quantizer.refine"] = "tiers that lose something, not by 16-bit ones"
    if all(tier.data_free for tier in tiers):
        reader = "tiers that have Hessians, not by those that need no data"
        readers["quantizer.held_out"] = reader
        if "quantizer.refine" in readers:
            readers["quantizer.token_weights"] = reader
    return readers


def ranks_layers(config: RunConfig) -> bool:
    """Whether the plan goes by the order of the layers."""
    plan = config.allocation
    return plan.name in RANKING_PLANS or (plan.name == "budget" and not plan.tiers)


def _allocation_readers(config: RunConfig) -> dict[str, str]:
    """Settings of the allocation that its plan does not read -> what reads them."""
    plan = config.allocation
    readers = {
        "k": ("count",),
        "entropy_max": ("threshold",),
        "quantile": ("threshold",),
        "bits": ("budget", "search"),
        "bytes": ("budget", "search"),
        "tiers": ("budget", "search"),
        "unit": ("budget", "search"),
        "tie": ("budget", "search"),
        "error": ("budget", "search"),
        "drop": ("quality",),
        "swaps": ("search",),
        "samples": ("quality", "search"),
    }
    unread_by_plan: dict[str, str] = {}
    for setting, plans in readers.items():
        if plan.name not in plans:
            unread_by_plan[f"allocation.{setting}"] = _words("allocation=", plans)
    if plan.name == "budget" and not plan.tiers:
        unread_by_plan["allocation.error"] = "allocation=search, or with allocation.tiers"
    if plan.name in ("budget", "search") and plan.unit != "linear":
        unread_by_plan["allocation.tie"] = "allocation.unit=linear"
    if plan.name == "search" and plan.swaps == 0:
        unread_by_plan["allocation.samples"] = "allocation=quality, or with allocation.swaps"
    return unread_by_plan


def _order_readers(config: RunConfig) -> dict[str, str]:
    """Settings of the order that nothing reads -> what reads them."""
    order = config.order
    readers: dict[str, str] = {}
    if not ranks_layers(config):
        plans = _words("allocation=", (*RANKING_PLANS, "budget"))
        readers["order.name"] = f"{plans} (without allocation.tiers)"
    ranked = [order.name] if ranks_layers(config) else []
    names = {*ranked, *config.profile.orders}
    if not names.intersection(ORDERS_OVER_TOKENS) and config.allocation.name != "threshold":
        reader = f"{_words('order=', ORDERS_OVER_TOKENS)}, where a plan ranks"
        readers["order.modality"] = reader
        if order.name not in ERRORS or not ranks_layers(config):  # for those it is refused
            readers["order.draws"] = reader
    if "random" not in names:
        readers["order.seed"] = "order=random, where a plan ranks"
    return readers


def _profile_readers(config: RunConfig) -> dict[str, str]:
    """Settings of the profile that nothing reads -> what reads them."""
    plan = config.allocation
    orders = config.profile.orders
    readers: dict[str, str] = {}
    if plan.name == "uniform" and not orders:
        for setting in ("clusters", "tokens", "seeds", "seed"):
            readers[f"profile.{setting}"] = "plans that choose layers, not allocation=uniform"
    if not measures_kl(config):
        readers["profile.samples"] = "order=kl, allocation.error=kl and profile.orders=[kl]"
    return readers


def measures_kl(config: RunConfig) -> bool:
    """Whether the KL of one layer at a time is measured, on questions of the selection split."""
    plan = config.allocation
    ranked_by_kl = ranks_layers(config) and config.order.name == "kl"
    is_error = measures_errors(config) and plan.error == "kl"
    return ranked_by_kl or is_error or "kl" in config.profile.orders


def measures_errors(config: RunConfig) -> bool:
    """Whether the plan goes by errors of layers or linears, one at a time in a tier."""
    plan = config.allocation
    return plan.name == "search" or (plan.name == "budget" and bool(plan.tiers))


def chooses_by_questions(config: RunConfig) -> bool:
    """Whether the run asks questions of the selection split before it has an allocation."""
    return config.allocation.name in ("quality", "search") or measures_kl(config)


def _words(prefix: str, names: Sequence[str]) -> str:
    """`allocation=budget and allocation=search`."""
    *first, last = [f"{prefix}{name}" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _default(config: RunConfig, name: str) -> Any:
    """The default of a setting by its dotted name."""
    if name == "calibration.alpha":
        return 1.0  # nothing is mixed
    group, _, setting = name.partition(".")
    for entry in fields(getattr(config, group)):
        if entry.name == setting and entry.default_factory is not MISSING:
            return entry.default_factory()
        if entry.name == setting:
            return entry.default
    raise KeyError(name)


def _with_default(config: RunConfig, name: str) -> RunConfig:
    """The config with the default of one setting."""
    group, _, setting = name.partition(".")
    changed: Any = replace(getattr(config, group), **{setting: _default(config, name)})
    return replace(config, **{group: changed})
