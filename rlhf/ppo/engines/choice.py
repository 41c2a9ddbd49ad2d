"""Which rollout engine samples: what the recipe names, or what suits model, settings and machine; `vllm` by name alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rlhf.errors import UsageError
from rlhf.models.load import TESTED_FAMILIES, inner_model_of
from rlhf.models.quantized import is_quantized
from rlhf.ppo.engines.base import GenerationEngine
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.recipe.ppo import SamplingSection

_KEEPS_A_COPY = "would keep a copy of the whole policy on every process (ppo.sampling.engine: graph)"


def choose_engine(
    sampling: SamplingSection,
    policy: nn.Module,
    *,
    batch_size: int,
    max_length: int,
    dtype: torch.dtype,
    stop_texts: StopTexts | None,
    is_sharded: bool,
    on_gpu: bool = False,
    compiled: bool = False,
    start_vllm: Callable[[], GenerationEngine] | None = None,
) -> tuple[GenerationEngine, str]:
    """The engine, and a line for the log that says which it is and why.

    Args:
        sampling: the recipe's `ppo.sampling`.
        policy: what will be sampled.
        batch_size: responses decoded at once by one process.
        max_length: longest prompt and response together, in tokens.
        dtype: of forward passes: bfloat16 under autocast.
        stop_texts: `sampling.stop`, ready for use.
        is_sharded: whether a process holds only a part of the weights outside of a rollout.
        on_gpu: whether it runs there, where `auto` takes the graph engine if it can.
        compiled: let torch.compile fuse what the graph engine does.
        start_vllm: makes the `vllm` engine; called where that is named and can be.

    Raises:
        UsageError: `engine: graph` or `engine: vllm` is named and cannot be.
    """
    hf = HFEngine(batch_size=batch_size, stop_texts=stop_texts)
    if sampling.engine == "hf":
        return hf, "rollout engine: hf"
    if sampling.engine == "vllm":
        _require("vllm", vllm_obstacle(policy, is_sharded=is_sharded, on_gpu=on_gpu))
        assert start_vllm is not None
        return start_vllm(), f"rollout engine: vllm, {sampling.vllm_settings.mode}, {batch_size} slots"
    obstacle = graph_obstacle(policy)
    if sampling.engine == "auto":
        reason = obstacle or (None if on_gpu else "is for GPUs") or (_KEEPS_A_COPY if is_sharded else None)
        if reason is not None:
            return hf, f"rollout engine: hf; graph {reason}"
    _require("graph", obstacle)
    engine = GraphEngine(
        num_slots=batch_size,
        dtype=dtype,
        compiled=compiled,
        max_length=max_length,
        copied=is_sharded,
        stop_texts=stop_texts,
    )
    line = f"rollout engine: graph, {batch_size} slots, {str(dtype).removeprefix('torch.')}"
    return engine, line + (", on a whole copy of the policy on every process" if is_sharded else "")


def graph_obstacle(policy: nn.Module) -> str | None:
    """Why `graph` cannot sample this policy, as the end of a sentence; None where it can."""
    config: Any = inner_model_of(policy).config
    if config.model_type not in TESTED_FAMILIES:
        return f"is tested with {', '.join(TESTED_FAMILIES)}, and not with {config.model_type}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        return f"cannot record positions that are scaled by the longest row (rope_type: {rope})"
    if any(is_quantized(parameter) for parameter in policy.parameters()):
        return "cannot merge adapters into quantised weights"
    return None


def vllm_obstacle(policy: nn.Module, *, is_sharded: bool, on_gpu: bool) -> str | None:
    """Why `vllm` cannot sample this policy here, as the end of a sentence; None where it can."""
    if not on_gpu:
        return "is for GPUs: on a CPU vLLM packs its weights when it starts, and cannot be given others"
    if is_sharded:
        return "is given whole weights, and each process holds a part of them"
    if any(is_quantized(parameter) for parameter in policy.parameters()):
        return "is given whole weights, and the base is held in 4 bits"
    return None


def _require(engine: str, obstacle: str | None) -> None:
    if obstacle is not None:
        raise UsageError(f"ppo.sampling.engine: {engine} {obstacle}", "Set ppo.sampling.engine: hf, or auto.")
