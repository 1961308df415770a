import subprocess
import sys
from pathlib import Path

import pytest

from analysis import frame
from luq import results
from luq.errors import DataError


def record(name: str, tier: str, stored: int, score: float, finished: float = 0.0, low: int = 0) -> dict:
    tiers = ["billm"] * low + [tier] * (4 - low)
    entry = {"score": score, "stderr": 3.0, "n": 50, "collapsed": "", "errors": 0, "retention": score / 80}
    if score < 5:
        entry["collapsed"] = "'yes' to nearly every question"
    measured = {"n": 50, "kl": [0.5, 0.4, 0.6], "agreement": [0.9, 0.8, 0.95], "loglik": [-1.0, -1.2, -0.8]}
    memory = {"nominal_bits": 4.0, "stored_bits": 8 * stored / 1000, "stored_bytes": stored, "rest_bytes": 100}
    return {
        "key": f"{name}{finished:.0f}", "name": name, "sweep": "demo", "tiers": tiers, "allocation": "x", "k": low,
        "config": {"model": {"name": "m"}, "calibration": {"name": "multimodal"}, "order": {"name": "entropy"}},
        "memory": memory | {"checkpoint_bytes": stored + 100}, "scores": {"gqa": entry, "pope": entry},
        "fidelity": {"gqa": measured, "pope": measured | {"kl": [0.1, 0, 1]}} if score < 79 else {}, "perplexity": None,
        "mean_score": score, "float_mean_score": 80.0, "mean_retention": score / 80, "wall_seconds": 1.0, "finished": finished,
    }  # fmt: skip


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    runs = [
        record("float16", "float16", 2000, 80), record("gptq4", "gptq4", 500, 78), record("luq_k2", "gptq4", 400, 60, low=2),
        record("billm", "billm", 300, 3), record("gptq4", "gptq4", 520, 70, finished=-5),
    ]  # fmt: skip
    for run in runs:
        results.write(tmp_path, run)
    return tmp_path


def test_smallest_first_and_only_the_latest_of_a_name(filled: Path) -> None:
    runs = frame.against(frame.load(filled, "demo"))
    assert list(runs["name"]) == ["billm", "luq_k2", "gptq4", "float16"]
    row = runs.set_index("name")
    assert row.loc["gptq4", "stored_bytes"] == 500
    assert row.loc["luq_k2", "linears_saved"] == pytest.approx(0.2)
    assert row.loc["luq_k2", "checkpoint_saved"] == pytest.approx(100 / 600)
    assert row.loc["gptq4", "linears_saved"] == 0
    assert row.loc["gptq4", "stderr"] == pytest.approx((9 + 9) ** 0.5 / 2)
    assert row.loc["billm", "collapsed"] == 2
    assert row.loc["luq_k2", "mixed"]
    assert row.loc["luq_k2", "kl"] == pytest.approx(0.3)
    assert row["kl"].isna().sum() == 1
    assert row["perplexity"].isna().all()
    assert not row.loc["billm", "mixed"]


def test_without_a_4_bit_run_nothing_is_compared(filled: Path) -> None:
    runs = frame.load(filled, "demo")
    assert frame.against(runs[runs["name"] != "gptq4"])["linears_saved"].isna().all()


def test_an_empty_sweep_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `luq sweep demo` first"):
        frame.load(tmp_path, "demo")


def test_table_and_figure(filled: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "demo", "--outputs", str(filled)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("billm") < done.stdout.index("luq_k2") < done.stdout.index("gptq4")
    png = (filled / "sweeps" / "demo" / "retention.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
    failed = subprocess.run(
        [sys.executable, "-m", "analysis", "nothing", "--outputs", str(filled)], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "no finished run" in failed.stderr
