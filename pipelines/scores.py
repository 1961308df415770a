"""What a record says of the scores, from kept answers: when a run ends, and in `luq rescore`."""

from typing import NamedTuple

from luq.errors import DataError
from luq.evaluation.answers import Scored
from luq.evaluation.scorers.summary import mean
from pipelines.record import BenchmarkScore, Perplexity


class ScorePart(NamedTuple):
    """What a record says of the scores."""

    scores: dict[str, BenchmarkScore]
    mean_score: float
    float_mean_score: float
    mean_retention: float | None


def score_part(
    scores: dict[str, Scored], reference: dict[str, Scored], perplexity: Perplexity | None
) -> ScorePart:
    """What a record says of the scores, beside those of the 16-bit model.

    A benchmark of which every row is an error has no score, and is not in the mean. Of a run that
    asks nothing the score is the 16-bit model's perplexity over its own, in percent.

    Args:
        scores: of the run, by benchmark.
        reference: of the 16-bit model.
        perplexity: of the run, if it was measured.

    Raises:
        DataError: no benchmark has a score.
    """
    if not scores and perplexity is not None and perplexity.float_value is not None:
        retention = perplexity.float_value / perplexity.value
        return ScorePart({}, 100 * retention, 100.0, retention)
    by_benchmark = {name: _benchmark(item, reference[name]) for name, item in scores.items()}
    # In one order, since a mean's last bit depends on it, and a record that is read is sorted.
    ordered = [by_benchmark[name] for name in sorted(by_benchmark) if by_benchmark[name].was_asked]
    if not ordered:
        keys = ", ".join(f"store/evaluation/{item.key}" for item in scores.values())
        raise DataError(
            f"no row of {', '.join(by_benchmark)} could be asked: the answers say why ({keys})"
        )
    score = mean([item.score for item in ordered])
    float_score = mean([item.float_score for item in ordered])
    share = score / float_score if float_score else None
    return ScorePart(by_benchmark, score, float_score, share)


def _benchmark(item: Scored, reference: Scored) -> BenchmarkScore:
    score = item.summary.score
    float_score = reference.summary.score
    interval = item.summary.interval
    return BenchmarkScore(
        score=score,
        stderr=item.summary.stderr,
        n=item.summary.n,
        metrics=item.summary.metrics,
        collapsed=item.collapsed,
        errors=item.errors,
        float_score=float_score,
        retention=score / float_score if float_score else None,
        rows=item.rows,
        low=interval.low,
        high=interval.high,
    )
