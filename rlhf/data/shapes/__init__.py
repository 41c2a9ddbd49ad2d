"""The shapes of rows that we know beside our own records; docs/data_shapes.md shows each."""

from collections.abc import Mapping
from types import MappingProxyType

from rlhf.data.shapes.alpaca import ALPACA
from rlhf.data.shapes.binarized import BINARIZED
from rlhf.data.shapes.layout import Answer, Fields, Layout, MisshapenError
from rlhf.data.shapes.openai import OPENAI
from rlhf.data.shapes.pairs import Outcome, make_pairs
from rlhf.data.shapes.rated import RATED
from rlhf.data.shapes.rollouts import ROLLOUTS
from rlhf.data.shapes.scored import SCORED
from rlhf.data.shapes.sharegpt import SHAREGPT
from rlhf.data.shapes.transcript import TRANSCRIPT
from rlhf.recipe.data import Shape

LAYOUTS: Mapping[Shape, Layout] = MappingProxyType(
    {
        "sharegpt": SHAREGPT,
        "binarized": BINARIZED,
        "openai": OPENAI,
        "transcript": TRANSCRIPT,
        "rated": RATED,
        "alpaca": ALPACA,
        "rollouts": ROLLOUTS,
        "scored": SCORED,
    }
)
"""Shape -> layout, in the order in which they are tried."""

__all__ = ["LAYOUTS", "Answer", "Fields", "Layout", "MisshapenError", "Outcome", "make_pairs"]
