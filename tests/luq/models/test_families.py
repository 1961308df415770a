"""Every family through every stage: profiled, quantized, asked, exported, loaded again.

The models have few layers and random weights, but are transformers' own, as are their processors.
`docs/families.md` says which test shows what.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from luq.allocation.allocations import Allocation
from luq.calibration.mixing import AskedQuestion, build
from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import CalibrationConfig, GptqTier, LayerTiers, ModelConfig, TrellisTier
from luq.errors import DataError, ModelError
from luq.evaluation.ask import make_lm
from luq.evaluation.perplexity import text_losses
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import write_layer
from luq.formats.linear import PackedLinear
from luq.models.families import FAMILIES
from luq.models.image_tokens import ImageTokens
from luq.models.loading import model_class
from luq.models.processors import encode_chats, load_processor
from luq.models.vlm import VLM, load_vlm
from luq.profiling.capture import layer_outputs
from luq.profiling.entropy import profile_entropy
from luq.profiling.scores import forward_scores, weight_scores
from luq.quantization.layer import quantize_layer
from luq.quantization.states import Passage, State, first_inputs, pass_through
from luq.quantization.walk import Walk, assert_installed, install
from luq.questions.text import text_source
from tests.luq.models import tiny_families

TIERS = {"gptq4": GptqTier(bits=4, group_size=32), "trellis2": TrellisTier(bits=2)}
# The pictures have different shapes: families that take them as they are get other tokens for each.
ONE_TOKEN_IMAGES = ("mllama", "minicpmv4_6")  # one or few tokens each: they need more pictures
SHAPES = ((60, 90), (90, 60), (64, 64), (120, 60))


class Family(NamedTuple):
    """A family's checkpoint, loaded, and what it is calibrated on."""

    name: str
    folder: Path
    vlm: VLM
    samples: CalibrationSet


class Packed(NamedTuple):
    """A family's model with all layers packed, and the folder it was exported to."""

    layers: list[Path]
    logits: torch.Tensor
    exported: Path


def _pictures() -> Any:
    generator = torch.Generator().manual_seed(0)
    for index, (width, height) in enumerate(SHAPES * 10):
        pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(pixels.numpy())
        yield AskedQuestion(f"picture {index}", image, f"What is in picture {index}?")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    name: str = request.param
    if name in ("mistral3", "lfm2_vl"):
        pytest.importorskip("torchvision", reason="transformers' processor of this family needs it")
    if name == "smolvlm":
        pytest.importorskip("num2words", reason="transformers' SmolVLM processor needs it")
    folder = tiny_families.write(tmp_path_factory.mktemp(name) / name, name)
    vlm = load_vlm(ModelConfig(name, str(folder), device="cpu"))
    alpha = 0.5 if vlm.sees_images else 0.0
    tokens = 1024 if name in ONE_TOKEN_IMAGES else 256
    config = CalibrationConfig("mixed", alpha=alpha, tokens=tokens, sample_tokens=32)
    samples = build(vlm, config, _pictures(), text_source("pocket", "calibration"))
    return Family(name, folder, vlm, samples)


def test_a_picture_is_as_long_as_its_size_says(family: Family) -> None:
    """But for a number of tokens that all pictures have, or that lie between tiles."""
    processor = family.vlm.processor
    if processor.image_token is None:
        return
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "luq?"}]}
    chat: str = processor.apply_chat_template([question], add_generation_prompt=True)
    known = ImageTokens(processor)
    lengths: dict[int, set[int]] = {}
    for width, height in SHAPES:
        encoded = encode_chats(processor, [chat], [[Image.new("RGB", (width, height))]])
        count = known.count(width, height)
        lengths.setdefault(count, set()).add(encoded["input_ids"].shape[1])
    assert min(lengths) > 0
    assert all(len(same) == 1 for same in lengths.values())
    in_order = [same.pop() for _, same in sorted(lengths.items())]
    assert in_order == sorted(in_order)


def test_every_family_is_tried() -> None:
    assert set(FAMILIES) == set(tiny_families.FAMILIES)


@torch.no_grad()
def test_layers_one_by_one_are_the_model(family: Family) -> None:
    """Masks, rotary embeddings and what is added between layers: bit for bit the model's own."""
    vlm = family.vlm
    expected: list[list[torch.Tensor]] = [[] for _ in vlm.layers]
    hooks = []
    for index, layer in enumerate(vlm.layers):

        def keep(module: Any, arguments: Any, output: Any, index: int = index) -> None:
            expected[index].append(output[0] if isinstance(output, tuple) else output)

        hooks.append(layer.register_forward_hook(keep))
    for batch in family.samples.batches():
        vlm.model(**inputs_of(batch, vlm.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    states = first_inputs(vlm, family.samples)
    for index, layer in enumerate(vlm.layers):
        outputs = [state.output(layer) for state in states if state.is_called]
        assert len(outputs) == len(expected[index]) > 0
        for output, own in zip(outputs, expected[index], strict=True):
            assert torch.equal(output, own), f"layer {index}"
        pass_through(layer, states)


def test_image_tokens_are_told_from_text(family: Family) -> None:
    images = [sample for sample in family.samples.samples if sample.multimodal]
    assert bool(images) == family.vlm.sees_images
    for sample in family.samples.samples:
        assert 0 <= int(sample.image_mask.sum()) < sample.tokens
    if images:
        assert family.samples.alpha == pytest.approx(0.5, abs=0.2)


def test_profile(family: Family) -> None:
    outputs = layer_outputs(family.vlm, family.samples, tokens=100, seed=0)
    table = profile_entropy(outputs, clusters=2, seeds=1, seed=0)
    modalities = {"all", "image", "text"} if family.vlm.sees_images else {"all", "text"}
    assert {entry.modality for entry in table} == modalities
    assert {entry.layer for entry in table} == set(range(len(family.vlm.layers)))
    for scores in forward_scores(family.vlm, family.samples).values():
        for values in scores.values():
            assert len(values) == len(family.vlm.layers)
    assert all(len(values) == len(outputs) for values in weight_scores(family.vlm).values())


@pytest.fixture(scope="module")
def packed(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Even layers in 4 bits, odd ones in 2, each for what the packed layers before it give."""
    vlm = family.vlm
    root = tmp_path_factory.mktemp("layers")
    walk = Walk(vlm, family.samples, root)
    layers: list[Path] = []
    tiers: list[str] = []
    for index in range(len(vlm.layers)):
        tier = list(TIERS)[index % 2]
        folder = root / f"layer{index}"
        folder.mkdir()
        states = walk.inputs(index, layers)
        write_layer(folder, quantize_layer(vlm, index, LayerTiers(TIERS[tier]), states))
        layers.append(folder)
        tiers.append(tier)
    install(vlm, layers)
    logits = _logits(vlm.model, family.samples)
    vlm.restore()
    exported = export(
        PackedModel(family.folder, layers, Allocation(tuple(tiers))), root / "exported"
    )
    return Packed(layers, logits, exported)


@torch.no_grad()
def _logits(model: Any, samples: CalibrationSet) -> torch.Tensor:
    has_images = samples.alpha > 0
    batch = next(batch for batch in samples.batches() if batch[0].multimodal == has_images)
    logits: torch.Tensor = model(**inputs_of(batch, torch.device("cpu")), use_cache=False).logits
    return logits


def test_quantize(family: Family, packed: Packed) -> None:
    """All linears of the decoder are packed, and the model answers with them."""
    vlm = family.vlm
    own = _logits(vlm.model, family.samples)
    install(vlm, packed.layers)
    try:
        assert_installed(vlm, packed.layers)
        modules = list(vlm.layers.modules())
        assert not [module for module in modules if type(module) is torch.nn.Linear]
    finally:
        vlm.restore()
    assert not torch.equal(packed.logits, own)
    error = (packed.logits - own).norm() / own.norm()
    assert float(error) < 1, "packed weights are near the 16-bit ones"


def test_evaluate(family: Family, packed: Packed) -> None:
    vlm = family.vlm
    install(vlm, packed.layers)
    try:
        if vlm.sees_images:
            _ask(vlm)
        losses = text_losses(vlm, torch.arange(10, 74).view(2, 32))
        assert len(losses) == 2
        assert all(0 < loss < 20 for loss in losses)
    finally:
        vlm.restore()


def _ask(vlm: VLM) -> None:
    """Two questions in one batch get the answers that each gets alone."""
    together = _answers(vlm, 2)
    assert len(together) == 2
    assert together == _answers(vlm, 1)


def _answers(vlm: VLM, batch_size: int) -> list[str]:
    from lm_eval.api.instance import Instance

    from luq.evaluation.predictions import Predictions

    lm = make_lm(vlm, batch_size)
    requests = []
    for index, question in enumerate(list(_pictures())[:2]):
        message = {"role": "user", "content": f"<image>{question.prompt}"}
        chat = lm.apply_chat_template([message])
        limits = {"until": ["\n"], "max_gen_toks": 4}
        arguments = (chat, limits, {"visual": [question.image]})
        requests.append(Instance("generate_until", {}, arguments, 0, ("task", index, 1)))
    lm.begin(Predictions(Path("/nonexistent")), [0, 1], True, lambda steps: None)
    answers: list[str] = []
    for start in range(0, 2, batch_size):
        rows = lm._answer(requests[start : start + batch_size])
        answers += [row["text"] for row in rows]
    return answers


def test_export_and_reload(family: Family, packed: Packed) -> None:
    """The folder that transformers loads computes the same, bit for bit."""
    config = family.vlm.model.config
    model = model_class(config).from_pretrained(packed.exported, dtype=torch.float32).eval()
    linears = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(linears) == sum(len(layer) for layer in family.vlm.originals)
    assert torch.equal(_logits(model, family.samples), packed.logits)
    processor = load_processor(
        packed.exported, config.model_type, ModelConfig("reloaded", str(packed.exported))
    )
    assert processor.tokenizer.get_vocab() == family.vlm.processor.tokenizer.get_vocab()


def test_layers_that_text_never_reaches_are_named(tmp_path: Path) -> None:
    """Llama 3.2 Vision leaves its cross-attention layers out where there is no image."""
    folder = tiny_families.write(tmp_path / "mllama", "mllama")
    vlm = load_vlm(ModelConfig("mllama", str(folder), device="cpu"))
    config = CalibrationConfig("text", alpha=0.0, tokens=256, sample_tokens=32)
    samples = build(vlm, config, iter(()), text_source("pocket", "calibration"))
    with pytest.raises(DataError, match=r"layer 1 is called for no.*calibrate with images"):
        layer_outputs(vlm, samples, tokens=100, seed=0)
    with pytest.raises(DataError, match=r"layer 1 is called for no.*calibrate with images"):
        forward_scores(vlm, samples)
    with pytest.raises(DataError, match=r"layer 1.*no calibration sample reaches"):
        quantize_layer(vlm, 1, LayerTiers(TIERS["gptq4"]), Walk(vlm, samples).inputs(1, []))


class Stack(torch.nn.Module):
    """A decoder that changes hidden states between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden) + 1
        return hidden


@torch.no_grad()
def test_what_a_decoder_does_between_its_layers_is_done() -> None:
    torch.manual_seed(0)
    decoder = Stack()
    given = torch.randn(1, 2, 4)
    state = State(Passage(decoder, decoder.layers, ((given,), {}), gives_tuple=False))
    for layer in decoder.layers:
        state.advance(state.output(layer))
    assert torch.equal(state.hidden + 1, decoder(given))


def test_a_family_that_no_test_runs_is_compared_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(tiny_families.FAMILIES, "olmo2", tiny_families.text_model("olmo2"))
    folder = tiny_families.write(tmp_path / "olmo2", "olmo2")
    vlm = load_vlm(ModelConfig("olmo2", str(folder), device="cpu"))
    assert "model_type=olmo2 is none of the families that LUQ is tested with" in caplog.text
    config = CalibrationConfig("text", alpha=0.0, tokens=256, sample_tokens=32)
    samples = build(vlm, config, iter(()), text_source("pocket", "calibration"))
    assert first_inputs(vlm, samples)
    monkeypatch.setattr(State, "advance", lambda state, output: setattr(state, "index", 3))
    with pytest.raises(ModelError, match="olmo2 model give other hidden states one by one"):
        first_inputs(vlm, samples)


def test_the_table_in_the_docs_has_every_family() -> None:
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and "✓" in line]
    listed = [row.split("|")[2].strip(" `") for row in rows]
    assert listed == list(FAMILIES)
