"""Secrets do not belong in a recipe: its resolved form is kept with the run, and the run is shared.

Tokens come from the environment (HF_TOKEN, WANDB_API_KEY, …) and are written nowhere.
"""

import re

_TOKEN = r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16})"
_CREDENTIALS = r"(?<=://)[^/\s@]+(?=@)"
_SECRET = re.compile(f"{_TOKEN}|{_CREDENTIALS}")
REDACTED = "[redacted]"


def has_secret(text: str) -> bool:
    """Whether the text holds an access token, or a URL with a user's name or password."""
    return _SECRET.search(text) is not None


def redact(text: str) -> str:
    """The text with each secret replaced by `[redacted]`."""
    return _SECRET.sub(REDACTED, text)
