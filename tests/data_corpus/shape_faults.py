"""Faults in rows that are laid out in other people's shapes."""

from data_corpus.clean_rows import Values
from data_corpus.planted import BINARY, CSVS, GONE, JSONS, ROWS, Planted, everywhere
from data_corpus.record_faults import one

_CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def says(role: str, text: str) -> Values:
    return {"from": role, "value": text}


SHAPES: tuple[Planted, ...] = (
    Planted(
        "unknown_shape",
        "prompt",
        everywhere("prompt", {"prompt": GONE, "utterance": "Hello there.", "reply_to": "u7"}),
        None,
        at=(0,),  # the first row shows the shape
    ),
    one(
        "unknown_role",
        "sharegpt",
        {"conversations": [says("human", "Hello?"), says("narrator", "Nobody answers.")]},
        "conversations[1].from",
    ),
    one(
        "unknown_role",
        "openai",
        {"messages": [{"role": "narrator", "content": "Once."}, {"role": "assistant", "content": "Yes?"}]},
        "messages[0].role",
    ),
    one(
        "tool_calls",
        "openai",
        {
            "messages": [
                {"role": "user", "content": "Is it warm?"},
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "content": "17 C"},
                {"role": "assistant", "content": "No, 17 degrees."},
            ]
        },
        "messages[1].tool_calls",
        formats=(*JSONS, *CSVS),
    ),
    one(
        "tool_calls",
        "openai",
        {"messages": [{"role": "user", "content": "Is it warm?"}, {"role": "tool", "content": "17 C"}]},
        "messages[1].role",
    ),
    one(
        "tool_calls",
        "sharegpt",
        {"conversations": [says("human", "Hi?"), says("function_call", "{}")]},
        "conversations[1].from",
    ),
    one("bad_transcript", "transcript", {"chosen": "Nobody speaks here."}, "chosen"),
    one("bad_transcript", "transcript", {"rejected": "\n\nAssistant: Yes.\n\nHuman: What?"}, "rejected"),
    one("no_common_prompt", "transcript", {"chosen": "\n\nHuman: Where to?\n\nAssistant: North."}, "chosen"),
    one(
        "equal_pair",
        "transcript",
        {name: "\n\nHuman: Where?\n\nAssistant: North." for name in ("chosen", "rejected")},
        "chosen",
    ),
    one("blank", "alpaca", {"output": " "}, "completion"),
    one("wrong_type", "alpaca", {"output": 7}, "completion", formats=JSONS),
    one("wrong_type", "alpaca", {"output": None}, "output", formats=(*JSONS, *BINARY)),
    one(
        "roles",
        "sharegpt",
        {"conversations": [says("human", "Hello?"), says("human", "Anyone?")]},
        "messages",
    ),
    one(
        "blank",
        "sharegpt",
        {"conversations": [says("human", "Hello?"), says("gpt", "")]},
        "messages[1].content",
    ),
    Planted("tie", "scored", {17: {"score": 0.25}}, None, at=(16,)),
    Planted(
        "wrong_type",
        "scored",
        {17: {"score": "excellent"}},
        "score",
        formats=(*JSONS, *CSVS),
        also=(("single_answer", None, 16),),
    ),
    Planted("single_answer", "scored", {17: {"prompt": "Who asks this alone?"}}, None, at=(16, 17)),
    one("tie", "rated", {"scores": [3.0, 3.0]}, None),
    one("tie", "rated", {"scores": [3.0, 3.25]}, None, source={"min_margin": 0.5}),
    one("single_answer", "rated", {"responses": ["Alone."], "scores": [3.0]}, None),
    one("length_mismatch", "rated", {"scores": [3.0]}, "scores"),
    one(
        "no_common_prompt",
        "binarized",
        {"chosen": [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": "No."}]},
        "prompt",
    ),
    one("blank", "rollouts", {"input": " "}, "prompt"),
)
"""Faults of values in foreign shapes."""

assert all(planted.formats in (ROWS, JSONS, (*JSONS, *CSVS), (*JSONS, *BINARY)) for planted in SHAPES)
