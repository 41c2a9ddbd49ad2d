"""Impossible combinations within PPO's section, and of it with the rest; see `combinations`."""

from collections.abc import Iterator

from rlhf.recipe.evaluation_combinations import find_evaluation
from rlhf.recipe.launch_combinations import world_size
from rlhf.recipe.ppo import KLSection, PPOSection
from rlhf.recipe.reward_combinations import find_rewards
from rlhf.recipe.sharding_combinations import find_sharding
from rlhf.recipe.tree import Fault, Tree, at, whole
from rlhf.recipe.vllm_combinations import find_vllm


def find_ppo(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    yield from find_rewards(tree)
    yield from find_evaluation(tree)
    yield from _sizes(tree)
    yield from _shaping(tree)
    yield from _kl(tree)
    yield from _losses(tree)
    yield from _replay(tree)
    yield from _dtype(tree)
    yield from _backbone(tree)
    yield from find_vllm(tree)
    yield from find_sharding(tree)


def _sizes(tree: Tree) -> Iterator[Fault]:
    size, minibatches = whole(tree, "ppo", "global_batch_size"), whole(tree, "ppo", "num_minibatches")
    processes = world_size(tree)
    if size and minibatches and size % minibatches:
        yield (
            ("ppo", "global_batch_size"),
            f"global_batch_size={size} is not a multiple of num_minibatches={minibatches}",
        )
    elif size and minibatches and processes and (size // minibatches) % processes:
        yield (
            ("ppo", "global_batch_size"),
            f"a minibatch of {size // minibatches} responses does not divide over {processes} processes",
        )
    each = whole(tree, "ppo", "sampling", "samples_per_prompt")
    if size and each and size % each:
        yield (
            ("ppo", "sampling", "samples_per_prompt"),
            f"global_batch_size={size} is not a multiple of samples_per_prompt={each}",
        )


def _shaping(tree: Tree) -> Iterator[Fault]:
    shaping = ("ppo", "shaping")
    if at(tree, *shaping, "missing_eos") == "none" and at(tree, *shaping, "missing_eos_penalty") != 1.0:
        yield (
            (*shaping, "missing_eos_penalty"),
            "missing_eos_penalty is set, but missing_eos is none: set it to subtract or replace",
        )
    if at(tree, *shaping, "length_free_tokens") and not at(tree, *shaping, "length_penalty"):
        yield (
            (*shaping, "length_free_tokens"),
            "length_free_tokens is set, but length_penalty is 0: set it too",
        )


def _kl(tree: Tree) -> Iterator[Fault]:
    where = ("ppo", "kl")
    target, horizon = at(tree, *where, "target"), whole(tree, *where, "horizon")
    if target is None and horizon and horizon != KLSection.model_fields["horizon"].default:
        yield (*where, "horizon"), "horizon is set, but the coefficient is fixed: set target too"
    if target is None:
        return
    if at(tree, *where, "coef") == 0:
        message = "the adaptive coefficient is multiplied each step, and 0 stays 0: start above it"
        yield (*where, "coef"), message
    size = whole(tree, "ppo", "global_batch_size")
    if size and horizon and size >= 5 * horizon:
        message = f"a step of {size} responses would turn the coefficient's sign: take several times {size}"
        yield (*where, "horizon"), message


def _replay(tree: Tree) -> Iterator[Fault]:
    where = ("ppo", "sampling")
    is_cut = at(tree, *where, "top_p") not in (None, 1, 1.0) or bool(at(tree, *where, "min_p"))
    if at(tree, *where, "replay") is not None and is_cut:
        message = "recordings do not hold which tokens were left by top_p or min_p: leave those out"
        yield (*where, "replay"), message


def _dtype(tree: Tree) -> Iterator[Fault]:
    where = ("ppo", "dtype")
    if at(tree, *where) != "bfloat16":
        return
    strategy = at(tree, "launch", "strategy")
    if strategy not in (None, "ddp"):
        yield where, f"launch.strategy: {strategy} shares out float32 weights: take ddp, or dtype: float32"
    if at(tree, "launch", "mixed_precision") in ("no", False):
        yield where, "bfloat16 weights need bfloat16 products: leave launch.mixed_precision: no out"
    if at(tree, "ppo", "ema_decay") is not None:
        yield where, "a moving average in bfloat16 stands still: leave ema_decay out, or take float32"
    if at(tree, "model", "lora", "quantize") is not None:
        yield where, "the frozen base is held in 4 bits already (model.lora.quantize): leave one of them out"


def _backbone(tree: Tree) -> Iterator[Fault]:
    where = ("ppo", "backbone")
    if at(tree, *where) != "shared":
        return
    has_lora, trains_sft = at(tree, "model", "lora") is not None, at(tree, "sft") is not None
    if trains_sft and not has_lora:
        yield where, "models share a backbone as adapters on it: set model.lora, or backbone: separate"
    if at(tree, "ppo", "offload_frozen"):
        message = (
            "the frozen models' weights are the policy's with backbone: shared: leave offload_frozen out"
        )
        yield ("ppo", "offload_frozen"), message


def _losses(tree: Tree) -> Iterator[Fault]:
    estimator, place = at(tree, "ppo", "kl", "estimator"), at(tree, "ppo", "kl", "place")
    if (estimator, place) == ("k1", "loss"):
        message = "k1 in the loss has no gradient on average (it is that of the mean log-probability): take k2 or k3"
        yield ("ppo", "kl", "estimator"), message
    if (estimator, place) == ("k2", "reward"):
        yield ("ppo", "kl", "estimator"), "k2 is a biased estimate of the KL: take k1 or k3 in the reward"
    processes, rows = world_size(tree), whole(tree, "ppo", "ptx_batch_size")
    if at(tree, "ppo", "ptx_coef"):
        if at(tree, "data", "sft") is None:
            yield ("ppo", "ptx_coef"), "PPO-ptx trains on data.sft.train too: add it, or set ptx_coef: 0"
        if rows and processes and rows % processes:
            message = f"ptx_batch_size={rows} does not divide over {processes} processes"
            yield ("ppo", "ptx_batch_size"), message
    elif rows and rows != PPOSection.model_fields["ptx_batch_size"].default:
        yield ("ppo", "ptx_batch_size"), "ptx_batch_size is set, but ptx_coef is 0: set it too"
    schedules = {
        at(tree, "ppo", "schedule"),
        at(tree, "ppo", "critic_schedule") or at(tree, "ppo", "schedule"),
    }
    if schedules == {"constant"} and at(tree, "ppo", "lr_floor_fraction"):
        yield ("ppo", "lr_floor_fraction"), "a constant learning rate has no floor: leave it out"
    steps, warmup = whole(tree, "ppo", "num_steps"), whole(tree, "ppo", "critic_warmup_steps")
    if steps and warmup and warmup >= steps:
        message = f"critic_warmup_steps={warmup} of num_steps={steps}: the policy would never be trained"
        yield ("ppo", "critic_warmup_steps"), message
