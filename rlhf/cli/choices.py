"""What options of several commands can be."""

from enum import StrEnum
from typing import Annotated

import typer


class KindName(StrEnum):
    """A kind of record."""

    sft = "sft"
    preference = "preference"
    prompt = "prompt"
    rollout = "rollout"


class FormatName(StrEnum):
    """How files are written."""

    jsonl = "jsonl"
    json = "json"
    csv = "csv"
    tsv = "tsv"
    text = "text"
    parquet = "parquet"
    arrow = "arrow"
    hub = "hub"


class ShapeName(StrEnum):
    """How rows are laid out."""

    records = "records"
    alpaca = "alpaca"
    sharegpt = "sharegpt"
    openai = "openai"
    transcript = "transcript"
    scored = "scored"
    rated = "rated"
    binarized = "binarized"
    rollouts = "rollouts"


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe, such as ppo.seed=1."),
]
