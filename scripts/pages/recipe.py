"""The recipe's reference, from its Pydantic models."""

import json
from typing import Any

from pydantic import BaseModel

from pages.tables import table_row
from rlhf.recipe import Recipe
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSection, DataSource, MixedSource, Splits
from rlhf.recipe.evaluation import EvaluationSection, WatchSection
from rlhf.recipe.launch import LaunchSection
from rlhf.recipe.model import LoRA, ModelSection, ScratchModel
from rlhf.recipe.ppo import KLSection, PPOSection, SamplingSection
from rlhf.recipe.preparation import Balance, Holdout, Preparation, RowWeights
from rlhf.recipe.rewards import RewardSource, ShapingSection
from rlhf.recipe.training import RewardSection, SFTSection, TrainingSection
from rlhf.recipe.vllm import VLLMSection

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Recipe,
    "model": ModelSection,
    "model.scratch": ScratchModel,
    "model.lora": LoRA,
    "data": DataSection,
    "data.sft, data.preference, data.prompts": Splits,
    "train and eval of a split": DataSource,
    "prepare": Preparation,
    "prepare.balance": Balance,
    "prepare.weights": RowWeights,
    "mix_in": MixedSource,
    "holdout": Holdout,
    "data.checks": ChecksSection,
    "sft and reward": TrainingSection,
    "sft alone": SFTSection,
    "reward alone": RewardSection,
    "ppo": PPOSection,
    "ppo.kl": KLSection,
    "ppo.sampling": SamplingSection,
    "ppo.sampling.vllm": VLLMSection,
    "ppo.rewards, a list; and ppo.evaluation.gold": RewardSource,
    "ppo.shaping": ShapingSection,
    "ppo.evaluation": EvaluationSection,
    "ppo.watch": WatchSection,
    "launch": LaunchSection,
}
"""Heading -> the model whose fields it lists."""
_SHARED: dict[type[BaseModel], type[BaseModel]] = {
    SFTSection: TrainingSection,
    RewardSection: TrainingSection,
    MixedSource: DataSource,
}
"""Sections that show only what the other one has not."""
RECIPE_INTRO = """# Recipe reference

A recipe is one YAML file: one run. A key that is not listed here is refused, and all faults of a file are reported at
once, each with file, line and path. `rlhf schema recipe` prints the same as JSON Schema.

- `--set section.key=value` (repeatable) overrides one value; the value is read as YAML, so `--set ppo.kl.target=6` gives a
  number and `--set ppo.cliprange_value=null` switches clipping off.
- Paths are relative to the folder in which the command is called.
- A recipe holds no secrets: tokens come from the environment (`HF_TOKEN`, `WANDB_API_KEY`), and a value that looks like one
  is refused.
- The resolved recipe (defaults filled in, hub revisions as commits) is written to `<workspace>/runs/<name>/recipe.json`.
- Rules over several fields (batch sizes that do not divide, sequences longer than the model's positions, a stage without
  its data, …) are checked before anything starts; the error names the fields.

"required" below means that the key has no default once its section is there.
"""


def recipe_page() -> str:
    """The recipe's reference.

    Raises:
        ValueError: a section of the recipe has no heading in SECTIONS.
    """
    defined = Recipe.model_json_schema(mode="validation")["$defs"]
    unlisted = set(defined) - {model.__name__ for model in SECTIONS.values()}
    if unlisted:
        raise ValueError(f"SECTIONS lacks {', '.join(sorted(unlisted))}")
    parts = [RECIPE_INTRO]
    for heading, model in SECTIONS.items():
        parts.append(f"## {heading}\n\n{_summary(model)}\n\n{_field_table(model)}")
    return "\n".join(parts)


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _field_table(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    if "$ref" in schema:  # a model that can hold itself
        schema = schema["$defs"][model.__name__]
    required = schema.get("required", [])
    shared = _SHARED.get(model)
    inherited = set(shared.model_fields) if shared else set[str]()
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if name in inherited:
            continue
        default = "required" if name in required else _default(field)
        cells = (f"`{name}`", _value(field), default, field.get("description", ""))
        rows.append(table_row(cells))
    return "\n".join(rows) + "\n"


def _value(field: dict[str, Any]) -> str:
    """What a JSON Schema admits, in words."""
    if "$ref" in field:
        return _section_link(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        return " or ".join(_value(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field["type"] == "array":
        return f"list of {_value(field['items'])}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "object": "mapping",
        "null": "null",
    }[field["type"]]
    return words + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:.10g}" for key, sign in signs.items() if key in field]
    if "pattern" in field:
        bounds.append(f"matching `{field['pattern']}`")
    if "maxLength" in field:
        bounds.append(f"at most {field['maxLength']} characters")
    return f" {', '.join(bounds)}" if bounds else ""


def _default(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return "its own defaults"
    # A default_factory leaves no default in the schema; ours all make an empty list or mapping.
    value = field.get("default", [] if field.get("type") == "array" else {})
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _section_link(name: str) -> str:
    model = next(model for model in SECTIONS.values() if model.__name__ == name)
    if shared := _SHARED.get(model):
        return f"section: [shared keys](#{_anchor_of(shared)}), [own keys](#{_anchor_of(model)})"
    return f"[section](#{_anchor_of(model)})"


def _anchor_of(model: type[BaseModel]) -> str:
    return anchor(next(heading for heading, listed in SECTIONS.items() if listed is model))


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")
