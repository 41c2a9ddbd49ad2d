"""What a base in 4 bits (`model.lora.quantize`) cannot be combined with, each with its reason; see `combinations`."""

from collections.abc import Iterator

from rlhf.recipe.tree import Fault, Tree, at


def find_quantization(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    if at(tree, "model", "lora", "quantize") is None:
        return
    if at(tree, "ppo", "compile"):
        message = (
            "layers over 4-bit weights (model.lora.quantize) have not been compiled yet: leave compile out"
        )
        yield ("ppo", "compile"), message
    if at(tree, "launch", "strategy") == "fsdp2":
        message = "FSDP2 cannot read its checkpoints again where weights have scales beside their 4-bit codes"
        yield (
            ("model", "lora", "quantize"),
            f"{message}: take launch.strategy: ddp, zero1, zero2 or zero3",
        )
