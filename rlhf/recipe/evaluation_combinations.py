"""Impossible combinations in PPO's evaluation; see `combinations`."""

from collections.abc import Iterator, Mapping

from rlhf.recipe.data_combinations import has_eval
from rlhf.recipe.tree import Fault, Tree, at

WHERE = ("ppo", "evaluation")


def find_evaluation(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    splits = at(tree, "data", "prompts")
    if isinstance(splits, Mapping) and not has_eval(tree, "prompts"):
        for knob in ("gold", "best_of_n", "select_best", "patience", "kl_budget"):
            if at(tree, *WHERE, knob):
                yield (*WHERE, knob), f"{knob} needs held-out prompts: add data.prompts.eval or holdout"
    named = at(tree, *WHERE, "select_best")
    if isinstance(named, str) and not named.startswith("eval/"):
        yield (
            (*WHERE, "select_best"),
            f"{named} is not measured at evaluations: name a metric such as eval/scores",
        )
    if isinstance(named, str) and "gold" in named and at(tree, *WHERE, "gold") is None:
        yield (*WHERE, "select_best"), f"{named} needs a gold judge: add ppo.evaluation.gold"
    if at(tree, *WHERE, "kl_budget") and named is None:
        message = (
            "name in select_best what selects among the evaluations within the budget, such as eval/scores"
        )
        yield (*WHERE, "kl_budget"), message
    if at(tree, *WHERE, "patience") and at(tree, *WHERE, "select_best") is None:
        message = "patience waits for a higher value of select_best: name a metric there, such as eval/scores"
        yield (*WHERE, "patience"), message
