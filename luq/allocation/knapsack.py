"""The multiple-choice knapsack: one tier per part, bytes within a budget, least sum of errors.

A part is what gets a tier as a whole: a layer, a linear, or linears that are tied.

Dynamic programming over the bytes that the first parts take, a prefix being one way to choose for
these. Two things keep prefixes few: of two, one that takes no fewer bytes at no smaller error never
wins; and one whose lower bound is above the error of a plan that is known cannot win either.

Symbols: e_o and b_o the error and bytes of an option o, B the limit, m >= 0 the price of a byte.
For any m, sum_parts min_o (e_o + m b_o) - m B is at most the least error of all plans within B
(Lagrangian relaxation), and so it is for the parts after a prefix and the bytes that it leaves.
Kellerer, Pferschy, Pisinger: Knapsack Problems (2004), chapter 11.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luq.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*")


MOST_PREFIXES = 20_000  # that are followed at a time; more than this and the best of them are
BISECTIONS = 100  # of the price of a byte: as far as 64-bit numbers go
ROUNDING = 1e-9  # of sums of errors, as a share of their largest


class Option(NamedTuple):
    """One tier of one part: the bytes that it takes and the error that it makes."""

    tier: str
    bytes: int
    error: float


class Solution(NamedTuple):
    """An option for each part. The least error of all plans is at most `gap` below its error."""

    options: list[Option]
    gap: float  # 0: it is the best plan

    @property
    def error(self) -> float:
        """Of all parts."""
        return sum(option.error for option in self.options)

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(option.bytes for option in self.options)


class _Relaxation(NamedTuple):
    """What is known of a problem before it is solved."""

    price: float  # m, of a byte
    priced: Float[np.ndarray, " parts"]  # min_o (e_o + m b_o) of each part
    known: list[Option]  # a plan within the limit

    @property
    def known_error(self) -> float:
        return sum(option.error for option in self.known)


class _Prefixes(NamedTuple):
    """Ways to choose for the first parts, by ascending bytes and descending error."""

    bytes: Int[np.ndarray, " prefixes"]
    error: Float[np.ndarray, " prefixes"]
    # In the order of their choices, the earlier options first.
    place: Int[np.ndarray, " prefixes"]

    def of(self, chosen: Int[np.ndarray, " chosen"]) -> _Prefixes:
        """Some of them, by their positions."""
        return _Prefixes(self.bytes[chosen], self.error[chosen], self.place[chosen])


def parse_bytes(text: str) -> int:
    """Bytes of a size as people write it: "2.5GB", "900 kB", "1GiB", or a plain number of bytes.

    Raises:
        ConfigError: The text is no such size.
    """
    match = SIZE.fullmatch(text.lower())
    if match is not None and match[2] in BYTES_PER_UNIT:
        size = float(match[1]) * BYTES_PER_UNIT[match[2]]
        if math.isfinite(size):
            return int(size)
    raise ConfigError(
        f"allocation.bytes={text!r} is not possible: it must be a size like 2.5GB, 900kB, 1.2GiB "
        "or 123456"
    )


def solve(options: list[list[Option]], limit: int, most_prefixes: int = MOST_PREFIXES) -> Solution:
    """One option per part with the least total error within a budget.

    It is found exactly while no more than `most_prefixes` prefixes have to be followed: always for
    layers of equal sizes (32 in 4 tiers have at most 6,545). Beyond that those of the smallest
    lower bounds are followed, and `gap` says what that may have cost.

    Args:
        options: The options of each part.
        limit: Bytes that all parts together may take.
        most_prefixes: How many ways to choose for the first parts are followed.

    Returns:
        The option of each part. Ties go to fewer bytes, then to the earlier options.

    Raises:
        ConfigError: Even the smallest options take more than `limit`.
    """
    least_bytes = np.array([min(option.bytes for option in part) for part in options], np.int64)
    if least_bytes.sum() > limit:
        raise ConfigError(
            f"no choice of tiers takes at most {limit} bytes: the smallest takes "
            f"{least_bytes.sum()}"
        )
    relaxed = _relaxation(options, limit)
    highest = sum(max(abs(option.error) for option in part) for part in options)
    known_error = relaxed.known_error + ROUNDING * highest
    prefixes = _Prefixes(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64))
    steps: list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]] = []
    least_left_out = math.inf  # lower bound of the prefixes that are not followed
    for index, part in enumerate(options):
        # The parts that follow need at least this much, so a larger prefix cannot be completed.
        room = limit - int(least_bytes[index + 1 :].sum())
        extended, parents, choices = _extended(prefixes, part)
        to_come = relaxed.priced[index + 1 :].sum() - relaxed.price * limit
        bounds = extended.error + relaxed.price * extended.bytes + to_come
        useful = _undominated(extended, (extended.bytes <= room) & (bounds <= known_error))
        if len(useful) > most_prefixes:
            by_bound = useful[np.argsort(bounds[useful], kind="stable")]
            least_left_out = min(least_left_out, float(bounds[by_bound[most_prefixes]]))
            useful = np.sort(by_bound[:most_prefixes])
        if len(useful) == 0:  # none that was followed is as good as the plan that is known
            return Solution(relaxed.known, max(0.0, relaxed.known_error - least_left_out))
        prefixes = _placed(extended.of(useful))
        steps.append((parents[useful], choices[useful]))
    # Fewer bytes always mean a larger error: the last is the best.
    best = len(prefixes.error) - 1
    chosen = _followed_back(options, steps, best)
    gap = max(0.0, float(prefixes.error[best]) - least_left_out)
    return Solution(chosen, gap)


def _relaxation(options: list[list[Option]], limit: int) -> _Relaxation:
    """The price of a byte at which parts that choose for themselves just keep the limit."""
    most = max(len(part) for part in options)
    error = np.full((len(options), most), np.inf)
    size = np.zeros((len(options), most))
    for index, part in enumerate(options):
        error[index, : len(part)] = [option.error for option in part]
        size[index, : len(part)] = [option.bytes for option in part]
    rows = np.arange(len(options))

    def choices_at(price: float) -> Int[np.ndarray, " parts"]:
        chosen: Int[np.ndarray, " parts"] = np.argmin(error + price * size, axis=1)
        return chosen

    finite = error[np.isfinite(error)]
    # At this price a byte costs more than any error: each part takes its smallest option.
    low, high = 0.0, float(finite.max() - finite.min()) + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if size[rows, choices_at(middle)].sum() <= limit:
            high = middle
        else:
            low = middle
    choices = _filled_up(error, size, choices_at(high), limit)
    priced = (error + high * size).min(axis=1)
    affordable_plan = [part[choice] for part, choice in zip(options, choices, strict=True)]
    return _Relaxation(high, priced, affordable_plan)


def _filled_up(
    error: Float[np.ndarray, "parts options"],
    size: Float[np.ndarray, "parts options"],
    choices: Int[np.ndarray, " parts"],
    limit: int,
) -> Int[np.ndarray, " parts"]:
    """A plan with the room that it leaves used: the change that gains most per byte, and again."""
    rows = np.arange(len(choices))
    choices = choices.copy()
    while True:
        room = limit - size[rows, choices].sum()
        gained = error[rows, choices][:, None] - error
        added = size - size[rows, choices][:, None]
        # error per byte; a better option that is no larger comes before all others
        rate = np.where((gained > 0) & (added <= room), gained / np.maximum(added, 1e-9), 0.0)
        part, option = np.unravel_index(int(rate.argmax()), rate.shape)
        if rate[part, option] <= 0:
            return choices
        choices[part] = option


def _extended(
    prefixes: _Prefixes, part: list[Option]
) -> tuple[_Prefixes, Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Every prefix with every option of the next part, and which prefix and option each is of."""
    count = len(part)
    sizes = np.array([option.bytes for option in part], np.int64)
    errors = np.array([option.error for option in part])
    choices = np.arange(count)
    extended = _Prefixes(
        (prefixes.bytes[:, None] + sizes).ravel(),
        (prefixes.error[:, None] + errors).ravel(),
        (prefixes.place[:, None] * count + choices).ravel(),
    )
    parents = np.repeat(np.arange(len(prefixes.bytes)), count)
    return extended, parents, np.tile(choices, len(prefixes.bytes))


def _undominated(
    prefixes: _Prefixes, possible: Bool[np.ndarray, " prefixes"]
) -> Int[np.ndarray, " useful"]:
    """Which make a smaller error than all possible ones of no more bytes, by ascending bytes."""
    candidates = np.flatnonzero(possible)
    totals = prefixes.of(candidates)
    order = candidates[np.lexsort((totals.place, totals.error, totals.bytes))]
    error = prefixes.error[order]
    least_before = np.concatenate(([np.inf], np.minimum.accumulate(error)[:-1]))
    useful: Int[np.ndarray, " useful"] = order[error < least_before]
    return useful


def _placed(prefixes: _Prefixes) -> _Prefixes:
    """The same with places counted anew, which would outgrow 64 bits otherwise."""
    place = np.empty_like(prefixes.place)
    place[np.argsort(prefixes.place)] = np.arange(len(place))
    return prefixes._replace(place=place)


def _followed_back(
    options: list[list[Option]],
    steps: list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]],
    last: int,
) -> list[Option]:
    """The options of a prefix, from the last part to the first."""
    chosen: list[Option] = []
    position = last
    for part, (parents, choices) in zip(reversed(options), reversed(steps), strict=True):
        chosen.append(part[int(choices[position])])
        position = int(parents[position])
    return chosen[::-1]
