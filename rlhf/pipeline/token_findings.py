"""What only the recipe's tokenizer shows of the data, added to what is found without one."""

from collections.abc import Mapping, Sequence

from rlhf.data import report_of
from rlhf.data.survey import Survey
from rlhf.recipe import Recipe, Stage


def add_token_findings(recipe: Recipe, stages: Sequence[Stage], surveys: Mapping[str, Survey]) -> str:
    """Encode every split as its stages will, before the first of them starts.

    Args:
        recipe: whose model has the tokenizer.
        stages: whose splits are looked at.
        surveys: split -> what is found so far; one with rows that stop a run is left as it is.

    Returns:
        Why nothing was looked at, in plain words; empty where it was.
    """
    if recipe.model.path is None:
        return "the SFT stage trains the tokenizer"
    # imported here: transformers takes seconds to load
    from rlhf.stages.tokens.checks import check_tokens, section_of
    from rlhf.stages.tokens.tokenizer import load_recipe_tokenizer

    tokenizer, missing = load_recipe_tokenizer(recipe)
    if tokenizer is None:
        return missing
    for stage in stages:
        for read in recipe.reads(stage):
            key = read.key if read.part != "held_out" else read.key.replace(".eval", ".train")
            if report_of(surveys[key]).refuses:
                continue
            section = section_of(recipe, stage, read)
            found = check_tokens(tokenizer, read, section, chat=recipe.data.chat, checks=recipe.data.checks)
            for fault in found:
                surveys[key].note(fault)
    return ""
