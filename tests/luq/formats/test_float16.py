import torch

from tests.luq.formats.weights import floats


def test_weights_are_what_is_stored() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        weight = floats(3, 5, dtype)
        assert torch.equal(weight.dequantize(), weight.buffers["weight"].float())
        assert weight.stored_floats() is weight.buffers["weight"]
        assert weight.nominal_bits == 16
        assert weight.integer_grid() is None
        assert weight.ledger() == {"weights": 30}
