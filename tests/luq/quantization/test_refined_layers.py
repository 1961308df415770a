"""Refined layers as artefacts: made one by one, taken up again, and asked for by a plan."""

import pytest

import luq
from luq.allocation.allocations import Allocation
from luq.api.graph import GraphSettings, LoadedGraph, calibration_of
from luq.config import CalibrationConfig, QuantizerConfig, RefineConfig, RtnTier
from luq.config.named_tiers import NAMED_TIERS
from luq.errors import ConfigError
from luq.formats.layer_file import FILE
from luq.quantization.artefacts import PackedLayer, end_walk

SAMPLES = CalibrationConfig("multimodal", alpha=0.5, tokens=1024)
SETTINGS = RefineConfig(fit=True, steps=4, rate=0.2, batch=512, held_out=0.25)
TIERS = NAMED_TIERS | {"rtn2": RtnTier(bits=2, group_size=32)}


def graph(model: luq.LoadedModel, propagation: str = "exact") -> LoadedGraph:
    quantizer = QuantizerConfig("rtn2", "rtn2", propagation, TIERS, refine=SETTINGS)
    return LoadedGraph(model, GraphSettings(quantizer), calibration_of(model, SAMPLES))


def layers_of(made: LoadedGraph, refined: bool = True) -> tuple[PackedLayer, ...]:
    allocation = Allocation(("rtn2",) * made.checkpoint.layers)
    return made.layers(allocation, refined=refined)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> luq.LoadedModel:
    return luq.load("pocket:pocket_llava", device="cpu", store=tmp_path_factory.mktemp("store"))


def test_a_layer_that_is_made_again_alone_has_the_same_bytes(model: luq.LoadedModel) -> None:
    layers = layers_of(graph(model))
    files = [model.store.get(layer).folder / FILE for layer in layers[:3]]
    contents = [file.read_bytes() for file in files]
    end_walk(model.store.tools)
    model.store.remove(layers[2].stage, layers[2].key)
    model.store.get(layers[2])
    assert [file.read_bytes() for file in files] == contents
    plain = layers_of(graph(model), refined=False)
    assert plain[2].key != layers[2].key
    assert (model.store.get(plain[2]).folder / FILE).read_bytes() != contents[2]


def test_a_layer_is_refined_for_the_inputs_of_its_propagation(model: luq.LoadedModel) -> None:
    exact = layers_of(graph(model))[1]
    alone = layers_of(graph(model, "float"))[1]
    assert exact.before
    assert not alone.before
    content = (model.store.get(alone).folder / FILE).read_bytes()
    assert content != (model.store.get(exact).folder / FILE).read_bytes()


def test_data_free_tiers_need_samples_where_they_are_refined(model: luq.LoadedModel) -> None:
    with pytest.raises(ConfigError, match="needs calibration samples"):
        luq.quantize(model, "rtn4", refine=RefineConfig(steps=2))


def test_16_bit_layers_have_nothing_to_refine(model: luq.LoadedModel) -> None:
    made = graph(model)
    assert all(layer.refinement is None for layer in made.float_layers)
    assert made.layers(Allocation(("rtn2",) * made.checkpoint.layers))[0].refinement is not None


def test_work_names_refined_layers(model: luq.LoadedModel) -> None:
    assert layers_of(graph(model))[3].description == "layer 3 in rtn2-refined"
