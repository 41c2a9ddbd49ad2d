"""One compiled layer serves all layers, and says what the layers say; torch.compile traces, and leaves out its backend."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from rlhf.models import compiling
from rlhf.models.load import scratch_causal_lm
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.recipe.model import ScratchModel


def model_of(num_layers):
    spec = ScratchModel(vocab_size=300, hidden_size=24, num_layers=num_layers, num_heads=2, max_positions=64)
    return scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=0)


@pytest.fixture
def compiled(monkeypatch):
    """Counts what is compiled."""
    torch._dynamo.reset()
    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **named: real(function, backend=counter, **named))
    yield counter
    torch._dynamo.reset()


def test_decoding_compiles_a_layer_once_for_prompts_and_once_for_steps(compiled):
    """A batch of another size is a graph more; a layer more is none."""
    noise, graphs = torch.rand(7, 12, generator=torch.Generator().manual_seed(0)), []
    prompts = [[3, 5, 7], [4] * 9, [2], [8, 8], [9] * 5, [6, 2], [11] * 4]
    settings = {"temperature": 1.0, "stop_ids": (4,)}
    for num_layers in (2, 5):
        torch._dynamo.reset()
        before = compiled.frame_count
        policy = model_of(num_layers)
        plain, fused = (
            GraphEngine(num_slots=4, dtype=torch.float32, compiled=each).generate(
                policy, prompts, noise, **settings
            )
            for each in (False, True)
        )
        assert torch.equal(plain.response_ids, fused.response_ids)
        assert torch.allclose(plain.logprobs, fused.logprobs, atol=1e-5)
        graphs.append(compiled.frame_count - before)
    assert graphs[0] == graphs[1] > 0


def test_training_compiles_a_layer_once_and_decoding_by_hf_none(monkeypatch):
    """Decoding in between would compile each layer for each kind of cache, until torch.compile gives up on all."""
    torch._dynamo.reset()
    counter, real = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **named: real(module, backend=counter, **named)
    )
    plain, fused = model_of(4), model_of(4)
    compiling.compile_layers(fused)
    made = [
        HFEngine().generate(model, [[3, 5, 7]], torch.full((1, 9), 0.4), temperature=1.0, stop_ids=())
        for model in (plain, fused)
    ]
    assert torch.equal(made[0].response_ids, made[1].response_ids)
    assert counter.frame_count == 0
    for length in (5, 9, 13):
        ids = torch.arange(2 * length).view(2, length) % 50
        losses = [model(ids, labels=ids, use_cache=False).loss for model in (plain, fused)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
        for loss in losses:
            loss.backward()
    for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name
    assert counter.frame_count == 1
    torch._dynamo.reset()
