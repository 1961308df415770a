"""The tiers that have names, for those who write Python.

They are those of `conf/quantizer/luq.yaml`: a test compares the two.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from luq.config.building import build_tier
from luq.config.quantizer import (
    ArbRcTier,
    BillmTier,
    Float16Tier,
    GgufTier,
    GptqTier,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.errors import ConfigError, unknown

NAMED_TIERS: dict[str, TierConfig] = {
    "float16": Float16Tier(),
    "gptq8": GptqTier(bits=8, act_order=True, static_groups=True, descent=2),
    "gptq4": GptqTier(bits=4, act_order=True, static_groups=True, clip_steps=20, descent=1),
    "gptq3": GptqTier(bits=3, act_order=True, static_groups=True, clip_steps=20, descent=1),
    "gptq2": GptqTier(bits=2, act_order=True, static_groups=True, clip_steps=20),
    "trellis4": TrellisTier(bits=4),
    "trellis3_5": TrellisTier(bits=3.5),
    "trellis3": TrellisTier(bits=3),
    "trellis2_5": TrellisTier(bits=2.5),
    "trellis2": TrellisTier(bits=2),
    "trellis1_75": TrellisTier(bits=1.75),
    "trellis1_5": TrellisTier(bits=1.5),
    "trellis1_25": TrellisTier(bits=1.25),
    "trellis1": TrellisTier(bits=1),
    "q8_0": GgufTier("q8_0"),
    "q6_k": GgufTier("q6_k"),
    "q5_k": GgufTier("q5_k"),
    "q4_k": GgufTier("q4_k"),
    "q4_0": GgufTier("q4_0"),
    "iq4_nl": GgufTier("iq4_nl"),
    "iq4_xs": GgufTier("iq4_xs"),
    "q3_k": GgufTier("q3_k"),
    "q2_k": GgufTier("q2_k"),
    "tq2_0": GgufTier("tq2_0"),
    "tq1_0": GgufTier("tq1_0"),
    "iq3_s": GgufTier("iq3_s"),
    "iq3_xxs": GgufTier("iq3_xxs"),
    "iq2_s": GgufTier("iq2_s"),
    "iq2_xs": GgufTier("iq2_xs"),
    "iq2_xxs": GgufTier("iq2_xxs"),
    "iq1_m": GgufTier("iq1_m"),
    "iq1_s": GgufTier("iq1_s"),
    "ternary": TernaryTier(act_order=True, static_groups=True, clip_steps=20),
    "arb_rc": ArbRcTier(),
    "rtn4": RtnTier(bits=4),
    "billm": BillmTier(act_order=True),
    "billm_faithful": BillmTier(true_sequential=False, faithful=True),
}


class NamedTier(NamedTuple):
    """A tier and what it is called, in allocations and in exported folders."""

    name: str
    tier: TierConfig


def named_tier(tier: str | TierConfig | Mapping[str, Any]) -> NamedTier:
    """A tier by its name, as it is, or as a table of its method and parameters.

    One that has no name in `NAMED_TIERS` is called by its method and the parameters that differ
    from their defaults, as in `trellis(bits=2, window=14)`.

    Raises:
        ConfigError: there is no such tier, or a parameter is none of its method's.
    """
    if isinstance(tier, str):
        if tier not in NAMED_TIERS:
            raise unknown("tier", tier, NAMED_TIERS)
        return NamedTier(tier, NAMED_TIERS[tier])
    if isinstance(tier, Mapping):
        tier = build_tier(dict(tier))
    if not isinstance(tier, TierConfig):
        raise ConfigError(
            f"a tier of type {type(tier).__name__} is not possible: give a name such as "
            "'gptq4', a tier such as TrellisTier(bits=2), or a dict with its method"
        )
    for name, listed_tier in NAMED_TIERS.items():
        if type(listed_tier) is type(tier) and listed_tier == tier:
            return NamedTier(name, tier)
    return NamedTier(_label(tier), tier)


def named_tiers(tiers: Iterable[str | TierConfig | Mapping[str, Any]]) -> dict[str, TierConfig]:
    """Several tiers by their names."""
    return dict(named_tier(tier) for tier in tiers)


def _label(tier: TierConfig) -> str:
    parameters: list[str] = []
    for entry in fields(tier):
        value = getattr(tier, entry.name)
        if value != entry.default:
            text = f"{value:g}" if isinstance(value, float) else value
            parameters.append(f"{entry.name}={text}")
    return f"{tier.method}({', '.join(parameters)})"
