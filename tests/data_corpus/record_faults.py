"""Faults against the records' own rules, and in how rows become records."""

import datetime

from data_corpus.clean_rows import CLEAN, Values, assistant, user
from data_corpus.planted import ALL, AT, BINARY, CSVS, GONE, JSONS, Planted, everywhere

QUESTION = "What does a thief leave behind?"
ANSWER = assistant("Nothing, as the film has it.")
_SHORT = CLEAN["rollout"].rows[AT]["logprobs"]
assert isinstance(_SHORT, list)


def one(code: str, base: str, change: Values, field: str | None, **more: object) -> Planted:
    """A fault in one row."""
    return Planted(code, base, {AT: change}, field, **more)  # type: ignore[arg-type]  # the table's own options


RULES: tuple[Planted, ...] = (
    one("null_prompt", "preference", {"prompt": None}, "prompt", formats=(*JSONS, *BINARY)),
    one("wrong_type", "sft", {"prompt": 7}, "prompt", formats=JSONS),
    one("wrong_type", "sft", {"completion": {"text": "x"}}, "completion", formats=JSONS),
    one("wrong_type", "sft", {"metadata": []}, "metadata", formats=(*JSONS, *CSVS)),
    one(
        "wrong_type",
        "sft-messages",
        {"messages": [user("Hello?"), 3]},
        "messages[1]",
        formats=(*JSONS, *CSVS),
    ),
    one("wrong_type", "preference", {"margin": "much"}, "margin", formats=(*JSONS, *CSVS)),
    one("wrong_type", "preference", {"margin": True}, "margin", formats=JSONS),
    one("wrong_type", "rollout", {"step": 1.5}, "step", formats=(*JSONS, *CSVS)),
    one("wrong_type", "prompt", {"prompt": None}, "prompt", formats=(*JSONS, *BINARY)),
    one("out_of_range", "preference", {"margin": -1.0}, "margin"),
    one("out_of_range", "sft", {"weight": 0.0}, "weight"),
    one("out_of_range", "rollout", {"prompt_ids": [5, -1]}, "prompt_ids[1]"),
    one("not_a_choice", "rollout", {"finish_reason": "done"}, "finish_reason"),
    one(
        "not_a_choice",
        "prompt-messages",
        {"prompt": [{"role": "narrator", "content": "Once."}]},
        "prompt[0].role",
    ),
    one("too_short", "rollout", {"prompt_ids": []}, "prompt_ids"),
    one("blank", "sft", {"completion": " \t "}, "completion"),
    one("blank", "preference", {"rejected": ""}, "rejected"),
    one("blank", "prompt", {"prompt": "\u00a0\u2003"}, "prompt"),
    one("blank", "sft-messages", {"messages": [user(QUESTION), assistant("")]}, "messages[1].content"),
    one("blank", "prompt-messages", {"prompt": []}, "prompt", formats=(*JSONS, *BINARY)),
    one("not_unicode", "sft", {"completion": "cut \ud83d"}, "completion", formats=JSONS),
    one("not_unicode", "sft", {"metadata": {"k": ["\udc00"]}}, "metadata", formats=(*JSONS, *CSVS)),
    one(
        "not_unicode",
        "sft-messages",
        {"messages": [user("cut \ud83d"), ANSWER]},
        "messages[0].content",
        formats=(*JSONS, *CSVS),
    ),
    one(
        "not_json",
        "prompt",
        {"day": datetime.date(2024, 2, 29)},
        "metadata",
        formats=BINARY,
        source={"extra": "metadata"},
    ),
    one("shape", "sft-either", {"messages": [user(QUESTION), ANSWER]}, "prompt"),
    one("shape", "sft-either", {"completion": None}, "prompt", formats=(*JSONS, *BINARY)),
    one("mixed", "preference", {"rejected": [ANSWER]}, "rejected", formats=(*JSONS, *CSVS)),
    one("mixed", "sft", {"completion": [ANSWER]}, "completion", formats=(*JSONS, *CSVS)),
    one("roles", "sft-messages", {"messages": [user(QUESTION), user(QUESTION), ANSWER]}, "messages"),
    one("roles", "sft-messages", {"messages": [user(QUESTION)]}, "messages"),
    one("roles", "prompt-messages", {"prompt": [user(QUESTION), ANSWER]}, "prompt"),
    one("roles", "preference-messages", {"chosen": [user(QUESTION), ANSWER]}, "chosen"),
    one("equal_pair", "preference", {"chosen": "Heat.", "rejected": "Heat."}, "chosen"),
    one("equal_pair", "preference-messages", {"chosen": [ANSWER], "rejected": [ANSWER]}, "chosen"),
    one("no_common_prompt", "preference-implicit", {"chosen": [user(QUESTION), ANSWER]}, "chosen"),
    one("length_mismatch", "rollout", {"logprobs": [*_SHORT, -0.5]}, "logprobs"),
    one(
        "cannot_chat",
        "sft-either",
        {"prompt": GONE, "completion": GONE, "text": QUESTION},
        None,
        formats=JSONS,
        chat=True,
    ),
    Planted("cannot_chat", "sft-lines", everywhere("sft-lines", {}), None, formats=ALL, chat=True),
    one("unknown_field", "sft", {"film": "Heat"}, "film", formats=JSONS),
    one("unknown_field", "preference", {"chosen ": "Heat"}, "chosen ", formats=JSONS),
    Planted(
        "unknown_field",
        "sft",
        everywhere("sft", {"film": "Heat"}),
        "film",
        formats=(*CSVS, *BINARY),
        whole="column",
    ),
    one(
        "unknown_field",
        "sft-messages",
        {"messages": [user(QUESTION), {**ANSWER, "name": "Neil"}]},
        "messages[1].name",
        formats=(*JSONS, *CSVS),
    ),
    one("missing_field", "preference", {"rejected": GONE}, "rejected", formats=JSONS),
    one("wrong_type", "preference", {"rejected": None}, "rejected", formats=(*JSONS, *BINARY)),
    one("wrong_type", "rollout", {"policy": None}, "policy", formats=(*JSONS, *BINARY)),
    Planted(
        "missing_field",
        "preference",
        everywhere("preference", {"rejected": GONE}),
        "rejected",
        formats=(*CSVS, *BINARY),
        whole="column",
    ),
    one(
        "missing_field",
        "sft-messages",
        {"messages": [user(QUESTION), {"role": "assistant"}]},
        "messages[1].content",
        formats=(*JSONS, *CSVS),
    ),
    one("metadata_clash", "sft", {"source": "shop"}, "source", formats=JSONS, source={"extra": "metadata"}),
    Planted(
        "metadata_clash",
        "sft",
        everywhere("sft", {"source": "shop"}),
        "source",
        formats=(*CSVS, *BINARY),
        source={"extra": "metadata"},
    ),
    one("not_finite", "sft", {"weight": float("nan")}, "weight", formats=(*CSVS, *BINARY)),
    one("not_finite", "sft", {"weight": float("inf")}, "weight", formats=(*CSVS, *BINARY)),
    one("not_finite", "sft", {"metadata": {"k": [float("nan")]}}, "metadata", formats=CSVS),
    one("bad_json", "sft", {"metadata": "{'k': 1}"}, "metadata", formats=CSVS),
    one("truncated", "sft", {"metadata": '{"k": [1, '}, "metadata", formats=CSVS),
    one(
        "truncated",
        "sft-messages",
        {"messages": '[{"role": "user", "content": "Wh'},
        "messages",
        formats=CSVS,
    ),
    one("duplicate_key", "sft", {"metadata": '{"k": 1, "k": 2}'}, "metadata", formats=CSVS),
    one("bad_json", "prompt", {"metadata": "{'k': 1}"}, "metadata", formats=BINARY),
    one("truncated", "prompt", {"metadata": '{"k": [1, '}, "metadata", formats=BINARY),
    one("duplicate_key", "prompt", {"metadata": '{"k": 1, "k": 2}'}, "metadata", formats=BINARY),
)
"""Faults of values, in the order of `CHECKS`' groups."""
