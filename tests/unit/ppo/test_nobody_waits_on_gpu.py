"""Within a pass the host never waits for the device: it runs ahead, so that the device always has something to do."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from tiny_ppo import made_up_targets, section_of, tiny_lm, tiny_rm

from rlhf.ppo.actor_critic import ROLES, ActorCritic, Extent, extent_of
from rlhf.ppo.episodes import Episode, collate
from rlhf.ppo.stepping import Stepper
from rlhf.ppo.update import Updater

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


def one_process():
    """What an update asks of Accelerate, on the first GPU."""
    return SimpleNamespace(
        device=torch.device("cuda", 0),
        num_processes=1,
        process_index=0,
        distributed_type=DistributedType.NO,
        is_fsdp2=False,
        mixed_precision="bf16",
        autocast=lambda: torch.autocast("cuda", torch.bfloat16),
        backward=lambda loss: loss.backward(),
        gather=lambda tensor: tensor,
        print=print,
    )


def made_up_rollout():
    """Rows of LENGTHS, with numbers that are near no model's."""
    noise = np.random.default_rng(0)
    rows = []
    for place, (prompt, response) in enumerate(LENGTHS * 4):
        numbers = [noise.normal(size=response).astype(np.float32) for _ in range(3)]
        ids = noise.integers(2, 20, prompt + response).tolist()
        rows.append(Episode(place, place, 0, ids[:prompt], ids[prompt:], *numbers, numbers[0], 1.0, "length"))
    return collate(rows)


def test_a_whole_update_makes_nobody_wait_but_for_the_events_of_its_numbers(model):
    section = section_of(
        global_batch_size=12,
        num_minibatches=3,
        num_epochs=2,
        per_device_batch_size=2,
        max_ratio_deviation=100.0,
    )
    groups = [{"params": list(getattr(model, role).parameters()), "role": role} for role in ROLES]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    updater = Updater(section, accelerator=one_process(), model=model, optimizer=optimizer, seed=0)
    rollout = made_up_rollout()
    advantages, returns = made_up_targets(rollout)
    updater.update(rollout, advantages, returns, 0)
    before = [each.detach().clone() for each in model.parameters()]
    with waits_are_errors():
        stats = updater.update(rollout, advantages, returns, 1)
    assert stats["policy/num_updates"] == 6
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_bad_minibatch_is_left_out_by_the_device(model):
    section = section_of(global_batch_size=12, num_minibatches=3, max_ratio_deviation=100.0)
    groups = [{"params": list(getattr(model, role).parameters()), "role": role} for role in ROLES]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    stepper = Stepper(section, accelerator=one_process(), model=model, optimizer=optimizer)
    for loss, moves in ((math.nan, False), (1.0, True)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = [each.detach().clone() for each in model.parameters()]
        norms = stepper.norms()
        stepper.step_if(stepper.is_good({"loss": torch.tensor(loss, device="cuda")}, norms), norms)
        equal = [torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
        assert not any(equal) if moves else all(equal)
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}
