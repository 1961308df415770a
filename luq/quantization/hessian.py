"""The Hessian of a linear's output error, and its preparation for error feedback.

| symbol | in the code | meaning |
|---|---|---|
| X | `inputs` | inputs of a linear [tokens, in] |
| H | `hessian` | 2 X^T X / tokens [in, in]: the error of Q for W is tr((Q - W) H (Q - W)^T) / 2 |
| A | `triangle` | upper triangle with A A^T = H + damping * mean(diag H) I |
| U | `upper` | A^-1, so that U^T U = (H + damping * mean(diag H) I)^-1 |
| B, a | `unit`, `scale` | A = B diag(a) with ones on the diagonal of B |
| H' | `held_out` | the Hessian of tokens that H has not seen |

GPTQ (Frantar et al., ICLR 2023), section 3.3 and algorithm 1, where U is Cholesky(H^-1)^T. Every
token counts the same (the reference code counts sequences), unless weights say otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from luq.errors import DataError

T = TypeVar("T")

STRIP = 1024  # rows that are copied at a time: a Hessian may take over a gigabyte
PRODUCT = 512  # columns of a block of X^T X: less are slower each, more do more for nothing
TILE = 256  # rows and columns that are compared at a time: they stay in a processor's cache
LARGEST_DAMPING = 1.0  # beyond it, the diagonal says more than the calibration set
FIRST_DAMPING = 1e-4  # the least that a damping is raised to; from there on it doubles
# Shares of the mean diagonal that a Hessian may be shrunk by. With 8,192 tokens those of
# SmolLM2-135M want 0.003 to 0.3, and most of the widest ones, of 1,536 columns, 0.1 or more.
SHRINKAGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# How far an entry and its mirror image may be apart: sums of the same products in another order.
RELATIVE_ASYMMETRY = 1e-3  # of the entry
LARGEST_ASYMMETRY = 1e-5  # of the largest entry


class HessianSum:
    """Sums 2 X^T X over batches of inputs, for the mean over their tokens.

    Args:
        columns: of the inputs.
        device: where it sums.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        self._total = torch.zeros(columns, columns, device=device)  # as `add_product_` leaves it
        self.tokens = 0.0  # or the sum of their weights

    def add(
        self, inputs: Float[Tensor, "*tokens in"], weights: Float[Tensor, " n"] | None = None
    ) -> None:
        """Add inputs, each token as often as its weight says; None: once."""
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        if weights is not None:
            rows = rows * weights.to(rows).sqrt()[:, None]
        add_product_(self._total, rows, rows, 2.0)
        self.tokens += rows.shape[0] if weights is None else float(weights.sum())

    def take(self, other: "HessianSum") -> None:
        """Add all that another sum has seen."""
        self._total += other.total
        self.tokens += other.tokens

    @property
    def total(self) -> Float[Tensor, "in in"]:
        """The sum so far; what is added later is seen in it, or not."""
        mirror_(self._total)
        return self._total

    def mean(self) -> Float[Tensor, "in in"]:
        """The Hessian; the sum is used up."""
        return self.total.div_(self.tokens or 1)


def add_product_(
    total: Float[Tensor, "n n"],
    left: Float[Tensor, "tokens n"],
    right: Float[Tensor, "tokens n"],
    factor: float = 1.0,
) -> None:
    """Add factor * left^T right, which is symmetric, in place.

    Only the blocks on and above the diagonal: that is little more than half the work. Those below
    are left as they are, until `mirror_` makes them.
    """
    for block in _blocks(len(total)):
        above = slice(block.start, None)
        total[block, above].addmm_(left[:, block].T, right[:, above], alpha=factor)


def mirror_(total: Float[Tensor, "n n"]) -> None:
    """Make the blocks below the diagonal from those above it, in place."""
    for block in _blocks(len(total)):
        total[block.stop :, block] = total[block, block.stop :].T


def _blocks(columns: int) -> list[slice]:
    """Of so many columns; each as large as one product wants to be."""
    starts = range(0, columns, PRODUCT)
    return [slice(start, min(start + PRODUCT, columns)) for start in starts]


class SplitHessian:
    """Sums tokens in two parts: how far the Hessian of all is shrunk is chosen by one of them.

    The Hessian of few tokens is too sure of its small eigenvalues: error feedback that trusts it
    makes a larger error on other tokens. H + share * mean(diag H) I is less sure.

    Args:
        columns: of the inputs.
        device: where it sums.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        self.columns = columns
        self.device = device
        self.seen = HessianSum(columns, device)
        self.held_out: HessianSum | None = None

    def add(
        self,
        inputs: Float[Tensor, "*tokens in"],
        weights: Float[Tensor, " n"] | None,
        is_held_out: bool,
    ) -> None:
        """Add inputs to one of the parts."""
        if not is_held_out:
            self.seen.add(inputs, weights)
            return
        if self.held_out is None:
            self.held_out = HessianSum(self.columns, self.device)
        self.held_out.add(inputs, weights)

    def mean(self) -> Float[Tensor, "in in"]:
        """The Hessian of all tokens, shrunk where some were held out; the sums are used up."""
        if self.held_out is None:
            return self.seen.mean()
        seen = self.seen.total
        held_out = self.held_out.total
        is_finite = bool(torch.isfinite(seen.sum() + held_out.sum()))
        # of what is none the quantizer says where it stands
        share = best_shrinkage(seen, held_out) if is_finite else 0.0
        self.seen.take(self.held_out)
        hessian = self.seen.mean()
        _shrink_(hessian, share)
        return hessian


def best_shrinkage(hessian: Float[Tensor, "in in"], held_out: Float[Tensor, "in in"]) -> float:
    """The share of the mean diagonal by which H is best shrunk, of `SHRINKAGES`.

    Error feedback leaves W - Q = R D^-1 U for the rounding errors R of the columns and D = diag(U).
    If R is noise that is alike in all columns, the error on other tokens is, but for a factor,
    tr(D^-1 U H' U^T D^-1): no weight has to be quantized to know it.

    Args:
        hessian: H, of any scale.
        held_out: H', of any scale.
    """
    order = torch.argsort(torch.diagonal(hessian), descending=True, stable=True)
    other = held_out[order][:, order]
    errors: dict[float, float] = {}
    for share in SHRINKAGES:
        shrunk = hessian.clone()
        _shrink_(shrunk, share)
        upper = factorize(shrunk, FIRST_DAMPING, order).upper
        by_column = ((upper @ other) * upper).sum(1) / torch.diagonal(upper).square()
        errors[share] = float(by_column.sum())
    return min(errors, key=lambda share: errors[share])


def _shrink_(hessian: Float[Tensor, "in in"], share: float) -> None:
    """Add share * mean(diag H) to the diagonal in place; columns that no token used stay so."""
    diagonal = torch.diagonal(hessian)
    diagonal.add_(share * diagonal.mean() * (diagonal > 0))


def checked(hessian: Tensor | None, columns: int) -> Float[Tensor, "in in"]:
    """A Hessian that a quantizer can work with.

    Args:
        hessian: what should be one.
        columns: of the weight.

    Raises:
        DataError: there is none, its shape is not the weight's, or it is not finite and symmetric.
    """
    if hessian is None:
        raise DataError("there is no Hessian: this tier needs a calibration set")
    if hessian.shape != (columns, columns):
        raise DataError(
            f"the Hessian is {tuple(hessian.shape)}, the weight has {columns} columns: it belongs "
            "to another linear"
        )
    strips = [slice(start, start + TILE) for start in range(0, columns, TILE)]
    # of finite numbers only: NaN and infinity stay what they are in a maximum
    largest = torch.stack([hessian[strip].abs().amax() for strip in strips]).amax()
    if not bool(torch.isfinite(largest)):
        raise DataError(
            "the Hessian holds NaN or infinity: look for bad activations in the calibration set"
        )
    slack = LARGEST_ASYMMETRY * largest
    is_symmetric = torch.ones((), dtype=torch.bool, device=hessian.device)
    for row, strip in enumerate(strips):
        for other in strips[: row + 1]:
            entries = hessian[strip, other]
            mirrored = hessian[other, strip].T
            apart = (entries - mirrored).abs_()
            is_symmetric &= (apart <= slack + RELATIVE_ASYMMETRY * mirrored.abs()).all()
    if not bool(is_symmetric):
        raise DataError("the Hessian is not symmetric: it must be a sum of X^T X")
    return hessian


def without_dead_columns(
    weight: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"]
) -> Float[Tensor, "out in"]:
    """A copy of the weight with zeros in the columns that no token ever used (H_jj = 0)."""
    return torch.where(torch.diagonal(hessian) <= 0, 0.0, weight)


@dataclass(frozen=True)
class Factor:
    """What error feedback needs of a Hessian.

    `upper` is U, `dead` marks columns that no token ever used, both in the order of the sweep;
    `damping` is what was needed for U to exist.
    """

    upper: Float[Tensor, "in in"]
    dead: Bool[Tensor, " in"]
    damping: float


@dataclass(frozen=True)
class UnitFactor:
    """What a sweep needs of a Hessian, in the order of the sweep; no inverse is computed for it.

    `unit` is B, `scale` is a; `damping` is what was needed for them to exist.
    """

    unit: Float[Tensor, "in in"]
    scale: Float[Tensor, " in"]
    damping: float

    @property
    def unmended(self) -> Float[Tensor, " in"]:
        """What a column's squared rounding error counts, a_j^2 = 1 / U_jj^2: what of it no later
        column can make up for.
        """
        return self.scale.square()


def factorize(
    hessian: Float[Tensor, "in in"], damping: float, order: Int64[Tensor, " in"] | None = None
) -> Factor:
    """U of a damped Hessian; the damping is raised until U exists.

    Args:
        hessian: H; left as it is. Columns that no token used get a diagonal of one.
        damping: share of the mean diagonal that is added to the diagonal (GPTQ's percdamp).
        order: of the columns in U; None: as in H.

    Raises:
        DataError: no damping up to 1 helps.
    """
    order = _order(hessian, order)
    upper, damping = _damped(hessian, damping, order, is_inverse=True)
    return Factor(upper, _dead(hessian, order), damping)


def decompose(
    hessian: Float[Tensor, "in in"], damping: float, order: Int64[Tensor, " in"] | None = None
) -> UnitFactor:
    """B and a of a damped Hessian; as `factorize`, for half of its work."""
    unit, damping = _damped(hessian, damping, _order(hessian, order), is_inverse=False)
    scale = unit.diagonal().clone()
    return UnitFactor(unit.div_(scale), scale, damping)


def _order(
    hessian: Float[Tensor, "in in"], order: Int64[Tensor, " in"] | None
) -> Int64[Tensor, " in"]:
    return torch.arange(len(hessian), device=hessian.device) if order is None else order


def _dead(hessian: Float[Tensor, "in in"], order: Int64[Tensor, " in"]) -> Bool[Tensor, " in"]:
    """Columns that no token ever used."""
    return (torch.diagonal(hessian) <= 0)[order]


def _damped(
    hessian: Float[Tensor, "in in"], damping: float, order: Int64[Tensor, " in"], is_inverse: bool
) -> tuple[Float[Tensor, "in in"], float]:
    """U, or else A, and the damping that was needed.

    Raises:
        DataError: no damping up to 1 helps.
    """
    dead = _dead(hessian, order)
    while damping <= LARGEST_DAMPING:
        triangle = _damped_factor(hessian, damping, order, dead, is_inverse)
        if triangle is not None:
            return triangle, damping
        damping = max(2 * damping, FIRST_DAMPING)
    raise DataError(
        "the Hessian cannot be inverted even with damping 1.0: the calibration set has too few "
        "tokens"
    )


def _damped_factor(
    hessian: Float[Tensor, "in in"],
    damping: float,
    order: Int64[Tensor, " in"],
    dead: Bool[Tensor, " in"],
    is_inverse: bool,
) -> Float[Tensor, "in in"] | None:
    """U, or else A, for one damping; None if it does not exist. There is only one matrix beside the
    Hessian.

    Let J reverse the columns. With J H J = L L^T, A = J L J is an upper triangle and H = A A^T, so
    U = A^-1 = J L^-1 J has U^T U = H^-1: one Cholesky factor and one inverse of a triangle, where
    GPTQ's reference code takes two factors and a full inverse.
    """
    size = len(hessian)
    reversed_order = order.flip(0)
    # column by column in memory, as LAPACK wants it, which then works in place
    work = torch.empty_like(hessian).T
    for start in range(0, size, STRIP):
        strip = reversed_order[start : start + STRIP]
        work[start : start + STRIP] = hessian[strip][:, reversed_order]
    diagonal = torch.diagonal(work)
    diagonal[dead.flip(0)] = 1.0
    diagonal.add_(damping * float(diagonal.mean()))
    failed = torch.empty((), dtype=torch.int32, device=work.device)
    torch.linalg.cholesky_ex(work, out=(work, failed))
    if int(failed) != 0:
        return None
    if is_inverse:
        _invert(work)
    _reverse(work)
    # the sum is finite only if all entries are, and needs no second matrix
    return work if bool(torch.isfinite(work.sum())) else None


def _invert(lower: Float[Tensor, "n n"]) -> None:
    """Invert a lower triangle in place, from its last block of columns to its first.

    With [[A, 0], [C, D]] for a block A of the diagonal and what is right of and below it, the
    inverse is [[A^-1, 0], [-D^-1 C A^-1, D^-1]], and D^-1 is there already.
    """
    size = len(lower)
    for start in reversed(range(0, size, STRIP)):
        end = min(start + STRIP, size)
        identity = torch.eye(end - start, device=lower.device, dtype=lower.dtype)
        triangle = lower[start:end, start:end]
        inverse = torch.linalg.solve_triangular(triangle, identity, upper=False)
        lower[start:end, start:end] = inverse
        below = -(lower[end:, start:end] @ lower[start:end, start:end])
        for row in range(end, size, STRIP):
            stop = min(row + STRIP, size)
            lower[row:stop, start:end] = lower[row:stop, end:stop] @ below[: stop - end]


def _reverse(matrix: Float[Tensor, "n n"]) -> None:
    """Reverse rows and columns in place."""
    size = len(matrix)
    for start in range(0, size // 2, STRIP):
        end = min(start + STRIP, size // 2)
        top = matrix[start:end].clone()
        matrix[start:end] = matrix[size - end : size - start].flip(0, 1)
        matrix[size - end : size - start] = top.flip(0, 1)
    if size % 2:
        matrix[size // 2] = matrix[size // 2].flip(0)


class HessianCache(Generic[T]):
    """A cache of one entry, keyed by the identity of a Hessian.

    Linears that share an input come one after another with the very same Hessian, and share what
    is made of it.
    """

    def __init__(self) -> None:
        self._hessian: Tensor | None = None
        self._entry: T | None = None

    def get(self, hessian: Tensor, make: Callable[[], T]) -> T:
        """The entry of this Hessian, made unless it is there."""
        if self._entry is None or self._hessian is not hessian:
            # the old entry goes before the new one comes: each may take gigabytes
            self._hessian = None
            self._entry = None
            self._entry = make()
            self._hessian = hessian
        return self._entry


def effective_rank(hessian: Float[Tensor, "n n"]) -> float:
    """How many directions the inputs really use, in [1, in]: exp of the spectral entropy of H."""
    eigenvalues = torch.linalg.eigvalsh(hessian.double()).clamp_min(0)
    share = eigenvalues / eigenvalues.sum()
    # the clamp makes 0 log 0 zero
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-30))).sum()))
