"""How often the host waits for a GPU while a weight is quantized, without a GPU."""

import pytest
import torch

from luq.config import ArbRcTier, BillmTier, GptqTier, RtnTier, TernaryTier, TierConfig
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
        HESSIAN | PACKED | {SWEEP: 3},
    ),
    "gptq, grids on the way": (GptqTier(group_size=8), HESSIAN | PACKED | {SWEEP: 1}),
    "ternary": (TernaryTier(group_size=8), HESSIAN | {SWEEP: 1}),
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
            "quantization.methods.billm.NearestValue.__init__": 2,
            "quantization.methods.billm._pack": 2,
        },
    ),
}


@pytest.mark.parametrize(("tier", "waits"), METHODS.values(), ids=METHODS)
def test_the_host_waits_where_it_is_meant_to_and_all_stays_on_the_device(
    tier: TierConfig, waits: dict[str, int]
) -> None:
    """No wait for a column: their number does not grow with the columns of a block."""
    with fake_cuda() as cuda:
        weight = torch.empty(8, 16, device="cuda")
        hessian = torch.empty(16, 16, device="cuda")
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
