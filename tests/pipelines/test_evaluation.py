"""What a user does with an evaluation: kill it, go on, score it again, compare two, and meet bad
data.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

from analysis import frame
from luq.evaluation import scorers
from luq.store.sealed import sealed
from pipelines import runs_folder
from pipelines.record import RunRecord
from tests.luq.questions.clones import picture
from tests.pipelines.command import Done
from tests.pipelines.command import luq as command_luq
from tests.pipelines.command import luq_to as luq
from tests.pipelines.test_run import SMALL

ASKED = [*SMALL[:4], "tracking=none", "evaluation.samples=16", "evaluation.batch_size=4", "evaluation.fidelity=4",
         "evaluation.text_tokens=1024", "model.benchmarks=[textvqa,gqa,mme]", "quantizer.high=rtn4"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one sweep, never interrupted."""
    outputs = tmp_path_factory.mktemp("finished")
    done = luq(outputs, "run", "-m", "group=two", "allocation.k=0,6", *ASKED)
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs


def answers(outputs: Path, record: RunRecord, is_float: bool = False) -> dict[str, bytes]:
    keys = record.artefacts.float_answers if is_float else record.artefacts.answers
    folder = outputs / "store" / "evaluation"
    return {name: (folder / key / "answers.jsonl").read_bytes() for name, key in keys.items()}


def partials(outputs: Path) -> list[Path]:
    return list((outputs / "store" / "evaluation").glob(".*.partial.jsonl"))


def test_killed_and_started_again_gives_the_same_bytes_and_asks_nothing_twice(
    finished: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "killed"
    shutil.copytree(
        finished,
        outputs,
        ignore=shutil.ignore_patterns("evaluation", "runs", "sweeps", "fidelity", "reference"),
    )
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        "allocation.k=6",
        *ASKED,
        f"paths.outputs={outputs}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(3000):
        # Stopped while it is looked at: a benchmark could end between the look and the kill.
        os.kill(process.pid, signal.SIGSTOP)
        if any(len(file.read_bytes().splitlines()) >= 4 for file in partials(outputs)):
            break
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = partials(outputs)
    before = left.read_bytes().splitlines(keepends=True)
    assert len(before) >= 4, "it was killed in the middle of a benchmark"
    done = luq(outputs, "run", "allocation.k=6", *ASKED)
    assert done.returncode == 0, done.stderr
    if len(before) < 32:  # else it was killed after the last batch of the largest benchmark
        assert f"{len(before)} of " in done.stdout
        assert "kept from before the interruption" in done.stdout
    assert not partials(outputs)
    (record,) = runs_folder.iterate(outputs)
    expected = next(r for r in runs_folder.iterate(finished, "two") if r.k == 6)
    for is_float in (False, True):
        assert answers(outputs, record, is_float) == answers(finished, expected, is_float)
    assert record.scores == expected.scores
    assert record.fidelity == expected.fidelity


def test_the_record_says_what_was_asked_and_how_sure_it_is(finished: Path) -> None:
    for record in runs_folder.iterate(finished, "two"):
        assert set(record.subset) == {"textvqa", "gqa", "mme"}
        assert record.prompt_version >= 1
        assert record.scorer_version == scorers.VERSION
        rows = [json.loads(line) for line in answers(finished, record)["mme"].splitlines()]
        assert len(rows) == 32
        assert {"id", "text", "doc"} <= set(rows[0])
        for measured in record.fidelity.values():
            assert measured.n >= 4
            for name in ("kl", "agreement", "loglik"):
                mean, low, high = getattr(measured, name)
                assert low <= mean <= high
        assert record.perplexity.low <= record.perplexity.value <= record.perplexity.high
    high, low = sorted(runs_folder.iterate(finished, "two"), key=lambda r: r.k)
    assert high.fidelity["textvqa"].kl.mean < low.fidelity["textvqa"].kl.mean
    assert high.perplexity.value < low.perplexity.value


def test_rescore_changes_nothing_when_nothing_changed(finished: Path) -> None:
    before = {file: file.read_bytes() for file in finished.glob("runs/*/result.json")}
    done = luq_plain(finished, "rescore", "two")
    assert "2 records scored again from kept answers, 0 changed" in done.stdout
    assert {file: file.read_bytes() for file in finished.glob("runs/*/result.json")} == before


def test_rescore_mends_a_score_without_generating(finished: Path, tmp_path: Path) -> None:
    outputs = shutil.copytree(finished, tmp_path / "old")
    file = next(iter(outputs.glob("runs/*/result.json")))
    record = json.loads(file.read_text())
    stale = record | {"scorer_version": 1, "mean_score": 1.0}
    file.write_text(json.dumps(sealed(stale)))
    done = luq_plain(outputs, "rescore")
    assert ", 1 changed" in done.stdout
    assert json.loads(file.read_text()) == record


def test_compare_pairs_two_runs(finished: Path) -> None:
    done = luq_plain(finished, "compare", "two/allocation.k=0", "two/allocation.k=5")
    assert done.returncode == 1
    assert "unknown run of sweep 'two' 'allocation.k=5'" in done.stderr
    done = luq_plain(finished, "compare", "two/allocation.k=0", "two/allocation.k=6")
    assert done.returncode == 0, done.stderr
    names = {r.k: r.name for r in runs_folder.iterate(finished, "two")}
    done = luq_plain(finished, "compare", f"two/{names[0]}", f"two/{names[6]}")
    assert done.returncode == 0, done.stderr
    for word in ("interval", "textvqa", "mean of all", "verdict", f"A: two/{names[0]}"):
        assert word in done.stdout
    assert luq_plain(finished, "compare", "zzz", "two").returncode == 1


def luq_plain(outputs: Path, *arguments: str) -> Done:
    return command_luq(*arguments, "--outputs", str(outputs), width=160)


def test_bad_rows_stand_in_the_record_and_strict_stops(finished: Path, tmp_path: Path) -> None:
    outputs = shutil.copytree(finished, tmp_path / "bad")
    good = {
        "question": "What is the value of UK?",
        "answer": "3",
        "type": "human_test",
        "image": picture(1),
    }
    rows = [good, good | {"image": {"bytes": b"broken", "path": None}}, good | {"answer": ""}, good]
    Dataset.from_list(rows).to_parquet(tmp_path / "chartqa.parquet")
    data = [*ASKED[:4], "tracking=none", "quantizer.high=rtn4", f"evaluation.data={tmp_path}", "evaluation.split=all", "evaluation.fidelity=null",
            "evaluation.text_tokens=0", "model.benchmarks=[chartqa]"]  # fmt: skip
    done = luq(outputs, "run", "allocation.k=6", *data)
    assert done.returncode == 0, done.stderr
    assert "chartqa: 2 of 4 rows were errors and count as wrong" in done.stdout
    assert "mean: 2 of 4 rows were errors" in done.stdout
    (record,) = (r for r in runs_folder.iterate(outputs) if "chartqa" in r.scores)
    assert record.scores["chartqa"].errors == 2
    assert record.scores["chartqa"].n == record.scores["chartqa"].rows == 4
    assert record.fidelity["chartqa"].n == record.fidelity["chartqa"].left_out == 2
    for k in (5, 6):  # new answers, and those that were kept
        strict = luq(outputs, "run", f"allocation.k={k}", "evaluation.strict=true", *data)
        assert strict.returncode == 1
        assert "chartqa row " in strict.stderr
        assert "Traceback" not in strict.stderr


def test_a_benchmark_of_errors_alone_is_not_averaged_in(finished: Path, tmp_path: Path) -> None:
    outputs = shutil.copytree(finished, tmp_path / "all_bad")
    good = {"question": "?", "answer": "3", "type": "human_test", "image": picture(1)}
    broken = good | {"image": {"bytes": b"broken", "path": None}}
    Dataset.from_list([good, good]).to_parquet(tmp_path / "chartqa.parquet")
    Dataset.from_list([broken, broken]).to_parquet(tmp_path / "gqa.parquet")
    page = {"questionId": "1", "question": "?", "answers": ["3"], "image": broken["image"]}
    Dataset.from_list([page]).to_parquet(tmp_path / "docvqa.parquet")
    gqa = good | {"id": "1", "imageId": "1", "image": broken["image"]}
    Dataset.from_list([gqa, gqa]).to_parquet(tmp_path / "gqa.parquet")
    data = [*ASKED[:4], "tracking=none", "quantizer.high=rtn4", f"evaluation.data={tmp_path}", "evaluation.split=all",
            "evaluation.fidelity=0", "evaluation.text_tokens=0", "allocation.k=6"]  # fmt: skip
    done = luq(outputs, "run", *data, "model.benchmarks=[chartqa,docvqa,gqa]")
    assert done.returncode == 0, done.stderr
    assert "mean of 1" in done.stdout
    assert "gqa: 2 of 2 rows were errors and it is not in the mean" in done.stdout
    (record,) = (r for r in runs_folder.iterate(outputs) if "docvqa" in r.scores)
    assert record.mean_score == record.scores["chartqa"].score
    assert frame.run_row(record, record.name)["benchmarks"] == 1
    failed = luq(outputs, "run", *data, "model.benchmarks=[gqa,docvqa]")
    assert failed.returncode == 1
    assert "no row of gqa, docvqa could be asked" in failed.stderr.replace("\n", " ")
