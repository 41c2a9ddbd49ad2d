"""What PPO cannot do where `launch.strategy` shares a model out over processes, each with its reason."""

from collections.abc import Iterator

from rlhf.recipe.tree import Fault, Tree, at
from rlhf.recipe.vllm_combinations import find_vllm_sharding

_ZERO = ("zero1", "zero2", "zero3")


def find_sharding(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    strategy = at(tree, "launch", "strategy")
    if strategy not in (*_ZERO, "fsdp2"):
        return
    if at(tree, "ppo", "ptx_coef"):
        message = "the SFT loss passes by the policy alone, but what is shared out runs as a whole"
        yield ("ppo", "ptx_coef"), f"{message}: take launch.strategy: ddp, or leave ptx_coef out"
    if at(tree, "ppo", "backbone") == "shared" and strategy in ("zero3", "fsdp2"):
        message = f"{strategy} cuts up the weights that the reference and the reward model would share whole"
        yield ("ppo", "backbone"), f"{message}: take zero1, zero2 or ddp, or backbone: separate"
    if at(tree, "ppo", "per_device_tokens") is not None:
        message = f"under {strategy} every process must make as many passes as the others"
        yield ("ppo", "per_device_tokens"), f"{message}: leave it out, per_device_batch_size counts then"
    if at(tree, "ppo", "compile"):
        message = f"layers have not been compiled under {strategy} yet"
        yield ("ppo", "compile"), f"{message}: take launch.strategy: ddp, or leave compile out"
    yield from find_vllm_sharding(tree)
    if strategy in _ZERO:
        yield from _zero(tree, str(strategy))


def _zero(tree: Tree, strategy: str) -> Iterator[Fault]:
    if at(tree, "ppo", "clip_gradients") == "per_role":
        message = f"DeepSpeed ({strategy}) clips all gradients by one norm: take fsdp2 or ddp, or clip_gradients: joint"
        yield ("ppo", "clip_gradients"), message
    if at(tree, "ppo", "critic_warmup_steps"):
        message = f"DeepSpeed ({strategy}) steps all parameters together, the policy's too: take fsdp2 or ddp"
        yield ("ppo", "critic_warmup_steps"), message
    if at(tree, "ppo", "ema_decay") is not None and strategy == "zero3":
        message = "only DeepSpeed itself can read the pieces that zero3 leaves between uses: take zero2, fsdp2 or ddp"
        yield ("ppo", "ema_decay"), message
