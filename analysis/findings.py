"""What the report says in words, computed from the data.

Findings, what was run, how to read it, and what it does not show.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.claims import NO, OPEN, YES
from analysis.compare import Comparison, Reader, loss
from analysis.frame import BASE, CHANGES, Study
from analysis.loading import is_mixed
from analysis.pareto import ParetoInfo
from analysis.promise import ANY_MIX, LINEARS, ONE_TIER, PROMISE_LOSS, Size, best, runs_of, sizes
from analysis.settings import differing, is_entropy, settings_of, without
from analysis.steadiness import REVERSE, Steadiness, Steadinesses
from luq.allocation.steadiness import Agreement
from luq.evaluation.compare import Difference
from pipelines.units import human

HOLDS = {
    YES: "holds here",
    NO: "does not hold here",
    OPEN: "cannot be told here: the interval of the loss holds 10 %",
}
OF_FILE = {NO: "not for the whole file", OPEN: "for the whole file it cannot be told"}
CONTRAST = {"better": "beats", "worse": "loses to", "tie": "ties with"}
# what the base does, where the other side is better or worse
CONTRAST_OF_BASE = {"better": "loses to", "worse": "beats", "tie": "ties with"}
MOST_VALUES = 20  # of a setting that are listed
MOST_NOISY = 2  # orders within their noise that have a sentence of their own


class Fact(NamedTuple):
    """A line of what was run."""

    name: str
    value: str


def points(difference: Difference) -> str:
    """A difference of scores with its interval; the claims' verdicts are over draws, too."""
    edges = f"{difference.low:+.1f} to {difference.high:+.1f}"
    return f"{difference.mean:+.1f} points, 95 % interval over questions {edges}"


def headline(study: Study, info: ParetoInfo, reader: Reader) -> list[str]:
    """Sentences on the smallest good plan, and on the claim of the paper, by bytes of files."""
    table = info.points.merge(study.plans[["plan", *CHANGES]], on="plan", how="left")
    good = _within_promised_loss(table).sort_values("bytes")
    if good.empty:
        return ["No plan keeps 90 % of the 16-bit score.", *promise(study, reader)]
    best = good.iloc[0]
    retention = f"keeps {100 * best['retention']:.1f} % of the 16-bit score"
    difference = _loss(study, str(best["plan"]), reader)
    if difference:
        retention += f" ({points(difference)})"
    size = f"{human(best['bytes'])} whole"
    if pd.notna(best["checkpoint_change"]):
        size += f", {_smaller(best['checkpoint_change'])} than {BASE}"
    sentences = [
        f"The smallest plan within 10 % of the 16-bit score is {best['label']}: "
        f"{size}; it {retention}."
    ]
    mixed = good[good["mixed"]]
    is_uniform = not best["mixed"]
    # where one tier everywhere wins, the reader wants to know what mixing would cost
    if is_uniform and len(mixed):
        first = mixed.iloc[0]
        larger = 100 * (first["bytes"] / best["bytes"] - 1)
        sentences.append(
            f"The smallest mix of tiers that does is {first['label']}: {human(first['bytes'])} "
            f"({larger:.1f} % larger), {100 * first['retention']:.1f} %."
        )
    return [*sentences, *promise(study, reader)]


def promise(study: Study, reader: Reader) -> list[str]:
    """Whether a mix of layers is 40 % smaller than 4-bit with under 10 % loss, in sentences.

    The claim is one on mixes, so plans of one tier neither keep nor break it; where one of them
    does it too, a second sentence says so.
    """
    claim = "The paper's claim, a mix of layers 40 % smaller than 4-bit with under 10 % loss,"
    if not study.plans["mixed"].any():
        return [f"{claim} is not tested: no mix of layers is here."]
    if study.plans[LINEARS].isna().all():
        return [f"{claim} cannot be tested: no run all in {BASE} is here: run experiment={BASE}."]
    plans = sizes(study, reader)
    mixes = [plan for plan in plans if plan.of == ANY_MIX]
    if not mixes:
        return [f"{claim} does not hold here: all mixes have collapsed."]
    of_linears = best([plan.of_linears for plan in mixes])
    of_whole = best([plan.of_whole for plan in mixes])
    verdict = HOLDS[of_linears]
    example = next(plan for plan in mixes if plan.of_linears == of_linears)
    if of_whole == YES:
        verdict = HOLDS[YES]
        example = next(plan for plan in mixes if plan.of_whole == YES)
    elif of_linears == YES:
        verdict = f"{HOLDS[YES]} for the decoder's linears, {OF_FILE[of_whole]}"
    sentences = [f"{claim} {verdict}. {example.label}: {_sizes_and_loss(example)}."]
    uniform = [plan for plan in plans if plan.of == ONE_TIER and plan.of_linears == YES]
    if uniform:
        sentences.append(
            f"{ONE_TIER.capitalize()} does it: {uniform[0].label}; {_sizes_and_loss(uniform[0])}."
        )
    return sentences


def _sizes_and_loss(plan: Size) -> str:
    loss = plan.loss
    return (
        f"its linears are {_smaller(plan.linears)} than {BASE}'s, its whole checkpoint "
        f"{_smaller(plan.whole)}, and it loses {loss.score:.1f} % of the 16-bit mean score, 95 % "
        f"interval {loss.low:.1f} to {loss.high:.1f}"
    )


def _smaller(share: float) -> str:
    """The words for a change of size: `16.8 % smaller`."""
    return f"{abs(100 * share):.1f} % {'smaller' if share <= 0 else 'larger'}"


def _within_promised_loss(table: pd.DataFrame) -> pd.DataFrame:
    return table[~table["collapsed"] & (table["retention"] >= 1 - PROMISE_LOSS / 100)]


def _loss(study: Study, plan: str, reader: Reader) -> Difference | None:
    """A plan against its 16-bit model; None without a run or without answers."""
    runs = runs_of(study, plan)
    return loss(runs, reader) if runs else None


def calibration(comparisons: Sequence[Comparison]) -> list[str]:
    """Multimodal against text-only calibration, in a sentence each."""
    sentences = []
    # the best two sets; the tables hold the others
    for comparison in comparisons[:2]:
        if comparison.a == "text":
            plans = len(comparison.plans)
            sentences.append(
                f"Calibration {comparison.b} {CONTRAST[comparison.pooled.verdict]} text-only "
                f"calibration over {plans} plan{'s' if plans > 1 else ''}: "
                f"{points(comparison.pooled)}."
            )
    return sentences


def orders(comparisons: Sequence[Comparison]) -> list[str]:
    """Entropy against the other orders, whoever wins."""
    against_entropy = [comparison for comparison in comparisons if is_entropy(comparison.a)]
    if not against_entropy:
        return []
    parts = []
    for verdict, verb in CONTRAST_OF_BASE.items():
        names = [c.b for c in against_entropy if c.pooled.verdict == verdict]
        if names:
            parts.append(f"{verb} {', '.join(names)}")
    best = against_entropy[0]
    sentence = f"Ascending {best.a} {'; '.join(parts)}."
    if best.pooled.verdict == "better":
        sentence += f" The best order is {best.b}: {points(best.pooled)} against entropy."
    return [sentence]


def steadiness(measured: Steadinesses) -> list[str]:
    """Which orders are within their noise, and what helps, in sentences."""
    sentences: list[str] = []
    others: list[str] = []
    averaged: list[str] = []
    for entry in measured.entries:
        noise = entry.noise
        if noise is None or not noise.is_noise:
            continue
        is_reverse = entry.config.name.endswith(REVERSE)  # as noisy as the order that it reverses
        if len(sentences) < MOST_NOISY and not is_reverse:
            sentences.append(_noise_sentence(entry, noise, measured.best))
        else:
            others.append(f"{entry.order} by {entry.kind} calibration")
        if entry.can_be_averaged and entry.order not in averaged:
            averaged.append(entry.order)
    if others:
        sentences.append(f"Within their noise, too: {', '.join(others)}.")
    if averaged:
        sentences.append(
            f"order.draws=8 ranks by the mean of eight draws of the calibration set: for "
            f"{', '.join(averaged)}."
        )
    return sentences


def _noise_sentence(entry: Steadiness, noise: Agreement, best: str) -> str:
    """That an order is within its noise, and by which evidence."""
    order = f"The order {entry.order} by {entry.kind} calibration"
    swapped = (
        f"{100 * noise.swapped:.0f} % of the pairs of layers change places "
        "(of two unrelated rankings half of them)"
    )
    beside = ""
    if entry.best is not None and entry.order != best:
        beside = f" Its tau with {best}, the best order, is {entry.best:.2f}."
    if entry.same is not None or entry.halves is not None:
        pairs = f"{noise.pairs} pair{'s' if noise.pairs > 1 else ''}"
        whose = "drawn again" if entry.same is not None else "between halves of its draws"
        return (
            f"{order} is within its noise: {whose}, its Kendall's tau with "
            f"itself is {noise.mean:.2f} ({noise.low:.2f} to {noise.high:.2f}, {pairs}), so that "
            f"{swapped}.{beside}"
        )
    return (
        f"{order} is within the noise of its K-means alone: measured again on the same "
        f"samples, a tau of {noise.mean:.2f} with itself is to be expected, so that "
        f"{swapped}; other samples move it more.{beside}"
    )


def grid(study: Study) -> list[Fact]:
    """The settings that differ between the runs, and their values.

    Of the mixed plans, if there are some: uniform ones are baselines.
    """
    records = [record for record in study.records if is_mixed(record)] or study.records
    tables = [without(settings_of(record.config), "quantizer.tiers") for record in records]
    facts = []
    for name in differing(tables):
        # short ones first, so that numbers are in their order
        values = sorted({str(t.get(name)) for t in tables}, key=lambda value: (len(value), value))
        text = ", ".join(values[:MOST_VALUES])
        facts.append(Fact(name, f"{text} ..." if len(values) > MOST_VALUES else text))
    return facts


def setup(study: Study) -> list[Fact]:
    """What ran, on what, with which versions."""
    records = study.records
    first = records[0]
    sizes = ", ".join(f"{name} {score.n}" for name, score in first.scores.items())
    splits = _distinct(record.split for record in records)
    calibrations: list[str] = []
    for record in records:
        if record.calibration is not None:
            name = record.config.calibration.name
            calibrations.append(f"{name} ({record.calibration.tokens} tokens)")
    versions: dict[str, None] = {}
    for record in records:
        versions |= dict.fromkeys(f"{name} {value}" for name, value in record.versions.items())
    return [
        Fact("model", f"{study.name}, fingerprint {first.model_fingerprint}"),
        Fact("sweeps", _distinct(record.sweep for record in records)),
        Fact("runs", f"{len(records)}, of {len(study.plans)} plans"),
        Fact("questions", f"{splits} split; n = {study.runs['n'].iloc[0]}: {sizes}"),
        Fact("calibration", _distinct(calibrations)),
        Fact("seeds", _distinct(str(record.config.seed) for record in records)),
        Fact("prompts, scorers", f"version {first.prompt_version}, {first.scorer_version}"),
        Fact("commit", _distinct((record.git_sha or "unknown")[:10] for record in records)),
        Fact("device", _distinct(record.device for record in records)),
        Fact("versions", ", ".join(versions)),
    ]


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


PROTOCOL = (
    "Nominal bits are code bits per weight of the decoder's linears, the paper's convention. "
    "Stored bits are 8 x bytes of the layer files / weights: codes, scales, zeros, masks, headers. "
    "The checkpoint adds everything that stays 16-bit.",
    "What is scored is what is stored: before every evaluation the buffers in memory are compared "
    "with the files, bit by bit.",
    "Retention is the score divided by the same model's own 16-bit score on the same questions. "
    "Intervals of single scores are 95 % intervals over questions: Wilson's where a score is a "
    "share of right answers, the bootstrap's where it is none (VQA's soft accuracy, MME's sum), "
    "and for a mean of benchmarks their combination. Those of retention leave out the 16-bit "
    "score's own error.",
    "Changes of size are in percent of the 4-bit plan's (gptq4): minus is smaller.",
    "Comparisons are paired: each question's score is averaged over the runs of either side, the "
    "difference taken, and the questions drawn anew 2,000 times. A difference whose 95 % interval "
    "holds 0 is called a tie. Nothing corrects for many comparisons: of twenty with no difference "
    "one is expected outside.",
    "A benchmark is collapsed where more than 95 % of the answers are one and the same, or most "
    "are gibberish. A plan with half of its benchmarks collapsed is drawn open, and is never on a "
    "front.",
    "Calibration, selection and report questions are disjoint. Scores are those of the split named "
    "above.",
)
WORDS = (
    Fact(
        "layer",
        "one decoder layer of the language model; its linears are q, k, v, o, gate, up, down",
    ),
    Fact("tier", "how the linears of a layer are stored: a method with its bits, such as gptq4"),
    Fact("mix, k", "a plan of two tiers: k layers in the low one, the others in the high one"),
    Fact("uniform", "a plan of one tier in every layer; float16 is the 16-bit model"),
    Fact("order", "which layers go low first; entropy: those whose output vectors vary least"),
    Fact(
        "plan", "the settings of a run but its seeds; runs that differ in seeds alone are averaged"
    ),
    Fact("unit", "what counts once in a score: a question, or all questions of one MME image"),
    Fact("nominal bits", "code bits per weight of the linears, the paper's way of counting"),
    Fact("stored bits", "8 x bytes of the layer files / weights: codes, scales, masks and headers"),
    Fact("whole checkpoint", "the layer files and all that stays 16-bit: embeddings, head, vision"),
    Fact("retention", "a score divided by the same model's 16-bit score on the same questions"),
    Fact(
        "KL", "how far the probabilities of the answers' tokens moved from the 16-bit model's, nats"
    ),
    Fact(
        "top-1",
        "share of the answers' tokens of which the 16-bit model's first choice is this one's",
    ),
    Fact("alpha", "share of image-and-question tokens in the calibration set; 0 is text-only"),
    Fact("interval", "95 %: of a hundred such intervals about five miss the true value"),
)
POCKET = (
    "pocket models have a few million parameters and were trained on a synthetic world. What is "
    "measured on them shows that the software works and that its comparisons can see a difference. "
    "It proves nothing about 7B models: neither that LUQ works there, nor that it does not. Which "
    "order wins, and whether multimodal calibration helps, must be measured again on the model "
    "that you care about."
)
