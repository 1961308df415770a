from pathlib import Path

from analysis import compare, findings, frame
from analysis.loading import load
from analysis.pareto import pareto_info
from pipelines.record import RunRecord
from tests.analysis.conftest import Keep, studied
from tests.analysis.synthetic import LAYERS, REST, ladder, mixed, record


def headline_of(outputs: Path, records: list[RunRecord]) -> str:
    study = studied(outputs, records)
    return " ".join(findings.headline(study, pareto_info(study), compare.Reader(outputs)))


def test_the_smallest_plan_that_keeps_90_percent(tmp_path: Path) -> None:
    text = headline_of(tmp_path, [*ladder(), mixed(2, 74.0), mixed(4, 50.0)])
    assert "smallest plan within 10 % of the 16-bit score is gptq3" in text
    assert "keeps 95.0 %" in text
    assert "smallest mix of tiers that does is k=2" in text
    assert "does not hold here" in text


def test_the_promise_kept_by_the_whole_file(tmp_path: Path) -> None:
    four = next(r for r in ladder() if r.name == "gptq4").memory.checkpoint_bytes
    tiny = record("tiny", ["billm"] * 7 + ["gptq4"], 75.0, checkpoint_bytes=int(0.55 * four))
    text = headline_of(tmp_path, [*ladder(), tiny])
    assert "under 10 % loss, holds here. tiny: its linears" in text
    assert "smallest plan within 10 % of the 16-bit score is tiny" in text


def test_the_promise_kept_by_the_linears_only(tmp_path: Path) -> None:
    four = next(r for r in ladder() if r.name == "gptq4").memory.stored_bytes
    small = record(
        "small", ["billm"] * 7 + ["gptq4"], 75.0, checkpoint_bytes=int(0.58 * four) + REST
    )
    assert "holds here for the decoder's linears, not for the whole file" in headline_of(
        tmp_path, [*ladder(), small]
    )


def test_without_a_4_bit_run_no_claim_is_checked(tmp_path: Path) -> None:
    assert "run experiment=gptq4" in headline_of(tmp_path, [mixed(2, 75.0)])


def test_nothing_good_enough(tmp_path: Path) -> None:
    without = [r for r in ladder() if r.name == "gptq2"]
    text = headline_of(tmp_path, [*without, mixed(2, 30.0)])
    assert "is float16" in text  # every record knows its 16-bit model
    assert "cannot be tested" in text
    text = headline_of(tmp_path / "b", [*ladder(), mixed(2, 30.0)])
    assert "does not hold here. k=2: its linears are 5.4 % smaller than gptq4's" in text
    assert "it loses 62.5 % of the 16-bit mean score" in text


def test_a_plan_of_one_tier_does_not_keep_the_promise_on_mixes(tmp_path: Path) -> None:
    four = next(r for r in ladder() if r.name == "gptq4").memory.checkpoint_bytes
    tiny = record("tiny", ["gptq2"] * LAYERS, 75.0, checkpoint_bytes=int(0.55 * four))
    others = [r for r in ladder() if r.name != "gptq2"]
    text = headline_of(tmp_path, [*others, tiny])
    assert "is not tested: no mix of layers is here" in text
    text = headline_of(tmp_path, [*others, tiny, mixed(2, 74.0)])
    assert "does not hold here. k=2: its linears are 5.4 % smaller" in text
    assert "One tier everywhere does it: gptq2" in text


def test_a_loss_that_may_be_above_the_limit_keeps_no_promise(tmp_path: Path) -> None:
    four = next(r for r in ladder() if r.name == "gptq4").memory.checkpoint_bytes
    tiny = record("tiny", ["billm"] * 7 + ["gptq4"], 73.0, checkpoint_bytes=int(0.55 * four))
    text = headline_of(tmp_path, [*ladder(), tiny])
    assert "cannot be told here: the interval of the loss holds 10 %. tiny" in text


def test_collapsed_plans_are_no_finding(tmp_path: Path) -> None:
    odd = record("odd", ["gptq2"] * LAYERS, 79.0, collapsed="most answers are gibberish")
    assert "odd" not in headline_of(tmp_path, [*ladder(), odd])


def test_who_wins_is_said_with_its_interval(tmp_path: Path, keep: Keep) -> None:
    scores = {"gqa": 50.0}
    keep(mixed(2, scores), "1000" * 10)
    keep(mixed(2, scores, **{"order.name": "lim"}), "1111" * 10)
    keep(mixed(2, scores, **{"order.name": "zd"}), "0000" * 10)
    keep(mixed(2, scores, **{"order.name": "depth"}), "1000" * 10)
    keep(mixed(2, scores, **{"calibration.name": "text"}), "0000" * 10)
    study = frame.studies(load(tmp_path))[0]
    reader = compare.Reader(tmp_path)
    (text,) = findings.orders(compare.along(study, "order", reader))
    verdicts = "Ascending entropy loses to lim; beats zd; ties with depth."
    assert text.startswith(f"{verdicts} The best order is lim: +75.0 points")
    (text,) = findings.calibration(compare.along(study, "calibration", reader))
    assert (
        "multimodal 0.5 beats text-only calibration over 1 plan: +25.0 points, 95 % interval over"
        in text
    )
    assert findings.orders([]) == findings.calibration([]) == []


def test_what_differs_between_the_runs(tmp_path: Path) -> None:
    runs = [
        mixed(k, 50.0, seed=s, **{"order.name": o})
        for k in (2, 4)
        for s in (0, 1)
        for o in ("lim", "entropy")
    ]
    grid = dict(findings.grid(studied(tmp_path, runs)))
    assert grid == {"order.name": "lim, entropy", "allocation.k": "2, 4", "seed": "0, 1"}
    setup = dict(findings.setup(frame.studies(load(tmp_path))[0]))
    assert setup["runs"] == "8, of 4 plans"
    assert "n = 150: gqa 50, mme 50, pope 50" in setup["questions"]
    assert setup["commit"] == "abcdef0123"
