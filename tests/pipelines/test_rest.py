"""Embeddings, head, tower and projector in tiers, through the command that people type."""

import json
from pathlib import Path

import pytest

from analysis.frame import run_row
from luq.errors import ConfigError
from luq.export import checksums
from luq.formats.layer_file import FILE
from luq.planning import LayerScores, RunEvidence
from luq.quantization.artefacts import PackedPart
from luq.store.store import Store
from pipelines import runs_folder
from pipelines.checkpoints import export
from pipelines.cost import Work
from pipelines.graph import Graph
from pipelines.record import RunRecord, from_json, to_json
from pipelines.schema import to_config
from tests.luq.models import tiny_families
from tests.pipelines.command import Done
from tests.pipelines.command import luq_to as luq
from tests.pipelines.test_schema import composed

SMALL = [
    "calibration.tokens=1024", "evaluation.samples=4", "evaluation.text_tokens=512", "tracking=none",
    "evaluation.benchmarks=[gqa]", "evaluation.fidelity=0", "allocation=uniform", "quantizer.high=rtn4",
]  # fmt: skip
PARTS = [
    "quantizer.embeddings=gptq3", "quantizer.head=gptq2", "quantizer.projector=trellis2",
    "allocation.vision.tiers=[rtn4,rtn3]", "allocation.vision.bits=4",
    "+quantizer.tiers.rtn3={method:rtn,bits:3}", "quantizer.tiers.gptq3.clip_steps=0",
    "quantizer.tiers.gptq3.descent=0", "quantizer.tiers.gptq2.clip_steps=0",
]  # fmt: skip


def graph(outputs: Path, *overrides: str) -> Graph:
    return Graph(to_config(composed(*SMALL, *overrides)), outputs / "store", download=False)


@pytest.fixture(scope="module")
def run(outputs: Path) -> Done:
    return luq(outputs, "run", "group=rest", *SMALL, *PARTS)


@pytest.fixture(scope="module")
def record(run: Done, outputs: Path) -> RunRecord:
    assert run.returncode == 0, run.stdout + run.stderr
    (record,) = runs_folder.iterate(outputs, "rest")
    return record


def test_the_ledger_counts_the_packed_rest_to_the_byte(record: RunRecord, outputs: Path) -> None:
    memory = record.memory
    assert sum(memory.ledger.values()) == memory.checkpoint_bytes
    assert set(record.artefacts.parts) == {"embeddings", "head", "vision", "projector"}
    for part, key in record.artefacts.parts.items():
        counted = sum(n for name, n in memory.ledger.items() if name.startswith(f"{part} "))
        assert counted == (outputs / "store" / "parts" / key / FILE).stat().st_size
    assert "embeddings" not in memory.ledger, "all of it is packed"
    assert memory.rest_bytes < 0.4 * 2_301_184, "of the 16-bit rest"
    assert memory.stored_bytes + memory.rest_bytes == memory.checkpoint_bytes


def test_the_packed_rest_is_scored_and_the_baseline_is_16_bit(
    record: RunRecord, outputs: Path
) -> None:
    plain = luq(outputs, "run", "group=plain", *SMALL)
    assert plain.returncode == 0, plain.stderr
    (other,) = runs_folder.iterate(outputs, "plain")
    assert other.artefacts.layers == record.artefacts.layers, "layers do not depend on the rest"
    assert other.artefacts.float_answers == record.artefacts.float_answers
    assert other.artefacts.answers != record.artefacts.answers
    assert other.key != record.key
    assert other.perplexity is not None
    assert record.perplexity is not None
    assert record.perplexity.float_value == other.perplexity.float_value
    assert record.perplexity.value > 1.02 * other.perplexity.value, "a head of 2 bits"
    assert other.artefacts.parts == {}


def test_a_run_says_what_its_rest_is_in(run: Done, record: RunRecord, tmp_path: Path) -> None:
    assert "embeddings in gptq3" in run.stdout
    assert record.vision is not None
    assert f"vision in {record.vision}" in " ".join(run.stdout.split())
    assert record.part_tiers["vision"] == str(record.vision)
    assert record.part_tiers["projector"] == "trellis2"
    assert (
        f"embeddings in gptq3, head in gptq2, projector in trellis2, vision in {record.vision}"
        == (run_row(record, "rest")["beside"])
    )
    export(Path(record.config.paths.outputs), record, tmp_path / "exported")
    about = checksums.verify(tmp_path / "exported")
    assert about.run is not None
    assert about.run.parts == record.part_tiers


def test_the_tower_is_planned_within_its_budget(record: RunRecord, outputs: Path) -> None:
    plan = record.vision
    assert plan is not None
    assert set(plan.tiers) == {"rtn4", "rtn3"}
    assert plan.other_tier is None
    file = outputs / "store" / "parts" / record.artefacts.parts["vision"] / FILE
    assert plan.bytes == file.stat().st_size <= plan.budget_bytes == plan.weights * 4 // 8
    assert from_json(json.loads(json.dumps(to_json(record)))).vision == plan


def test_the_second_time_the_rest_comes_from_the_store(record: RunRecord, outputs: Path) -> None:
    again = luq(outputs, "run", "group=rest", *SMALL, *PARTS)
    assert " 0 made" in again.stdout


def test_parts_know_what_they_depend_on(outputs: Path) -> None:
    def parts(*overrides: str) -> dict[str, PackedPart]:
        return {part.part: part for part in graph(outputs, *overrides).parts(None)}

    both = parts("quantizer.vision=gptq4", "quantizer.projector=gptq4")
    alone = parts("quantizer.projector=gptq4")
    assert both["projector"].before == (both["vision"],)
    assert alone["projector"] != both["projector"], "it is packed for what the tower gives"
    free = parts("quantizer.vision=rtn4", "quantizer.embeddings=gptq4")
    assert free["vision"].calibration is None
    assert free["embeddings"].calibration is None, "rows that are looked up see no inputs"
    assert parts("quantizer.head=gptq4")["head"].calibration is not None
    assert parts() == {}
    assert graph(outputs).key != graph(outputs, "quantizer.head=gptq4").key


def test_a_planned_tower_is_that_of_its_tiers(outputs: Path) -> None:
    """Whoever asks for it: in one tier it is what `quantizer.vision` gives."""
    budget = ["allocation.vision.tiers=[gptq4,trellis2]", "allocation.vision.bits=3"]
    run = graph(outputs, *budget, "quantizer.projector=gptq4")
    (uniform,) = graph(outputs, "quantizer.vision=gptq4").parts(None)
    assert run.tower({"a": "gptq4", "b": "gptq4"}) == run.uniform_towers[0] == uniform
    mixed = run.tower({"a": "gptq4", "b": "trellis2", "c": "gptq4"})
    assert mixed != uniform
    assert mixed.description == "vision in gptq4+trellis2"
    assert mixed.tiers.of_linear("b") == run.config.quantizer.tiers["trellis2"]
    assert mixed.tiers.of_linear("c") == run.config.quantizer.tiers["gptq4"]
    tower, projector = run.parts(mixed)
    assert tower == mixed
    assert projector.before == (mixed,)
    assert run.is_calibrated
    others = [budget[0], "allocation.vision.bits=3.5"], [*budget, "quantizer.tiers.gptq4.block=64"]
    keys = {graph(outputs, *overrides).key for overrides in [[], budget, *others]}
    assert len(keys) == 4
    free = graph(outputs, "allocation.vision.tiers=[rtn4,float16]", "allocation.vision.bits=9")
    assert free.is_calibrated, "errors of blocks are measured with images"


def test_what_the_plan_of_a_tower_needs_is_counted_before_it_runs(outputs: Path) -> None:
    work = Work()
    budget = ["allocation.vision.tiers=[gptq4,trellis2]", "allocation.vision.bits=3"]
    work.add_run(graph(outputs, *budget), Store(outputs / "empty"))
    assert work.is_bound
    assert {kind: len(pieces) for kind, pieces in work.pieces.items()} == {
        "questions": 1,
        "calibration sets": 1,
        "parts gptq4": 1,
        "parts trellis2": 1,
        "layers rtn4": 10,
        "layers float16": 10,
        "answers gqa": 2,  # of the 16-bit model, too
        "perplexity": 2,
    }


def test_a_budget_of_bytes_is_of_the_whole_file_with_the_packed_rest(
    record: RunRecord, outputs: Path
) -> None:
    """1.75 MB hold no 4-bit decoder beside a 16-bit rest of 2.3 MB, but one beside this rest."""
    budget = ["allocation=budget", "allocation.bytes=1.75MB", "quantizer.low=rtn4"]
    with pytest.raises(ConfigError, match=r"allocation.bytes=1.75MB is not possible"):
        graph(outputs, *budget)
    fits = graph(outputs, *budget, *PARTS)
    evidence = RunEvidence(LayerScores(fits, Store(outputs / "store").peek))
    assert evidence.rest_bytes() == record.memory.rest_bytes


def test_a_tied_head_follows_the_embeddings(tmp_path: Path) -> None:
    folder = tiny_families.write(tmp_path / "gemma2", "gemma2")
    text = [
        f"model.path={folder}",
        "model=own",
        "calibration=text",
        "evaluation.benchmarks=[]",
        "calibration.sample_tokens=128",
    ]
    with pytest.raises(ConfigError, match=r"quantizer.head=gptq4 .*tied to the embeddings"):
        graph(tmp_path, *text, "quantizer.head=gptq4")
    with pytest.raises(ConfigError, match=r"quantizer.vision=rtn4 .*sees no images"):
        graph(tmp_path, *text, "quantizer.vision=rtn4")
    budget = ["allocation.vision.tiers=[rtn4,gptq8]", "allocation.vision.bits=5"]
    with pytest.raises(ConfigError, match=r"vision.tiers=\[rtn4,gptq8\] .*sees no images"):
        graph(tmp_path, *text, *budget)
    tied = graph(tmp_path, *text, "quantizer.head=gptq4", "quantizer.embeddings=gptq4")
    (part,) = tied.parts(None)
    assert part.part == "embeddings"
    assert part.calibration is not None, "the head's inputs are looked at"


def test_a_part_without_linears_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = tiny_families.write(tmp_path / "gemma3", "gemma3")
    own = [
        f"model.path={folder}",
        "model=own",
        "calibration.source=pocket",
        "calibration.sample_tokens=128",
    ]
    with pytest.raises(ConfigError, match=r"quantizer.projector=rtn4 .*no linears there"):
        graph(tmp_path, *own, "quantizer.projector=rtn4")
