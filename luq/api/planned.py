"""`luq.plan`: which layer gets which tier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luq.allocation.allocations import Allocation
from luq.allocation.reports import PlanReport
from luq.api.graph import FLOAT, GraphSettings, LoadedGraph, Tier, quantizer_of
from luq.api.profiled import Profile
from luq.calibration.artefacts import Calibration
from luq.config import AllocationConfig, OrderConfig, QuantizerConfig, TierConfig
from luq.config.named_tiers import named_tier, named_tiers
from luq.config.order import ORDERS_OVER_TOKENS
from luq.errors import ConfigError
from luq.planning import allocate, check_draws
from luq.quantization.artefacts import end_walk

# What says how many layers go low -> the plan that reads it.
PLAN_OF = {
    "k": "count",
    "quantile": "threshold",
    "entropy_max": "threshold",
    "bits": "budget",
    "bytes": "budget",
}


@dataclass(frozen=True)
class Plan:
    """A tier for every layer, and what the plan saw on its way to them."""

    allocation: Allocation
    quantizer: QuantizerConfig = field(repr=False)  # what the names of its tiers mean
    report: PlanReport = field(default_factory=PlanReport, repr=False)
    samples: Calibration | None = field(default=None, repr=False)  # that the layers are ranked by

    def __str__(self) -> str:
        return str(self.allocation)


def plan(
    profile: Profile,
    k: int | None = None,
    *,
    low: Tier = "billm",
    high: Tier = "gptq4",
    quantile: float | None = None,
    entropy_max: float | None = None,
    bits: float | None = None,
    bytes: str | None = None,
    tiers: Sequence[Tier] = (),
    error: str = AllocationConfig.error,
    unit: str = AllocationConfig.unit,
    tie: bool = AllocationConfig.tie,
    order: str = OrderConfig.name,
    modality: str = OrderConfig.modality,
    propagation: str = QuantizerConfig.propagation,
    seed: int = 0,
    draws: int = OrderConfig.draws,
) -> Plan:
    """Which layer gets which tier. Exactly one of the first five settings says how many go low.

    Args:
        profile: Entropies of the model's layers.
        k: So many layers of the order go low.
        low: The tier of the most compressible layers: a name (`luq.NAMED_TIERS`), a tier such as
            `TrellisTier(bits=2)`, or a dict with its `method` and parameters.
        high: The tier of the others.
        quantile: Layers at or below this quantile of the entropies go low.
        entropy_max: Layers of at most so many bits of entropy go low.
        bits: As few go low as keep this average of stored bits per weight of the linears.
        bytes: As few as keep this size of the whole checkpoint, as in "2.5GB".
        tiers: With `bits` or `bytes`: choose among these so that the summed error is the least.
        error: Which error that is: output_error, delta_loss or fisher.
        unit: With `tiers`: layer, or linear for a tier of its own for each linear.
        tie: With unit="linear": q, k and v get one tier, and gate and up, which servers fuse.
        order: Which ranking (`luq.allocation.orders`).
        modality: Whose tokens it is over: all, image or text.
        propagation: What feeds the next layer while quantizing: exact, high or float.
        seed: Of a random order.
        draws: Calibration sets over which the scores of entropy, variance and lim are means, if the
            profile is of a `CalibrationConfig`: with its seed, the next one, and so on.

    Raises:
        ConfigError: A setting is impossible, or no plan keeps the budget.
    """
    numbers = {"k": k, "quantile": quantile, "entropy_max": entropy_max, "bits": bits}
    limit = _limit({**numbers, "bytes": bytes})
    if tiers and limit not in ("bits", "bytes"):
        raise ConfigError(f"tiers would be ignored with {limit}: they go with bits or bytes")
    _check_unit(unit, tie, tiers)
    ranking = OrderConfig(order, modality, seed, draws)
    _check_draws(ranking, profile.samples, PLAN_OF[limit], tiers)
    if order == "kl" or (tiers and error == "kl"):
        raise ConfigError(
            "kl asks questions of the selection split, which `luq run` does: choose another order "
            "or error here"
        )
    candidates = named_tiers(tiers)
    quantizer = quantizer_of(low, high, propagation, tiers)
    allocation = AllocationConfig(
        PLAN_OF[limit],
        k=k,
        quantile=quantile,
        entropy_max=entropy_max,
        bits=bits,
        bytes=bytes,
        tiers=list(candidates),
        error=error,
        unit=unit,
        tie=tie,
    )
    settings = GraphSettings(quantizer, allocation, ranking, profile.settings)
    graph = LoadedGraph(profile.model, settings, profile.samples)
    chosen = allocate(graph, profile.model.store.get)
    end_walk(profile.model.store.tools)
    return Plan(chosen.allocation, quantizer, chosen.report, profile.samples)


def _limit(limits: Mapping[str, object]) -> str:
    """The one setting that says how many layers go low; a ConfigError for none or several."""
    names = [name for name, value in limits.items() if value is not None]
    if len(names) != 1:
        raise ConfigError(
            f"a plan needs exactly one of {', '.join(limits)}, and got "
            f"{', '.join(names) or 'none of them'}"
        )
    return names[0]


def _check_draws(
    ranking: OrderConfig, samples: Calibration, rule: str, tiers: Sequence[Tier]
) -> None:
    """A ConfigError for draws that cannot be had, or that no score of the plan is a mean over."""
    check_draws(ranking, samples)
    goes_by_tokens = rule == "threshold" or ranking.name in ORDERS_OVER_TOKENS
    if ranking.draws > 1 and (tiers or not goes_by_tokens):
        raise ConfigError(
            f"draws={ranking.draws} would be ignored: it goes with "
            f"order={' or '.join(ORDERS_OVER_TOKENS)}, and without tiers"
        )


def _check_unit(unit: str, tie: bool, tiers: Sequence[Tier]) -> None:
    """A ConfigError for a unit that no setting reads."""
    if unit == "linear" and not tiers:
        raise ConfigError('unit="linear" would be ignored: it goes with tiers and bits or bytes')
    if tie and unit != "linear":
        raise ConfigError('tie=True would be ignored: it goes with unit="linear"')


def as_plan(plan: Plan | Tier | Sequence[Tier], layers: int) -> Plan:
    """A plan from what `quantize` takes for one."""
    if isinstance(plan, str | TierConfig | Mapping):
        plan = [plan] * layers
    if not isinstance(plan, Plan):
        names = tuple(named_tier(tier).name for tier in plan)
        plan = Plan(Allocation(names), quantizer_of(FLOAT, FLOAT, others=plan))
    if len(plan.allocation.tiers) != layers:
        raise ConfigError(
            f"the plan has tiers for {len(plan.allocation.tiers)} layers, but the model has "
            f"{layers}: make a plan for this model"
        )
    return plan
