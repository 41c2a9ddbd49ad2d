"""Impossible combinations within PPO's section, and of it with the rest; see `combinations`."""

from collections.abc import Iterator

from rlhf.recipe.evaluation_combinations import find_evaluation
from rlhf.recipe.reward_combinations import find_rewards
from rlhf.recipe.tree import Fault, Tree, at, whole


def find_ppo(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    yield from find_rewards(tree)
    yield from find_evaluation(tree)
    yield from _sizes(tree)
    yield from _shaping(tree)
    yield from _losses(tree)


def _sizes(tree: Tree) -> Iterator[Fault]:
    size, minibatches = whole(tree, "ppo", "global_batch_size"), whole(tree, "ppo", "num_minibatches")
    processes = whole(tree, "launch", "num_processes")
    if size and minibatches and size % minibatches:
        yield (
            ("ppo", "global_batch_size"),
            f"global_batch_size={size} is not a multiple of num_minibatches={minibatches}",
        )
    elif size and minibatches and processes and (size // minibatches) % processes:
        yield (
            ("ppo", "global_batch_size"),
            f"a minibatch of {size // minibatches} responses does not divide over launch.num_processes={processes}",
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


def _losses(tree: Tree) -> Iterator[Fault]:
    estimator, place = at(tree, "ppo", "kl", "estimator"), at(tree, "ppo", "kl", "place")
    if (estimator, place) == ("k1", "loss"):
        message = "k1 in the loss has no gradient on average (it is that of the mean log-probability): take k2 or k3"
        yield ("ppo", "kl", "estimator"), message
    if (estimator, place) == ("k2", "reward"):
        yield ("ppo", "kl", "estimator"), "k2 is a biased estimate of the KL: take k1 or k3 in the reward"
    processes, rows = whole(tree, "launch", "num_processes"), whole(tree, "ppo", "ptx_batch_size")
    if at(tree, "ppo", "ptx_coef"):
        if at(tree, "data", "sft") is None:
            yield ("ppo", "ptx_coef"), "PPO-ptx trains on data.sft.train too: add it, or set ptx_coef: 0"
        if rows and processes and rows % processes:
            message = f"ptx_batch_size={rows} does not divide over launch.num_processes={processes}"
            yield ("ppo", "ptx_batch_size"), message
    steps, warmup = whole(tree, "ppo", "num_steps"), whole(tree, "ppo", "critic_warmup_steps")
    if steps and warmup and warmup >= steps:
        message = f"critic_warmup_steps={warmup} of num_steps={steps}: the policy would never be trained"
        yield ("ppo", "critic_warmup_steps"), message
