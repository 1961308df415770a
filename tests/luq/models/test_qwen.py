"""Qwen2.5-VL with random weights through every stage: what is peculiar to it is M-RoPE, image
grids and its processor.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import CalibrationConfig, LayerTiers, ModelConfig, RtnTier
from luq.formats.layer_file import FILE, write_layer
from luq.models.image_tokens import ImageTokens
from luq.models.vlm import VLM, load_vlm
from luq.quantization.layer import quantize_layer
from luq.quantization.states import first_inputs, pass_through
from pipelines import runs_folder
from tests.conftest import pocket_samples
from tests.luq.models.tiny_qwen import write
from tests.pipelines.command import luq


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def qwen(folder: Path) -> VLM:
    return load_vlm(ModelConfig("tiny_qwen", str(folder), device="cpu", max_pixels=12544))


@pytest.fixture(scope="module")
def calibration(qwen: VLM) -> CalibrationSet:
    return pocket_samples(
        qwen,
        CalibrationConfig(
            name="multimodal", alpha=0.5, tokens=1024, benchmarks=["chartqa", "docvqa"]
        ),
    )


def test_image_tokens_are_those_of_the_grid(qwen: VLM, calibration: CalibrationSet) -> None:
    pictures = [s for s in calibration.samples if s.multimodal]
    assert pictures
    for sample in pictures:
        merged = (
            sample.extra["image_grid_thw"].prod() // qwen.processor.image_processor.merge_size**2
        )
        assert int(sample.image_mask.sum()) == int(merged)
    assert len(qwen.layers) == 3
    assert calibration.alpha == pytest.approx(0.5, abs=0.1)


def test_pixel_limits_bound_the_tokens(folder: Path) -> None:
    from PIL import Image

    image, counts = Image.new("RGB", (500, 300)), []
    for limit in (12544, 50176):
        processor = load_vlm(
            ModelConfig("tiny_qwen", str(folder), device="cpu", max_pixels=limit)
        ).processor
        counts.append(
            int(
                processor.image_processor(images=[image], return_tensors="pt")[
                    "image_grid_thw"
                ].prod()
            )
            // 4
        )
        assert counts[-1] <= limit // 28**2
        assert ImageTokens(processor).count(*image.size) == counts[-1]
    assert counts[0] < counts[1]


def test_an_image_that_the_processor_refuses_counts_nothing(qwen: VLM) -> None:
    assert ImageTokens(qwen.processor).count(2, 3000) == 0, "an aspect ratio beyond 200"


@torch.no_grad()
def test_layer_by_layer_is_the_model(qwen: VLM, calibration: CalibrationSet) -> None:
    """The captured rotary positions are those of text and image grid: the walk's outputs are the
    model's own, bit for bit.
    """
    wanted: list[list[torch.Tensor]] = [[] for _ in qwen.layers]
    hooks = [
        layer.register_forward_hook(
            lambda m, a, out, i=i: wanted[i].append(out[0] if isinstance(out, tuple) else out)
        )
        for i, layer in enumerate(qwen.layers)
    ]
    for batch in calibration.batches():
        qwen.model(**inputs_of(batch, qwen.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    states = first_inputs(qwen, calibration)
    for i, layer in enumerate(qwen.layers):
        pass_through(layer, states)
        assert all(torch.equal(s.hidden, w) for s, w in zip(states, wanted[i], strict=True))


@pytest.mark.parametrize(
    ("stream", "tied"),
    [(False, False), (True, False), (True, True)],
    ids=["memory", "streamed", "tied head"],
)
def test_the_whole_chain_to_a_folder_that_answers(
    folder: Path, tmp_path: Path, stream: bool, tied: bool
) -> None:
    from PIL import Image

    from pipelines.chat import answer, load

    if tied:
        folder = write(tmp_path / "tied", tied=True)
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert not [n for n in file.keys() if "lm_head" in n]  # noqa: SIM118
    given = [
        "model=pocket_qwen", f"model.path={folder}", "model.name=tiny_qwen", "model.max_pixels=12544", "calibration.tokens=2048", "allocation.k=1",
        f"model.stream={stream}",
        "profile.tokens=256", "profile.clusters=10", "evaluation.samples=4", "evaluation.fidelity=2", "tracking=none",
        "evaluation.text_tokens=1024", "evaluation.benchmarks=[gqa,docvqa]", "checkpoint=true", f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    done = luq("run", *given)
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(tmp_path)
    assert record.allocation.count("billm") == 1
    assert {e.modality for e in record.profile} == {"all", "image", "text"}
    assert sum(record.memory.ledger.values()) == record.memory.checkpoint_bytes
    assert {"vision", "projector"} <= set(record.memory.ledger)
    exported = tmp_path / "checkpoints" / record.key
    told = json.loads((exported / "luq.json").read_text())
    assert told["file_bytes"] == sum(f.stat().st_size for f in exported.glob("*.safetensors"))
    assert ("head" in told["ledger"]) == (not tied), "tied weights are stored once"
    for part in ("codes", "scales", "masks", "vision", "projector", "embeddings", "norms"):
        assert told["ledger"][part] >= record.memory.ledger[part], part
    Image.new("RGB", (500, 300), "red").save(tmp_path / "red.png")
    model, processor = load(exported, "cpu")
    grid = processor.image_processor(
        images=[Image.open(tmp_path / "red.png")], return_tensors="pt"
    )["image_grid_thw"]
    assert int(grid.prod()) * 14**2 <= 12544, "the folder has the run's pixel limit"
    assert isinstance(
        answer(model, processor, tmp_path / "red.png", "what colour is this?", 4, "Be brief."), str
    )


@pytest.fixture(scope="module", params=["qwen", "llava"])
def streamed(request: pytest.FixtureRequest, folder: Path) -> tuple[VLM, VLM]:
    """A model whose layers stay on disk, and the same in memory."""
    path, limit = (str(folder), 12544) if request.param == "qwen" else ("pocket:pocket_llava", None)
    one, two = (
        load_vlm(ModelConfig("m", path, device="cpu", max_pixels=limit, stream=stream))
        for stream in (True, False)
    )
    return one, two


def test_a_streamed_model_leaves_its_layers_on_disk(streamed: tuple[VLM, VLM]) -> None:
    vlm, whole = streamed
    assert {p.device.type for p in vlm.layers.parameters()} == {"meta"}
    assert {p.device.type for p in vlm.model.parameters()} == {"meta"}, (
        "on a CPU all the rest waits on disk too"
    )
    for layer in range(len(vlm.layers)):
        for (name, mine), theirs in zip(
            vlm.original(layer).items(), whole.original(layer).values(), strict=True
        ):
            assert torch.equal(mine.float(), theirs.float()), name
            one, two = vlm.bias(layer, name), whole.bias(layer, name)
            assert (one is None and two is None) or torch.equal(one.float(), two.float())
    assert {p.device.type for p in vlm.layers.parameters()} == {"meta"}, (
        "and they are there again afterwards"
    )


@torch.no_grad()
def test_streamed_layers_walk_like_the_streamed_model(streamed: tuple[VLM, VLM]) -> None:
    vlm, _ = streamed
    samples = pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=512))
    wanted: list[torch.Tensor] = []
    hook = vlm.layers[-1].register_forward_hook(
        lambda m, a, out: wanted.append(out[0] if isinstance(out, tuple) else out)
    )
    for batch in samples.batches():
        vlm.model(**inputs_of(batch, vlm.device), use_cache=False)
    hook.remove()
    states = first_inputs(vlm, samples)
    for layer in vlm.layers:
        pass_through(layer, states)
    assert all(torch.equal(s.hidden, w) for s, w in zip(states, wanted, strict=True))


def test_what_needs_no_data_is_packed_the_same(streamed: tuple[VLM, VLM], tmp_path: Path) -> None:
    tier = RtnTier(bits=4, group_size=64)
    for place, vlm in zip((tmp_path / "a", tmp_path / "b"), streamed, strict=True):
        place.mkdir()
        write_layer(place, quantize_layer(vlm, 1, LayerTiers(tier), None))
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_gradients_of_a_streamed_model_are_refused(folder: Path, tmp_path: Path) -> None:
    given = [
        "model=pocket_qwen",
        f"model.path={folder}",
        "model.stream=true",
        "order=delta_loss",
        "calibration.tokens=512",
        f"paths.outputs={tmp_path}",
    ]
    words = ["calibration.sample_tokens=64", "allocation.k=1", *given]
    done = luq("quantize", *words)
    assert done.returncode == 1
    assert (
        "delta_loss needs the gradients of all layers at once: model.stream=false"
        in done.stderr.replace("\n", " ")
    )
    assert not (tmp_path / "store" / "layers").exists(), "said before anything is packed"
