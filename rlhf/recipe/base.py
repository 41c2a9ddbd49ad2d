"""The base of every recipe section: frozen, unknown keys refused, field docstrings kept for the reference."""

from pydantic import BaseModel, ConfigDict


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
