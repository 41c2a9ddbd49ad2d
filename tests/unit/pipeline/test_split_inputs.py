"""Which data settings decide a stage's result: those count, and what stands at its default leaves older runs valid."""

from pathlib import Path
from typing import Any

import pytest
from tiny import TinyRecipe

from rlhf.recipe import load_recipe
from rlhf.stages.inputs import stage_inputs

NEW_AT_DEFAULTS = (
    "{path: sft.train.jsonl, pairs: best_worst, min_margin: 0.0, on_error: fail, max_faulty_share: 0.01, mix_in: [], "
    "prepare: {clean: [], drop: [], deduplicate: none, seed: 0}}"
)


def settings(recipe: TinyRecipe, *overrides: str, stage: Any = "sft") -> dict[str, Any]:
    given = load_recipe(recipe.path, overrides)
    return stage_inputs(given, stage, policy=None, reward_model=None, data={}).settings


def train(text: str) -> str:
    return f"data.sft.train={{path: sft.train.jsonl, {text}}}"


def test_settings_at_their_defaults_are_not_there(tiny_recipe: TinyRecipe) -> None:
    plain = settings(tiny_recipe)
    assert {key: value for key, value in plain.items() if key.startswith("data.")} == {
        "data.chat": True,
        "data.sft.train.extra": "error",
        "data.sft.eval.extra": "error",
    }
    assert settings(tiny_recipe, f"data.sft.train={NEW_AT_DEFAULTS}") == plain
    ppo = settings(tiny_recipe, stage="ppo")
    assert "ppo.over_length" not in ppo
    assert settings(tiny_recipe, "ppo.over_length=drop", stage="ppo")["ppo.over_length"] == "drop"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        (train("shape: alpaca"), "data.sft.train.shape", "alpaca"),
        (train("pairs: all"), "data.sft.train.pairs", "all"),
        (train("min_margin: 0.5"), "data.sft.train.min_margin", 0.5),
        (train("prepare: {clean: [nfc]}"), "data.sft.train.prepare.clean", ["nfc"]),
        (train("prepare: {sample: 3}"), "data.sft.train.prepare.sample", 3),
        (train("prepare: {balance: {by: source}}"), "data.sft.train.prepare.balance.by", "source"),
        (train("prepare: {deduplicate: near}"), "data.sft.train.checks.near_duplicate_similarity", 0.8),
        (train("prepare: {drop: [over_long]}"), "data.sft.train.checks.max_chars", 100_000),
        (train("mix_in: [{path: b.jsonl, share: 0.25}]"), "data.sft.train.mix_in.0.share", 0.25),
        (
            train("mix_in: [{path: b.jsonl, share: 0.25, repeat: true}]"),
            "data.sft.train.mix_in.0.repeat",
            True,
        ),
    ],
)
def test_settings_that_change_rows_count(
    tiny_recipe: TinyRecipe, override: str, key: str, value: object
) -> None:
    assert settings(tiny_recipe, override)[key] == value


def test_a_holdout_counts_on_both_sides(tiny_recipe: TinyRecipe) -> None:
    found = settings(tiny_recipe, "data.sft.eval=null", "data.sft.holdout={share: 0.2}")
    assert found["data.sft.train.holdout.share"] == found["data.sft.eval.holdout.share"] == 0.2
    assert found["data.sft.train.holdout.part"] == "train"
    assert found["data.sft.eval.holdout.part"] == "held_out"


def test_what_only_tells_does_not_count(tiny_recipe: TinyRecipe) -> None:
    plain = settings(tiny_recipe)
    for override in (
        "data.checks={severity: {html: error}, max_length_bias: 0.9, max_chars: 5, near_duplicate_similarity: 0.5}",
        train("on_error: quarantine, max_faulty_share: 0.5"),
    ):
        assert settings(tiny_recipe, override) == plain


def test_severities_count_where_they_turn_rows_away(tiny_recipe: TinyRecipe) -> None:
    leaves_out = train("on_error: quarantine")
    found = settings(
        tiny_recipe, leaves_out, "data.checks={severity: {email: error, html: 'off', tie: error}}"
    )
    assert found["data.sft.train.checks.errors"] == ["nul", "email"]
    assert "data.sft.eval.checks.errors" not in found
    assert (
        settings(tiny_recipe, leaves_out, "data.checks={severity: {nul: 'off'}}")[
            "data.sft.train.checks.errors"
        ]
        == []
    )


def test_findings_beside_other_rows_count_where_they_turn_rows_away(tiny_recipe: TinyRecipe) -> None:
    checks = "data.checks={severity: {duplicate: error, length_bias: error}}"
    assert settings(tiny_recipe, checks) == settings(tiny_recipe)
    found = settings(tiny_recipe, train("on_error: quarantine"), checks)
    assert found["data.sft.train.checks.errors"] == ["nul", "duplicate"]


def test_a_format_counts_where_it_is_another_than_the_suffix_says(tiny_recipe: TinyRecipe) -> None:
    assert settings(tiny_recipe, train("format: jsonl")) == settings(tiny_recipe)
    assert settings(tiny_recipe, train("format: text"))["data.sft.train.format"] == "text"


def test_lists_of_words_count_by_their_content(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, other = tmp_path / "words.txt", tmp_path / "other.txt"
    words.write_text("um\n")
    other.write_text("um\n")
    keys = ("data.sft.train.prepare.filler_words", "data.sft.train.checks.sensitive_words")

    def digests(name: str) -> list[str]:
        steps = train(f"prepare: {{filler_words: {name}, drop: [sensitive_word]}}")
        found = settings(tiny_recipe, steps, f"data.checks={{sensitive_words: {name}}}")
        return [found[key] for key in keys]

    first = digests("words.txt")
    assert digests("other.txt") == first
    words.write_text("uh\n")
    second = digests("words.txt")
    assert all(one != two for one, two in zip(first, second, strict=True))
