"""What the tokenizer shows of a split, and where it comes from."""

import pytest
from encoded import TOKENIZER, dialogue, ppo_section, read_of, reward_section, sft_section
from tiny import write_tiny_recipe

from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import load_recipe
from rlhf.recipe.checks import ChecksSection
from rlhf.stages.tokens import checks as token_checks
from rlhf.stages.tokens.checks import check_tokens, section_of
from rlhf.stages.tokens.tokenizer import load_recipe_tokenizer

LONG = "the cat sat on the mat. abcdefghijklmnopqrstuvwxyz"


def found(read, section, *, tokenizer=TOKENIZER, chat=False, **checks):
    faults = check_tokens(tokenizer, read, section, chat=chat, checks=ChecksSection(**checks))
    return [(fault.code, fault.severity, fault.line) for fault in faults]


def test_good_rows_have_no_finding(tmp_path):
    rows = [{"prompt": "is it good?", "completion": f" it is {n}."} for n in range(4)]
    assert found(read_of(tmp_path, "sft", rows), sft_section(max_length=100)) == []


def test_rows_are_counted_as_they_are_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(token_checks, "TOLD_ROWS", 2)
    read = read_of(tmp_path, "sft", [{"prompt": "a", "completion": f" {n}"} for n in range(5)])
    told = []
    section = sft_section(max_length=100)
    faults = check_tokens(TOKENIZER, read, section, chat=False, checks=ChecksSection(), on_rows=told.append)
    assert (list(faults), told) == ([], [2, 4])


def test_equal_answers_and_a_row_without_label_are_found_where_rows_are_cut(tmp_path):
    pair = {"prompt": "a", "chosen": LONG + " good", "rejected": LONG + " bad"}
    other = {"prompt": "a", "chosen": " b", "rejected": " c"}
    pairs = read_of(tmp_path, "preference", [other, pair])
    cut = {"max_length": 12, "over_length": "truncate"}
    assert found(pairs, reward_section(**cut), max_cut_share=1) == [("equal_after_truncation", "warning", 2)]
    rows = read_of(
        tmp_path, "sft", [{"prompt": LONG, "completion": " a"}, {"prompt": "a", "completion": " b"}]
    )
    assert found(rows, sft_section(**cut), max_cut_share=1) == [("no_label", "error", 1)]


def test_long_rows_are_told_once_above_a_share(tmp_path):
    rows = [{"prompt": "a", "completion": " b"}] * 2 + [
        {"prompt": "a", "completion": LONG},
        {"prompt": "a", "completion": LONG + "?"},
    ]
    read = read_of(tmp_path, "sft", rows)
    section = sft_section(max_length=12, over_length="drop")
    assert found(read, section, max_cut_share=0.5) == []
    (fault,) = check_tokens(TOKENIZER, read, section, chat=False, checks=ChecksSection(max_cut_share=0.4))
    assert (fault.code, fault.severity) == ("over_length", "warning")
    assert "2 of 4 rows (50.0%)" in fault.message
    lengths = [len(TOKENIZER.encode("a" + text)) + 1 for text in (LONG + "?", LONG)]
    assert f"sft.jsonl:4 ({lengths[0]} tokens)" in fault.message
    assert fault.message.index("sft.jsonl:4") < fault.message.index("sft.jsonl:3")
    assert found(read, section, severity={"over_length": "off"}) == []


def test_each_long_row_is_an_error_where_the_run_would_stop_at_it(tmp_path):
    read = read_of(tmp_path, "prompt", [{"prompt": "a"}, {"prompt": LONG}])
    section = ppo_section(max_prompt_length=12)
    assert found(read, section) == [("over_length", "error", 2)]
    assert found(read, section, severity={"over_length": "off"}) == [("over_length", "error", 2)]


def test_a_row_that_cannot_be_encoded_is_found(tmp_path):
    rows = [{"prompt": "a", "completion": " b"}, {"prompt": "a", "completion": " b<|eos|> c"}]
    read = read_of(tmp_path, "sft", rows)
    faults = found(read, sft_section())
    assert ("cannot_encode", "error", 2) in faults
    assert all(line == 2 for _, _, line in faults)


def test_a_special_token_of_this_tokenizer_is_found(tmp_path):
    """Those of well-known chat models are told without a tokenizer; EOS may end a text, where it stands anyway."""
    tokenizer = train_tokenizer(["a b c"], 300)
    tokenizer.add_special_tokens({"eos_token": "@@end", "additional_special_tokens": ["@@turn"]})
    rows = [{"prompt": "a", "completion": " c@@end"}, {"prompt": "a @@turn b", "completion": " c"}]
    read = read_of(tmp_path, "sft", rows)
    assert found(read, sft_section(), tokenizer=tokenizer) == [("special_token", "warning", 2)]
    assert found(read, sft_section()) == []
    rows = [{"prompt": "a <|im_end|> b", "completion": " c"}]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert found(read_of(tmp_path, "sft", rows), sft_section(), tokenizer=tokenizer) == []


def test_a_template_that_does_not_stop_is_one_finding(tmp_path):
    tokenizer = train_tokenizer(["a cat"], 300)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    read = read_of(tmp_path, "sft", [{"messages": dialogue("a", "b")}] * 3)
    assert found(read, sft_section(), tokenizer=tokenizer) == [("template_no_stop", "error", None)]
    tokenizer.chat_template = None
    for level in ("error", "off"):
        severity = {"cannot_encode": level}
        assert found(read, sft_section(), tokenizer=tokenizer, severity=severity) == [
            ("cannot_encode", "error", None)
        ]


def test_ptx_rows_follow_the_rule_that_the_ppo_stage_follows(tmp_path):
    recipe = load_recipe(write_tiny_recipe(tmp_path, {"ppo": {"ptx_coef": 0.5}}).path, [])
    reads = {read.key: read for read in recipe.reads("ppo")}
    assert section_of(recipe, "ppo", reads["sft.train"]) == recipe.sft
    assert section_of(recipe, "ppo", reads["prompts.train"]) == recipe.ppo
    without = recipe.model_copy(update={"sft": None})
    rule = section_of(without, "ppo", reads["sft.train"])
    assert (rule.max_length, rule.over_length) == (32 + 12, "drop")


@pytest.fixture
def recipe(tmp_path):
    return load_recipe(write_tiny_recipe(tmp_path).path, [f"workspace={tmp_path / 'workspace'}"])


def with_model(recipe, path):
    return recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"scratch": None, "path": path})}
    )


def test_the_recipes_tokenizer_is_loaded_where_it_is_here(recipe, tmp_path):
    TOKENIZER.save_pretrained(tmp_path / "model")
    loaded = load_recipe_tokenizer(with_model(recipe, str(tmp_path / "model")))
    assert loaded.tokenizer.encode("is it good?") == TOKENIZER.encode("is it good?")
    assert loaded.missing == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (None, "trained by the SFT stage"),
        ("nobody/has-this-model", "not on this machine"),
        ("registry:nothing@1", "not on this machine"),
        ("/no/such/folder", "not on this machine"),
    ],
)
def test_it_says_why_there_is_no_tokenizer(recipe, path, reason):
    missing = load_recipe_tokenizer(recipe if path is None else with_model(recipe, path))
    assert missing.tokenizer is None
    assert reason in missing.missing
