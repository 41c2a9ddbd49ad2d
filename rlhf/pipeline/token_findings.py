"""What only the recipe's tokenizer shows of the data, added to what is found without one."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf.data import report_of
from rlhf.data.prepare import PreparedSplit
from rlhf.data.progress import Progress
from rlhf.data.survey import Survey
from rlhf.recipe import Recipe, Stage
from rlhf.recipe.preparation import Preparation
from rlhf.recipe.recipe import ReadSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.stages.tokens.checks import LengthSection


def add_token_findings(
    recipe: Recipe,
    stages: Sequence[Stage],
    surveys: Mapping[str, Survey],
    *,
    progress: Callable[[str], Progress] | None = None,
) -> str:
    """Encode every split as its stages will, before the first of them starts.

    Args:
        recipe: whose model has the tokenizer.
        stages: whose splits are looked at.
        surveys: split -> what is found so far, see `check_splits`; one with rows that stop a run is left as it is.
        progress: gives what to call for the split of that name.

    Returns:
        Why nothing was looked at, in plain words; empty where it was.

    Raises:
        DataError: a split that cannot be prepared as the recipe says, found with or without a tokenizer.
    """
    if recipe.model.path is None:
        _prove_preparation(recipe, stages, surveys)
        return "the SFT stage trains the tokenizer"
    # imported here: transformers takes seconds to load
    from rlhf.stages.tokens.tokenizer import load_recipe_tokenizer

    tokenizer, missing = load_recipe_tokenizer(recipe)
    if tokenizer is None:
        _prove_preparation(recipe, stages, surveys)
        return missing
    _encode(tokenizer, recipe, stages, surveys, progress)
    return ""


def _encode(
    tokenizer: "PreTrainedTokenizerBase",
    recipe: Recipe,
    stages: Sequence[Stage],
    surveys: Mapping[str, Survey],
    progress: Callable[[str], Progress] | None,
) -> None:
    from rlhf.stages.tokens.checks import check_tokens, section_of

    data = recipe.data
    done: list[tuple[ReadSplit, LengthSection]] = []
    for stage in stages:
        for read in recipe.reads(stage):
            section = section_of(recipe, stage, read)
            if _stops(read, surveys) or (read, section) in done:
                continue
            done.append((read, section))
            held = surveys[_key(read)]
            tell = progress and _by_rows(progress(f"{read.key} as tokens"), held.num_records)
            found = check_tokens(tokenizer, read, section, chat=data.chat, checks=data.checks, on_rows=tell)
            for fault in found:
                held.note(fault)


def _by_rows(progress: Progress, num_records: int) -> Callable[[int], None]:
    """Rows as a share of the split's records; a preparation that leaves some out ends before the whole."""
    return lambda num_rows: progress(min(num_rows / max(num_records, 1), 1.0))


def _prove_preparation(recipe: Recipe, stages: Sequence[Stage], surveys: Mapping[str, Survey]) -> None:
    """Go through the splits that have steps: what these lack would stop a later stage, hours on."""
    for read in recipe.all_reads(stages):
        has_steps = read.source.prepare != Preparation() or read.source.mix_in or read.holdout is not None
        if has_steps and not _stops(read, surveys):
            for _ in PreparedSplit(read, chat=recipe.data.chat, checks=recipe.data.checks):
                pass


def _key(read: ReadSplit) -> str:
    """The survey in which the split's rows lie."""
    return read.key if read.part != "held_out" else read.key.replace(".eval", ".train")


def _stops(read: ReadSplit, surveys: Mapping[str, Survey]) -> bool:
    """Whether the split, or what is mixed into it, has rows that stop a run."""
    key = _key(read)
    return any(
        report_of(found).refuses
        for name, found in surveys.items()
        if name == key or name.startswith(f"{key}.mix_in.")
    )
