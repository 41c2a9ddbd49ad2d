"""What every record shares: the base model, one message of a conversation, free metadata.

Rules raise `PydanticCustomError`, whose type names the rule: the data layer turns it into a fault with a remedy.
"""

import math
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

Role = Literal["system", "user", "assistant"]


class Record(BaseModel):
    """One row of data: frozen, unknown fields refused, no conversion between types, finite numbers alone."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def check_unicode(text: str) -> str:
    """Refuse lone surrogates: JSON can spell them (`"\\ud800"`), but tokenizers and files cannot encode them."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PydanticCustomError(
                "not_unicode",
                "has half of a surrogate pair at character {position}, which UTF-8 cannot encode",
                {"position": error.start},
            ) from error
    return text


def check_text(text: str) -> str:
    """Refuse text that is empty or whitespace alone, and text that UTF-8 cannot encode."""
    if not text or text.isspace():
        raise PydanticCustomError("blank", "is blank")
    return check_unicode(text)


def check_json(value: object) -> None:
    """Refuse what JSON cannot hold, at any depth: records are written as JSON Lines and JSON text in Parquet."""
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError(
                "not_finite", "holds {number}, which JSON has not", {"number": str(value)}
            )
    elif isinstance(value, str):
        check_unicode(value)
    elif isinstance(value, list):
        for item in cast(list[object], value):
            check_json(item)
    elif isinstance(value, dict):
        for key, item in cast(dict[object, object], value).items():
            _check_key(key)
            check_json(item)
    else:
        raise PydanticCustomError(
            "not_json", "holds a {type_name}, which JSON has not", {"type_name": type(value).__name__}
        )


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise PydanticCustomError("not_json", "has the key {key}: JSON's keys are text", {"key": repr(key)})
    check_unicode(key)


def _check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if metadata:
        check_json(metadata)
    return metadata


Text = Annotated[str, AfterValidator(check_text)]
"""Text that is not blank."""

Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]
"""Anything that JSON can hold; carried along, never trained on."""


class Message(Record):
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: Text
    """What is said."""
