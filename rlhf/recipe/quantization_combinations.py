"""What a base in 4 bits (`model.lora.quantize`) cannot be combined with, each with its reason; see `combinations`."""

from collections.abc import Iterator

from rlhf.recipe.tree import Fault, Tree, at

CUT_UP = ("zero3", "fsdp2")


def find_quantization(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    quantize, strategy = at(tree, "model", "lora", "quantize"), at(tree, "launch", "strategy")
    if quantize is not None and strategy in CUT_UP:
        message = f"{strategy} cuts weights up, and the scales of 4-bit codes lie beside them: no checkpoint of it can be"
        yield (
            ("model", "lora", "quantize"),
            f"{message} read again. Take launch.strategy: ddp, zero1 or zero2",
        )
