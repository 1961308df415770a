"""The rest of a model is everything that is not a decoder linear, in 16 bits, counted once."""

from luq.formats.memory import peak_bytes, rest_ledger
from luq.formats.sizes import LayerSize
from luq.formats.sizes import memory as memory_of
from luq.models.vlm import VLM


def test_the_rest_and_the_linears_are_the_model(vlm: VLM) -> None:
    linears = 0
    for layer in vlm.originals:
        for linear in layer.values():
            linears += sum(parameter.numel() for parameter in linear.parameters())
    parameters = sum(parameter.numel() for parameter in vlm.model.parameters())
    assert sum(rest_ledger(vlm).values()) == 2 * (parameters - linears)


def test_an_allocation_is_the_sum_of_its_layers(vlm: VLM) -> None:
    layers = [
        LayerSize(100, 60, 4.0, {"codes": 50, "header": 10}),
        LayerSize(300, 70, 2.0, {"codes": 40, "scales": 25, "header": 5}),
    ]
    memory = memory_of(layers, rest_ledger(vlm), peak_bytes())
    rest = sum(rest_ledger(vlm).values())
    assert (memory.weights, memory.stored_bytes, memory.rest_bytes) == (400, 130, rest)
    assert memory.nominal_bits == 2.5
    assert memory.stored_bits == 8 * 130 / 400
    assert memory.resident_bytes == 130 - 15
    assert memory.checkpoint_bytes == 130 + rest == sum(memory.ledger.values())
    assert (memory.ledger["codes"], memory.ledger["scales"]) == (90, 25)
    assert memory.peak_bytes > 2**20
