"""How often the host waits for a GPU while a weight is quantized, without a GPU."""

import pytest
import torch
from torch import nn

from luq.config import (
    ArbRcTier,
    BillmTier,
    Float16Tier,
    GgufTier,
    GptqTier,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.formats import kernels
from luq.formats.kernels import searches
from luq.formats.linear import PackedLinear
from luq.profiling.capture import LayerOutputs, choose_tokens
from luq.profiling.scores import _MomentHooks
from luq.quantization.hessian import HessianSum
from luq.quantization.methods import make_quantizer
from tests.fake_cuda import fake_cuda

# Each Hessian is checked, and its factor is there or not: four numbers, twice where two Hessians
# are; how a sweep goes is known before it begins; what is stored is checked when it is packed.
HESSIAN = {"quantization.hessian.checked": 2, "quantization.hessian._damped_factor": 4}
PACKED = {"formats.packing.pack_codes": 4}
SWEEP = "quantization.coder.GridRounding.__init__"
METHODS: dict[str, tuple[TierConfig, dict[str, int]]] = {
    "rtn": (RtnTier(group_size=8), PACKED),
    "gptq": (
        GptqTier(
            group_size=8,
            act_order=True,
            static_groups=True,
            clip_steps=2,
            clip_root=True,
            descent=2,
        ),
        HESSIAN | PACKED | {SWEEP: 2},
    ),
    "gptq, grids on the way": (GptqTier(group_size=8), HESSIAN | PACKED | {SWEEP: 1}),
    "ternary": (TernaryTier(group_size=8), HESSIAN | {SWEEP: 1}),
    "gguf": (GgufTier(type="q4_0"), HESSIAN | {SWEEP: 3}),
    "arb_rc": (
        ArbRcTier(block=16),
        HESSIAN
        | {
            "quantization.methods.arb_rc.RowColumnRounding._begin_block": 2,  # for each block
            "quantization.methods.arb_rc.binarize": 1,
            "quantization.methods.arb_rc.ArbRc.quantize": 2,
        },
    ),
    "billm": (
        BillmTier(block=8, act_order=True),
        HESSIAN
        | {
            "quantization.methods.billm.four_values": 2,  # one for each block
            "quantization.lloyd.NearestValue.__init__": 2,
            "quantization.methods.billm._pack": 2,
        },
    ),
}


@pytest.mark.parametrize(("tier", "waits"), METHODS.values(), ids=METHODS)
def test_the_host_waits_where_it_is_meant_to_and_all_stays_on_the_device(
    tier: TierConfig, waits: dict[str, int]
) -> None:
    """No wait for a column: their number does not grow with the columns of a block."""
    columns = 32 if isinstance(tier, GgufTier) else 16
    with fake_cuda() as cuda:
        weight = torch.empty(8, columns, device="cuda")
        hessian = torch.empty(columns, columns, device="cuda")
        packed = make_quantizer(tier).quantize(weight, hessian)
        assert {buffer.device.type for buffer in packed.buffers.values()} == {"cuda"}
    assert dict(cuda.waits) == waits


def test_a_hessian_is_summed_without_a_wait() -> None:
    with fake_cuda() as cuda:
        total = HessianSum(32, "cuda")
        total.add(torch.empty(2, 10, 32, device="cuda", dtype=torch.bfloat16))
        assert total.mean().device.type == "cuda"
    assert not cuda.waits


def test_tensors_of_two_devices_and_what_needs_a_number_are_found() -> None:
    with fake_cuda() as cuda:
        with pytest.raises(RuntimeError, match="same device"):
            torch.empty(3, device="cuda") + torch.empty(3)
        total = HessianSum(32, "cuda")
        total.add(torch.empty(10, 32, device="cuda"), torch.empty(10, device="cuda"))
    assert cuda.waits == {"quantization.hessian.HessianSum.add": 1}


FORMATS: dict[str, TierConfig] = {
    "float16": Float16Tier(),
    "integer": RtnTier(group_size=8),
    "ternary": TernaryTier(group_size=8),
    "trellis": TrellisTier(bits=2.0, window=6),
    "trellis, fractions": TrellisTier(bits=1.25, window=6),
    "gguf, integers": GgufTier(type="q2_k"),
    "gguf, codebooks": GgufTier(type="iq2_xxs"),
    "row_column": ArbRcTier(block=16),
    "binary": BillmTier(block=16),
}
# What is looked up once for each weight, since it is stored as a mask.
ONCE = {
    "row_column": {
        "formats.row_column.RowColumnWeight.check_content": 1,
        "formats.row_column.RowColumnWeight._salient_places": 1,
    },
    "binary": {"formats.binary.BinaryWeight._salient_columns": 2},
}


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's compiled code, for which there is no fake, is left out."""
    for module in (kernels, searches):
        monkeypatch.setattr(module, "has_triton", lambda: False)


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("name", FORMATS)
def test_packed_weights_answer_without_a_wait(name: str) -> None:
    columns = 256 if "gguf" in name else 32
    quantizer = make_quantizer(FORMATS[name])
    weight = torch.linspace(-1, 1, 16 * columns).view(16, columns)
    packed = quantizer.quantize(weight, torch.eye(columns))
    packed.dequantize()  # what is listed once is listed then, in numbers
    with fake_cuda() as cuda:
        if name in ONCE:  # how many columns a mask has must be what masks have there
            weight = torch.empty(16, columns, device="cuda")
            packed = quantizer.quantize(weight, torch.empty(columns, columns, device="cuda"))
            cuda.waits.clear()
        else:
            buffers = {key: buffer.to("cuda") for key, buffer in packed.buffers.items()}
            packed = type(packed)(buffers, packed.shape, **packed.meta)
        assert packed.dequantize().device.type == "cuda"
        assert cuda.waits == ONCE.get(name, {})
        cuda.waits.clear()
        inputs = torch.empty(5, columns, device="cuda", dtype=torch.bfloat16)
        assert PackedLinear(packed, name)(inputs).device.type == "cuda"
        rows = packed.rows(torch.empty(3, dtype=torch.int64, device="cuda"))
        assert (rows.device.type, rows.shape) == ("cuda", (3, columns))
        assert not cuda.waits


def test_a_search_of_trellis_codes_does_not_wait() -> None:
    with fake_cuda() as cuda:
        values = torch.empty(2, 16, device="cuda")
        states = torch.empty(2, dtype=torch.int32, device="cuda")
        path = searches.viterbi(values, torch.empty(64, device="cuda"), states, 1.25, 6)
        assert (path.device.type, path.shape, path.dtype) == ("cuda", (2, 16), torch.int32)
    assert not cuda.waits


@pytest.mark.usefixtures("no_kernels")
def test_trellis_codes_come_to_the_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(values: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.empty(values.shape, dtype=torch.int32, device=values.device)

    monkeypatch.setattr(searches, "viterbi", search)
    with fake_cuda() as cuda:
        weight = torch.empty(32, 48, device="cuda")
        hessian = torch.empty(48, 48, device="cuda")
        packed = make_quantizer(FORMATS["trellis"]).quantize(weight, hessian)
        assert {buffer.device.type for buffer in packed.buffers.values()} == {"cuda"}
    trellis = {
        "quantization.methods.trellis.best_scales": 3,  # one for each factor on the gain
        "formats.trellis.stream_of": 1,
    }
    assert dict(cuda.waits) == HESSIAN | trellis


def test_scores_of_layers_wait_only_for_what_they_are() -> None:
    layer = nn.Identity()
    with fake_cuda() as cuda:
        hooks = _MomentHooks(nn.ModuleList([layer]))
        for _ in range(3):
            hooks.begin(torch.tensor([True, True, False, True]), torch.device("cuda"))
            layer(torch.empty(2, 2, 8, device="cuda", dtype=torch.bfloat16))
        assert not cuda.waits
        hooks.moments["image"][0].variance()
        hooks.moments["image"][0].lim()
    assert hooks.moments["image"][0].tokens == 9
    assert sum(cuda.waits.values()) == 2


def test_vectors_of_a_layer_come_to_the_host_once_for_each_modality() -> None:
    layer = nn.Identity()
    chosen = choose_tokens(torch.tensor([True, True, False, True]), 2, 0)
    with fake_cuda() as cuda:
        outputs = LayerOutputs(nn.ModuleList([layer]), chosen, None)
        layer(torch.empty(2, 2, 8, device="cuda", dtype=torch.bfloat16))
        outputs.advance(4)
    assert sum(cuda.waits.values()) == len(chosen)
    assert [len(rows) for rows in outputs[0].values()] == [2, 2, 1]
