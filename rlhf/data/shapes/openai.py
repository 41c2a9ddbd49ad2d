"""OpenAI: chat messages, with whatever the fine-tuning API allows in them, and its preference pairs."""

from rlhf.data.shapes.layout import Fields, Layout, MisshapenError, as_list, as_object, need
from rlhf.data.shapes.turns import is_turns, prompt_of, read_turns
from rlhf.recipe.data import RecordKind

_OURS = ("system", "user", "assistant")


def _fits(fields: Fields, kind: RecordKind) -> bool:
    if kind == "preference":
        return "preferred_output" in fields and "non_preferred_output" in fields
    if "input" in fields:
        return kind == "prompt" and "messages" in (as_object(fields["input"]) or {})
    if is_turns(fields.get("conversations"), ("role",)):
        return True
    ours = kind == "sft" and "tools" not in fields and _is_plain(fields.get("messages"))
    return not ours and is_turns(fields.get("messages"), ("role",))


def _is_plain(messages: object) -> bool:
    """Whether these are messages that our records take as they are."""
    return all(
        (turn := as_object(item) or {}).keys() == {"role", "content"}
        and turn["role"] in _OURS
        and isinstance(turn["content"], str)
        for item in as_list(messages) or []
    )


def _convert(fields: Fields, kind: RecordKind) -> Fields:
    source, path, name = fields, "", "messages" if "messages" in fields else "conversations"
    if "input" in fields:
        given = as_object(fields["input"])
        if given is None:
            value = fields["input"]
            raise MisshapenError(
                "wrong_type", "should be an object with messages", field="input", value=value
            )
        source, path, name = given, "input.", "messages"
    for where, place in ((fields, ""), (source, path)):
        if where.get("tools"):
            raise MisshapenError("tool_calls", "declares tools", field=f"{place}tools", value=where["tools"])
    if source.get(name) is None:
        raise MisshapenError("missing_field", "is missing", field=f"{path}messages")
    turns = read_turns(source[name], f"{path}{name}", learnt=kind == "sft")
    if kind == "sft":
        return {"messages": turns}
    if kind == "prompt":
        return {"prompt": prompt_of(turns)}
    return {
        "prompt": turns,
        "chosen": read_turns(need(fields, "preferred_output"), "preferred_output"),
        "rejected": read_turns(need(fields, "non_preferred_output"), "non_preferred_output"),
    }


OPENAI = Layout(
    columns={
        "messages": ("messages",),
        "conversations": ("conversations", "conversation"),
        "tools": ("tools", "functions"),
        "parallel_tool_calls": ("parallel_tool_calls",),
        "input": ("input",),
        "preferred_output": ("preferred_output", "preferred_completion"),
        "non_preferred_output": ("non_preferred_output", "non_preferred_completion"),
    },
    fits=_fits,
    convert=_convert,
    lists=frozenset(
        ("messages", "conversations", "tools", "input", "preferred_output", "non_preferred_output")
    ),
)
"""messages, or input with preferred_output and non_preferred_output."""
