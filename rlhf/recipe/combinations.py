"""Impossible combinations of values, each with its path in the file; they are looked for even where other values are broken.

Works on the recipe as plain nested dicts, so that one broken value does not hide what is wrong with the others.
"""

from collections.abc import Iterator, Mapping

from rlhf.recipe.data_combinations import find_data, has_eval
from rlhf.recipe.launch_combinations import find_launch, world_size
from rlhf.recipe.ppo_combinations import find_ppo
from rlhf.recipe.quantization_combinations import find_quantization
from rlhf.recipe.stages import SPLITS_OF, STAGES
from rlhf.recipe.tree import Fault, Tree, at, whole

_ROTARY = ("llama", "mistral", "qwen2")


def find_combinations(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message); a rule whose values are broken is passed over."""
    stages = [stage for stage in STAGES if tree.get(stage) is not None]
    if not stages:
        yield (), "no stage: give at least one of sft, reward, ppo"
    yield from _data(tree, stages)
    yield from find_data(tree)
    yield from _origin(tree)
    yield from find_launch(tree)
    yield from find_quantization(tree)
    if at(tree, "model", "scratch") is not None:
        yield from _scratch(tree)
    for stage in stages:
        yield from (find_ppo(tree) if stage == "ppo" else _training(tree, stage))
    yield from _names(tree, stages)


def _data(tree: Tree, stages: list[str]) -> Iterator[Fault]:
    if not isinstance(tree.get("data"), Mapping):
        return
    for stage in stages:
        key = SPLITS_OF[stage]
        if at(tree, "data", key) is None:
            yield ("data",), f"the {stage} stage needs data.{key}"
        elif at(tree, stage, "patience") is not None and not has_eval(tree, key):
            yield (
                (stage, "patience"),
                f"early stopping needs a held-out split: add data.{key}.eval or holdout",
            )


def _origin(tree: Tree) -> Iterator[Fault]:
    model = tree.get("model")
    if not isinstance(model, Mapping):
        return
    path, scratch = at(tree, "model", "path"), at(tree, "model", "scratch")
    if (path is None) == (scratch is None):
        yield (
            ("model",),
            "give either path (a model to start from) or scratch (an architecture), not both or neither",
        )
    if scratch is not None and at(tree, "model", "lora") is not None:
        yield ("model", "lora"), "lora needs a pretrained base: a model from scratch has nothing to freeze"
    if scratch is not None and at(tree, "model", "revision") is not None:
        yield ("model", "revision"), "revision belongs to a hub model: a model from scratch has none"


def _scratch(tree: Tree) -> Iterator[Fault]:
    where = ("model", "scratch")
    if tree.get("sft") is None:
        yield where, "a model from scratch needs an sft stage: its tokenizer is trained on the SFT data"
    width, heads = whole(tree, *where, "hidden_size"), whole(tree, *where, "num_heads")
    if width and heads:
        kind = at(tree, *where, "model_type")
        unit = 2 if kind in _ROTARY else 8 if kind == "gpt_neox" else 1
        if width % heads:
            yield (*where, "num_heads"), f"num_heads={heads} does not divide hidden_size={width}"
        elif (width // heads) % unit:
            message = f"hidden_size={width} / num_heads={heads} is not a multiple of {unit}: "
            yield (*where, "num_heads"), message + f"{kind} turns the dimensions of a head in pairs"
    positions = whole(tree, *where, "max_positions")
    if not positions:
        return
    for stage in ("sft", "reward"):
        longest = whole(tree, stage, "max_length")
        if longest and longest > positions:
            message = f"max_length={longest} exceeds model.scratch.max_positions={positions}"
            yield (stage, "max_length"), message
    prompt, response = (
        whole(tree, "ppo", "max_prompt_length"),
        whole(tree, "ppo", "sampling", "max_new_tokens"),
    )
    if prompt and response and prompt + response > positions:
        message = f"max_prompt_length={prompt} + sampling.max_new_tokens={response} exceeds "
        yield ("ppo", "max_prompt_length"), message + f"model.scratch.max_positions={positions}"


def _training(tree: Tree, stage: str) -> Iterator[Fault]:
    size, each = whole(tree, stage, "global_batch_size"), whole(tree, stage, "per_device_batch_size")
    processes = world_size(tree)
    if size and each and size % each:
        yield (
            (stage, "global_batch_size"),
            f"global_batch_size={size} is not a multiple of per_device_batch_size={each}",
        )
    elif size and each and processes and size % (each * processes):
        yield (
            (stage, "global_batch_size"),
            f"{size} is not a multiple of per_device_batch_size x {processes} processes = {each * processes}",
        )


def _names(tree: Tree, stages: list[str]) -> Iterator[Fault]:
    """Two stages under one name would make `@latest` mean a language model today and a reward model tomorrow."""
    taken: dict[str, str] = {}
    for stage in stages:
        given = at(tree, stage, "publish_as")
        name = f"{tree.get('name')}-{stage}" if given is None else str(given)
        if name in taken:
            yield (stage, "publish_as"), f"{name} is the {taken[name]} stage's name already"
        taken[name] = stage
