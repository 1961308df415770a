"""Four values for each row of a block of columns, as good as they can be under the columns' importance.

Lloyd's turns on sorted rows: a cluster's weight and sum are differences of prefix sums, so a turn looks at no weight again.
"""

import torch
from torch import Tensor

TURNS = 12
START = (
    -1.5,
    -0.45,
    0.45,
    1.5,
)  # in standard deviations: nearly the best four values of a Gaussian


class Levels:
    """Rows [out, n] sorted once, from which four values are fitted for any choice of their columns."""

    def __init__(self, weight: Tensor):
        self.values, self.order = weight.sort(1)

    def fit(self, importance: Tensor, paired: bool, turns: int = TURNS) -> tuple[Tensor, Tensor]:
        """The values [out, 4], rising, and each row's error [out]; columns of importance [n] zero are left out.

        They are a local minimum of sum_j importance_j (w_j - nearest value)^2; `paired`: of the form c - u, c - v, c + v, c + u,
        which is what two binary orders can say.
        """
        share = importance.double()[self.order]
        values = self.values.double()
        parts = [share, share * values, share * values.square()]
        sums = torch.stack(
            [torch.nn.functional.pad(p.cumsum(1), (1, 0)) for p in parts]
        )  # [3, out, n + 1]
        whole = sums[0, :, -1:].clamp_min(1e-30)
        mean = sums[1, :, -1:] / whole
        deviation = (sums[2, :, -1:] / whole - mean.square()).clamp_min(0).sqrt()
        levels = mean + deviation * torch.tensor(START, device=mean.device, dtype=mean.dtype)
        for _ in range(turns):
            weight, total = _clusters(self.values, sums[:2], levels)
            levels = (
                _pair(levels, weight, total)
                if paired
                else torch.where(weight > 0, total / weight, levels).sort(1).values
            )
        weight, total = _clusters(self.values, sums[:2], levels)
        error = sums[2, :, -1] + (weight * levels.square() - 2 * total * levels).sum(1)
        return levels.float(), error.clamp_min(0)


def _clusters(values: Tensor, sums: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Importance and weighted sum [out, 4] of what lies nearest to each of the levels."""
    middle = ((levels[:, 1:] + levels[:, :-1]) / 2).to(values.dtype)
    cuts = torch.searchsorted(values, middle)
    edges = torch.nn.functional.pad(
        torch.nn.functional.pad(cuts, (1, 0)), (0, 1), value=values.shape[1]
    )
    weight, total = sums.gather(2, edges.expand(2, -1, -1)).diff(dim=2)
    return weight, total


def _pair(levels: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Least squares for u, v and then c, given the clusters [out, 4]."""
    centre = (levels[:, :1] + levels[:, 3:]) / 2
    away = total - weight * centre
    outer, inner = (
        (away[:, b] - away[:, a]) / (weight[:, a] + weight[:, b]).clamp_min(1e-30)
        for a, b in ((0, 3), (1, 2))
    )
    outer, inner = (
        torch.maximum(outer, inner).clamp_min(0),
        torch.minimum(outer, inner).clamp_min(0),
    )
    offset = torch.stack([-outer, -inner, inner, outer], 1)
    centre = (total - weight * offset).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(
        1e-30
    )
    return centre + offset
