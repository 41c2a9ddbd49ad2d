"""Impossible data settings: each with its place and what to do."""

import pytest
from tiny import TinyRecipe

from rlhf.errors import RecipeError
from rlhf.recipe import load_recipe
from rlhf.recipe.check_codes import CHECKS, DROPPABLE, GRADED

HOLDOUT = ("data.sft.eval=null", "data.sft.holdout={share: 0.1}")


def mixed(*sources: str) -> str:
    return f"data.sft.train={{path: a.jsonl, mix_in: [{', '.join(sources)}]}}"


@pytest.mark.parametrize(
    ("overrides", "where", "message"),
    [
        (["data.sft.holdout={share: 0.1}"], "data.sft.holdout", "but eval is given: keep one of both"),
        (
            ["data.checks={severity: {blank: warning}}"],
            "data.checks.severity.blank",
            "broken rows stay errors",
        ),
        (
            ["data.checks={severity: {bad_json: off}}"],
            "data.checks.severity.bad_json",
            "broken rows stay errors",
        ),
        (["data.checks={severity: {htlm: 'off'}}"], "data.checks.severity.htlm", "did you mean html?"),
        (
            ["data.sft.train={path: a, prepare: {drop: [emial]}}"],
            "data.sft.train.prepare.drop",
            "did you mean email?",
        ),
        (
            ["data.sft.train={path: a, prepare: {drop: [blank]}}"],
            "data.sft.train.prepare.drop",
            "no check that rows",
        ),
        (
            ["data.sft.train={path: a, prepare: {drop: [length_bias]}}"],
            "data.sft.train.prepare.drop",
            "no check that",
        ),
        (
            ["data.sft.eval={path: a, prepare: {drop: [sensitive_word]}}"],
            "data.sft.eval.prepare.drop",
            "add data.checks.sensitive_words",
        ),
        (
            ["data.prompts.train={path: a, prepare: {weights: {by: source, values: {x: 2}}}}"],
            "data.prompts.train.prepare.weights",
            "prompts have no weights",
        ),
        (
            ["data.sft.train={path: a, prepare: {weights: {by: prompt, values: {x: 2}}}}"],
            "data.sft.train.prepare.weights.by",
            "source or metadata.ENTRY",
        ),
        (
            [mixed("{path: b, share: 0.5}", "{path: c, share: 0.5}")],
            "data.sft.train.mix_in",
            "the shares add to 1:",
        ),
        (
            [mixed("{path: b, share: 0.5, mix_in: [{path: c, share: 0.5}]}")],
            "data.sft.train.mix_in.0.mix_in",
            "list it beside this one",
        ),
        (
            [mixed("{path: b, share: 0.5, prepare: {drop: [emial]}}")],
            "data.sft.train.mix_in.0.prepare.drop",
            "did you mean email?",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    tiny_recipe: TinyRecipe, overrides: list[str], where: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tiny_recipe.path, overrides)
    (line,) = [line for line in str(caught.value).splitlines() if f" {where}: " in line]
    assert message in line


def test_what_can_be_is_taken(tiny_recipe: TinyRecipe) -> None:
    recipe = load_recipe(
        tiny_recipe.path,
        [
            *HOLDOUT,
            "data.checks={severity: {html: error, nul: 'off', tie: error, eval_leak: warning}, sensitive_words: words.txt}",
            mixed(
                "{path: b, share: 0.5, prepare: {drop: [sensitive_word, contradiction]}}",
                "{path: c, share: 0.4}",
            ),
        ],
    )
    assert recipe.data.checks.severity["html"] == "error"


def test_held_out_rows_of_the_training_split_serve_as_eval(tiny_recipe: TinyRecipe) -> None:
    prompts = ("data.prompts.eval=null", "data.prompts.holdout={share: 0.2, by: source}")
    early = ("sft.patience=2", "ppo.evaluation.best_of_n=4")
    recipe = load_recipe(tiny_recipe.path, [*HOLDOUT, *prompts, *early])
    assert recipe.splits("sft").has_eval
    assert recipe.splits("reward").has_eval
    train, held = recipe.reads("sft")
    assert (train.key, train.part, held.key, held.part) == ("sft.train", "train", "sft.eval", "held_out")
    assert held.source == train.source
    assert held.holdout is not None
    assert held.holdout.share == 0.1
    assert [read.part for read in recipe.reads("reward")] == ["all", "all"]
    without = load_recipe(tiny_recipe.path, ["data.sft.eval=null"])
    assert not without.splits("sft").has_eval


def test_demonstrations_beside_ppo_leave_the_held_out_rows_out(tiny_recipe: TinyRecipe) -> None:
    recipe = load_recipe(tiny_recipe.path, [*HOLDOUT, "ppo.ptx_coef=0.1"])
    assert [(read.key, read.part) for read in recipe.reads("ppo")][-1] == ("sft.train", "train")
    keys = [read.key for read in recipe.all_reads(["sft", "ppo"])]
    assert keys == ["sft.train", "sft.eval", "prompts.train", "prompts.eval"]


def test_what_breaks_a_row_or_a_file_cannot_be_graded() -> None:
    fixed = set(CHECKS) - set(GRADED)
    assert {"blank", "bad_json", "truncated", "file_missing", "equal_pair", "unknown_field"} <= fixed
    assert not fixed & {"html", "duplicate", "eval_leak", "tie", "no_label"}
    assert len(set(GRADED)) == len(GRADED)


def test_only_what_is_about_one_row_can_be_dropped() -> None:
    assert {"html", "nul", "near_duplicate", "mixed_languages"} <= set(DROPPABLE)
    assert not {"eval_leak", "length_bias", "label_imbalance", "tie", "no_label"} & set(DROPPABLE)
