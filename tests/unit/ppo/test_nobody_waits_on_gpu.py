"""Within a pass the host never waits for the device: it runs ahead, so that the device always has something to do."""

from contextlib import contextmanager

import pytest
import torch
from tiny_ppo import tiny_lm, tiny_rm

from rlhf.ppo.actor_critic import ROLES, ActorCritic, Extent, extent_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LENGTHS = [(3, 4), (2, 6), (5, 1)]


@contextmanager
def waits_are_errors():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def model():
    return ActorCritic(tiny_lm(), tiny_rm(), temperature=0.7).cuda()


@pytest.fixture
def batch():
    """Left-padded prompts, right-padded responses of LENGTHS."""
    prompt, response = (max(each) for each in zip(*LENGTHS, strict=True))
    columns = torch.arange(prompt + response)
    mask = torch.stack([(columns >= prompt - p) & (columns < prompt + r) for p, r in LENGTHS])
    ids = torch.randint(2, 20, mask.shape) * mask
    return [each.cuda() for each in (ids, mask, mask[:, prompt:])]


def passed(model, batch, extent):
    """Outputs, and gradients of the sum of all."""
    model.zero_grad(set_to_none=True)
    outputs = {}
    for role in ROLES:
        with torch.autocast("cuda", torch.bfloat16):
            outputs |= model(*batch, extent=extent, roles=(role,))
    torch.stack([each.sum() for each in outputs.values()]).sum().backward()
    return outputs, {name: each.grad for name, each in model.named_parameters()}


def test_a_pass_of_known_extent(model, batch):
    outputs, gradients = passed(model, batch, Extent())
    with waits_are_errors():
        again, gradients_again = passed(model, batch, extent_of(LENGTHS))
    for name, each in outputs.items():
        assert torch.allclose(each, again[name], rtol=1e-2, atol=1e-3), name
    for name, each in gradients.items():
        assert torch.allclose(each, gradients_again[name], rtol=1e-2, atol=1e-3), name


def test_where_the_extent_is_not_known_the_device_is_waited_for(model, batch):
    passed(model, batch, Extent())
    with waits_are_errors(), pytest.raises(RuntimeError, match="synchroniz"):
        passed(model, batch, Extent())
