"""Products in bfloat16, and a head that stays as it is."""

import pytest
import torch

from luq.models.computing import answered_in
from luq.models.vlm import VLM

IDS = torch.arange(10, 42).view(1, 32)


def test_the_head_is_computed_as_it_is_stored(vlm: VLM) -> None:
    """Logits in bfloat16 have 8 bits: then the likeliest tokens would often be as likely."""
    head = vlm.model.get_output_embeddings()
    with torch.no_grad(), answered_in("bfloat16", vlm):
        answer = vlm.model(input_ids=IDS, output_hidden_states=True)
    hidden = answer.hidden_states[-1]
    assert torch.equal(answer.logits, torch.nn.functional.linear(hidden, head.weight, head.bias))
    assert not torch.equal(answer.logits, answer.logits.bfloat16().float())


def test_afterwards_all_is_as_before(vlm: VLM) -> None:
    with torch.no_grad():
        before = vlm.model(input_ids=IDS).logits
        with answered_in("bfloat16", vlm):
            rough = vlm.model(input_ids=IDS).logits
        assert torch.equal(vlm.model(input_ids=IDS).logits, before)
        assert not torch.equal(rough, before)


def test_a_head_that_fails_leaves_nothing_behind(vlm: VLM) -> None:
    head = vlm.model.get_output_embeddings()
    with answered_in("bfloat16", vlm):
        with pytest.raises(RuntimeError):
            head(torch.ones(1, 3))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    assert not head._forward_pre_hooks
    assert not head._forward_hooks


def test_without_a_type_nothing_is_changed(vlm: VLM) -> None:
    head = vlm.model.get_output_embeddings()
    with answered_in("model", vlm):
        assert not torch.is_autocast_enabled("cpu")
        assert not head._forward_hooks
