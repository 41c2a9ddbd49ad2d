"""Impossible combinations among PPO's sources of scores, the gold judge included; see `combinations`."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from rlhf.recipe.rewards import OWN_MODEL, SINGLE, RewardSource
from rlhf.recipe.tree import Fault, Tree, at, whole

KINDS = ("model", "function", "url")
TAKEN = ("disagreement", "score", "shaped_score", "kl", "length")
"""What else a response is measured by, beside its sources' scores."""
TRANSPORT = ("batch_size", "timeout_seconds", "retries", "backoff_seconds")
"""How an endpoint is asked."""
Place = tuple[str | int, ...]
GOLD: Place = ("ppo", "evaluation", "gold")
REFERENCE: Place = ("ppo", "shaping", "normalize")


def find_rewards(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    sources = _sources(tree)
    gold = at(tree, "ppo", "evaluation", "gold")
    judged: list[tuple[Place, Tree]] = [*sources, (GOLD, gold)] if isinstance(gold, Mapping) else sources
    yield from _choice(tree, sources)
    for place, source in judged:
        yield from _source(tree, place, source)
    yield from _names(judged)
    yield from _weights(tree, sources)
    if at(tree, "ppo", "combine") in ("mean", "min") and len(sources) < 2:
        message = "combine is set, but there are not several sources: list them in ppo.rewards"
        yield ("ppo", "combine"), message
    if at(tree, "ppo", "shaping", "normalize") == "reference":
        yield from _reference(tree, sources)


def _sources(tree: Tree) -> list[tuple[Place, Tree]]:
    given = at(tree, "ppo", "rewards")
    items = cast(list[Any], given) if isinstance(given, list) else []
    return [
        (("ppo", "rewards", index), cast(Tree, item))
        for index, item in enumerate(items)
        if isinstance(item, Mapping)
    ]


def _choice(tree: Tree, sources: list[tuple[Place, Tree]]) -> Iterator[Fault]:
    """`reward_model`, `rewards`, or neither, which means the recipe's own."""
    has_model = at(tree, "ppo", "reward_model") is not None
    if has_model and sources:
        yield ("ppo", "rewards"), "give reward_model or rewards, not both: put the model into the list"
    if not has_model and not at(tree, "ppo", "rewards") and tree.get("reward") is None:
        message = "PPO needs a reward model: add a reward section, or name one in ppo.reward_model"
        yield ("ppo",), f"{message} or ppo.rewards"


def _source(tree: Tree, place: Place, source: Tree) -> Iterator[Fault]:
    given = [kind for kind in KINDS if source.get(kind) is not None]
    if len(given) != 1:
        told = " and ".join(given) or "none of them"
        yield place, f"give exactly one of model, function and url (here: {told})"
    if source.get("url") is None:
        for knob in TRANSPORT:
            if knob in source and source[knob] != RewardSource.model_fields[knob].default:
                yield (*place, knob), f"{knob} is of an HTTP endpoint: only a url has it"
    model = source.get("model")
    if model == OWN_MODEL and tree.get("reward") is None:
        yield (*place, "model"), "model: recipe means this recipe's reward model: add a reward section"
    if not source.get("normalize"):
        return
    if model is None:
        message = (
            "only a reward model publishes the mean and standard deviation to normalise by: leave it out"
        )
        yield (*place, "normalize"), message
    elif model != OWN_MODEL and not str(model).startswith("registry:"):
        message = f"{model} has no published mean and standard deviation: only a model of the registry has"
        yield (*place, "normalize"), message
    elif model == OWN_MODEL:
        yield from _published(tree, (*place, "normalize"))


def _names(judged: list[tuple[Place, Tree]]) -> Iterator[Fault]:
    taken: dict[str, Place] = {}
    for place, source in judged:
        name = str(source.get("name"))
        if name in TAKEN:
            yield (*place, "name"), f"{name} means something else for every response: take another name"
        elif name == SINGLE and place == GOLD:
            yield (*place, "name"), f"{SINGLE} is what the one reward model is called: take another name"
        elif name in taken and source.get("name") is not None:
            yield (*place, "name"), f"{name} is another source's name already"
        taken.setdefault(name, place)


def _weights(tree: Tree, sources: list[tuple[Place, Tree]]) -> Iterator[Fault]:
    if at(tree, "ppo", "combine") != "min":
        return
    for place, source in sources:
        if source.get("weight", 1.0) != 1.0:
            message = "combine: min takes the lowest score as it is: leave weight out, or use normalize"
            yield (*place, "weight"), message


def _reference(tree: Tree, sources: list[tuple[Place, Tree]]) -> Iterator[Fault]:
    """Shaping can use one reward model's statistics, not those of a mixture."""
    remedy = "set normalize: true on the sources that are reward models, or take batch or running"
    if len(sources) > 1:
        yield REFERENCE, f"reference is of one reward model, and there are {len(sources)} sources: {remedy}"
        return
    if not sources:
        if at(tree, "ppo", "reward_model") is None:
            yield from _published(tree, REFERENCE)
        return
    _, source = sources[0]
    if source.get("model") is None:
        yield (
            REFERENCE,
            "a function or a service publishes no mean and standard deviation: take batch or running",
        )
    elif source.get("normalize") or source.get("weight", 1.0) != 1.0:
        message = (
            "reference is of the scores as the model gives them: leave the source's weight and normalize out"
        )
        yield REFERENCE, message
    elif source.get("model") == OWN_MODEL:
        yield from _published(tree, REFERENCE)


def _published(tree: Tree, place: Place) -> Iterator[Fault]:
    samples = whole(tree, "reward", "num_reference_samples")
    if samples is not None and samples < 2:
        message = f"reference needs scores to normalise by: reward.num_reference_samples={samples} gives none"
        yield place, message
