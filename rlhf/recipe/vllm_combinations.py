"""What `ppo.sampling.engine: vllm` cannot be combined with, each with its reason; see `combinations`."""

from collections.abc import Iterator

from rlhf.recipe.tree import Fault, Tree, at
from rlhf.recipe.vllm import VLLMSection

_SAMPLING = ("ppo", "sampling")
_WHERE = (*_SAMPLING, "vllm")
_OTHERS = "take engine: hf or graph"


def find_vllm(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    if at(tree, *_SAMPLING, "engine") != "vllm":
        if at(tree, *_WHERE) is not None:
            yield _WHERE, "vllm is set, but another engine samples: set engine: vllm, or leave it out"
        return
    yield from _cuts(tree)
    yield from _modes(tree)
    if at(tree, "model", "lora", "quantize") is not None:
        message = "vLLM is given whole weights, and a base in 4 bits (model.lora.quantize) has none"
        yield (*_SAMPLING, "engine"), f"{message}: take engine: hf, or leave quantize out"


def find_vllm_sharding(tree: Tree) -> Iterator[Fault]:
    """The same where a process holds only a part of the policy's weights between its passes."""
    strategy = at(tree, "launch", "strategy")
    if at(tree, *_SAMPLING, "engine") == "vllm" and strategy in ("zero3", "fsdp2"):
        message = f"vLLM is given whole weights one by one, which {strategy} cuts up"
        yield (*_SAMPLING, "engine"), f"{message}: take launch.strategy: ddp, zero1 or zero2, or {_OTHERS}"


def _cuts(tree: Tree) -> Iterator[Fault]:
    """Log-probabilities of policy and reference would have to be taken over the support."""
    for name, whole in (("top_p", 1.0), ("min_p", 0.0)):
        if at(tree, *_SAMPLING, name) not in (None, whole):
            message = (
                f"vLLM does not say which tokens {name} left, and log-probabilities are taken over those"
            )
            yield (*_SAMPLING, name), f"{message}: leave {name} out, or {_OTHERS}"


def _modes(tree: Tree) -> Iterator[Fault]:
    url = at(tree, *_WHERE, "server_url")
    if at(tree, *_WHERE, "mode") != "server":
        if url is not None:
            yield (*_WHERE, "server_url"), "server_url is set, but mode is colocate: set mode: server too"
        return
    if url is None:
        yield (*_WHERE, "mode"), "mode: server needs server_url, such as http://localhost:8000"
    for name in ("gpu_memory_utilization", "sleep"):
        if at(tree, *_WHERE, name) not in (None, VLLMSection.model_fields[name].default):
            yield (*_WHERE, name), f"{name} is a colocated engine's: a server has options of its own"
