"""What of a split's settings decides its records; the data's own digest says the rest. No torch.

Settings that came after the first runs are left out where they stand at their defaults, so that these runs stay valid.
"""

import hashlib
from pathlib import Path
from typing import Any

from rlhf.data import find_format
from rlhf.recipe import DataSource
from rlhf.recipe.check_codes import BEYOND_ROWS, CHECKS, check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import MixedSource
from rlhf.recipe.recipe import ReadSplit

_ALWAYS = {"columns", "extra"}
_LATER = {"shape", "pairs", "min_margin", "repeat"}


def split_settings(read: ReadSplit, checks: ChecksSection) -> dict[str, Any]:
    """The settings of a source, its steps and those of what is mixed in; files that they name by their content.

    Args:
        read: the split.
        checks: the recipe's; only those count that leave rows out.
    """
    settings = _source(read.source, checks)
    if read.holdout is not None and read.part != "all":
        settings["holdout"] = read.holdout.model_dump(mode="json") | {"part": read.part}
    if read.source.mix_in and read.part != "held_out":
        mixed = enumerate(read.source.mix_in)
        settings["mix_in"] = {str(index): {"share": one.share} | _source(one, checks) for index, one in mixed}
    return settings


def content_digest(path: str | None) -> str | None:
    """SHA-256 of a file that the recipe names: what it says counts, not where it lies."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path is not None else None


def _source(source: DataSource | MixedSource, checks: ChecksSection) -> dict[str, Any]:
    settings = source.model_dump(mode="json", include=_ALWAYS)
    settings |= source.model_dump(mode="json", include=_LATER, exclude_defaults=True)
    if source.format not in (None, find_format(source.model_copy(update={"format": None}))):
        settings["format"] = source.format  # the same bytes read in another way than their file's suffix says
    prepare = source.prepare.model_dump(mode="json", exclude_defaults=True)
    if source.prepare.filler_words is not None:
        prepare["filler_words"] = content_digest(source.prepare.filler_words)
    if prepare:
        settings["prepare"] = prepare
    if looked_for := _looked_for(source, checks):
        settings["checks"] = looked_for
    return settings


def _looked_for(source: DataSource, checks: ChecksSection) -> dict[str, Any]:
    """Of the checks what decides which rows stay. Under `on_error: fail` no finished run had a faulty row."""
    codes = [*check_codes("content"), *(one for one in check_codes("across") if one not in BEYOND_ROWS)]
    graded = {code: checks.severity.get(code, CHECKS[code].severity) for code in codes}
    leaves_out = source.on_error == "quarantine"
    refusing = [code for code, severity in graded.items() if severity == "error" and leaves_out]
    usual = [code for code in graded if CHECKS[code].severity == "error" and leaves_out]
    acting = {*refusing, *source.prepare.drop}
    settings: dict[str, Any] = {} if refusing == usual else {"errors": refusing}
    if "over_long" in acting:
        settings["max_chars"] = checks.max_chars
    if "sensitive_word" in acting:
        settings["sensitive_words"] = content_digest(checks.sensitive_words)
    if "near_duplicate" in acting or source.prepare.deduplicate == "near":
        settings["near_duplicate_similarity"] = checks.near_duplicate_similarity
    return settings
