"""What scripts/bench_ppo.py has to know of a model and a device: sizes by which work is counted, bytes a second."""

import time
from typing import Any, cast

import torch
from bench_figures import Size
from torch import nn

from rlhf.models.load import output_head_of


def size_of(policy: nn.Module) -> Size:
    """See `Size`; of the base under an adapter."""
    config, whole = cast(Any, policy).config, cast(Any, policy)
    head = cast(Any, output_head_of(policy)).weight
    outside = {id(head), id(whole.get_input_embeddings().weight)}
    trunk = [p for name, p in policy.named_parameters() if id(p) not in outside and "lora_" not in name]
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Size(
        trunk=sum(parameter.numel() for parameter in trunk),
        head=head.numel(),
        layers=config.num_hidden_layers,
        hidden=heads * width,
        key_width=width * (getattr(config, "num_key_value_heads", None) or heads),
    )


def copy_bandwidth(device: torch.device, rounds: int = 5) -> float:
    """Bytes a second that a copy reads and writes, the median of some rounds after two that do not count."""
    on_gpu = device.type == "cuda"
    source = torch.ones(2**30 if on_gpu else 2**25, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    taken: list[float] = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        target.copy_(source)
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    moved = 2 * source.numel() * source.element_size()
    del source, target
    if on_gpu:
        torch.cuda.empty_cache()
    return moved / sorted(taken[2:])[rounds // 2]
