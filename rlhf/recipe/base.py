"""The base of every recipe section: frozen, unknown keys refused, field docstrings kept for the reference."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a run and an artefact may be called: it becomes a folder's name."""
ArtefactName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""NumPy's generators take no larger one."""


class Section(BaseModel):
    """One block of the recipe file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )
