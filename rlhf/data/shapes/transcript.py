r"""HH-RLHF: a dialogue in one text, `\n\nHuman: ... \n\nAssistant: ...`."""

import re

from rlhf.data.shapes.layout import Fields, Layout, MisshapenError, need_text
from rlhf.data.shapes.turns import Turn, pair_of, prompt_of
from rlhf.recipe.data import RecordKind

_MARKER = re.compile(r"(?:\A\s*|\n[ \t\r]*\n[ \t]*)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: object) -> bool:
    """Whether the text starts with a Human turn and has an Assistant's."""
    if not isinstance(text, str):
        return False
    speakers = _MARKER.findall(text)
    return text.lstrip().startswith("Human:") and "Assistant" in speakers


def read_transcript(text: str, field: str) -> list[Turn]:
    """The turns of a transcript, stripped of white space around them; text before the first is a system message.

    A marker counts at the start of the text and after an empty line: `Human:` inside a paragraph is text.

    Raises:
        MisshapenError: if Human and Assistant do not alternate from Human on, or a turn but the last is empty.
    """
    parts = _MARKER.split(text)
    preamble, speakers, contents = parts[0].strip(), parts[1::2], [part.strip() for part in parts[2::2]]
    if not speakers:
        raise MisshapenError("bad_transcript", "has no Human and Assistant turns", field=field, value=text)
    for index, speaker in enumerate(speakers):
        due = "Human" if index % 2 == 0 else "Assistant"
        if speaker != due:
            message = f"has {speaker} as turn {index + 1}, where {due} is due"
            raise MisshapenError("bad_transcript", message, field=field, value=text)
        if not contents[index] and index + 1 < len(speakers):
            message = f"has an empty {speaker} turn as turn {index + 1}"
            raise MisshapenError("bad_transcript", message, field=field, value=text)
    turns: list[Turn] = [{"role": "system", "content": preamble}] if preamble else []
    return turns + [
        {"role": _ROLES[speaker], "content": content}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def _whole(text: str, field: str) -> list[Turn]:
    """A transcript that ends with the Assistant's words."""
    turns = read_transcript(text, field)
    if turns[-1]["role"] != "assistant":
        raise MisshapenError("bad_transcript", "ends with a Human turn", field=field, value=text[-60:])
    if not turns[-1]["content"]:
        raise MisshapenError(
            "bad_transcript", "ends with an empty Assistant turn", field=field, value=text[-60:]
        )
    return turns


def _opening(text: str, field: str) -> list[Turn]:
    return prompt_of(read_transcript(text, field))


def _reply(text: str) -> list[Turn]:
    return [{"role": "assistant", "content": text.strip()}]


def _fits(fields: Fields, kind: RecordKind) -> bool:
    starts_with_prompt = is_transcript(fields.get("prompt"))
    if kind == "preference":
        pair = (fields.get("chosen"), fields.get("rejected"))
        if starts_with_prompt:
            return all(isinstance(answer, str) for answer in pair)
        return "prompt" not in fields and all(is_transcript(answer) for answer in pair)
    if kind == "sft" and starts_with_prompt:
        return isinstance(fields.get("completion", fields.get("chosen")), str)
    if "prompt" in fields:
        return starts_with_prompt
    return is_transcript(fields.get("text", fields.get("chosen")))


def _convert(fields: Fields, kind: RecordKind) -> Fields:
    if kind == "prompt":
        name = next((name for name in ("prompt", "text", "chosen") if name in fields), "prompt")
        return {"prompt": _opening(need_text(fields, name), name)}
    if kind == "sft":
        return _demonstration(fields)
    chosen, rejected = need_text(fields, "chosen"), need_text(fields, "rejected")
    if "prompt" not in fields:
        return pair_of(_whole(chosen, "chosen"), _whole(rejected, "rejected"))
    prompt = _opening(need_text(fields, "prompt"), "prompt")
    return {"prompt": prompt, "chosen": _reply(chosen), "rejected": _reply(rejected)}


def _demonstration(fields: Fields) -> Fields:
    if "prompt" in fields:
        name = "completion" if "completion" in fields else "chosen"
        prompt = _opening(need_text(fields, "prompt"), "prompt")
        return {"prompt": prompt, "completion": _reply(need_text(fields, name))}
    name = "chosen" if "chosen" in fields and "text" not in fields else "text"
    return {"messages": _whole(need_text(fields, name), name)}


TRANSCRIPT = Layout(
    columns={
        "prompt": ("prompt",),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
        "completion": ("completion", "response"),
        "text": ("text", "transcript", "dialogue", "conversation"),
    },
    fits=_fits,
    convert=_convert,
)
"""Human and Assistant in one text."""
