"""The page of all checks of data, from their table in the code."""

from pages.tables import table_row
from rlhf.recipe.check_codes import CHECKS, GRADED, Group, check_codes

CHECKS_INTRO = """# Checks of data

Everything that `rlhf validate` and every run look for. A finding names file, line (or row), field, value and remedy.

- An **error** refuses the row and stops a run before a model is loaded; with `on_error: quarantine` the row is left out and written down instead. What no row can be left out for stops it even so: a fault of a whole file, a leak, a finding about all rows together, and errors that the tokenizer shows. `rlhf validate` exits with 1.
- A **warning** is told and changes nothing; but a row of which there are no tokens (`no_label`, `cannot_encode`) is then left out and counted.
- [`data.checks.severity`](recipe.md#datachecks) in the recipe, or `--error CODE`, `--warning CODE` and `--off CODE` of [`rlhf validate`](cli.md#rlhf-validate), change that by code. Where the severity is "always error" they cannot: the row is broken, and there is nothing to train on.
- [`prepare.drop`](recipe.md#prepare) leaves out rows with a finding of the given codes.

What a record must be is in [records.md](records.md).
"""
HEADINGS: dict[Group, tuple[str, str]] = {
    "source": ("The source", "The file, folder, pattern or hub data set as a whole."),
    "syntax": ("Bytes and syntax", "What makes a file or a row unreadable."),
    "shape": ("The row's layout", "How columns become a record."),
    "record": ("The record's rules", "What every record must keep, whatever file it comes from."),
    "content": ("What the texts hold", "Looked for in every text of every record."),
    "across": (
        "Rows beside each other",
        "Found once all rows are read, and for a recipe across its splits and stages.",
    ),
    "tokens": ("With the recipe's tokenizer", "Found before training, or by `rlhf validate RECIPE`."),
}
"""Group -> its heading and what its checks look at."""


def checks_page() -> str:
    """Every check by group, with its severity, meaning and remedy."""
    return "\n".join([CHECKS_INTRO, *(_group_part(group) for group in HEADINGS)])


def _group_part(group: Group) -> str:
    heading, summary = HEADINGS[group]
    lines = [
        f"## {heading}",
        "",
        summary,
        "",
        "| code | severity | what is wrong | remedy |",
        "|---|---|---|---|",
    ]
    for code in check_codes(group):
        check = CHECKS[code]
        severity = check.severity if code in GRADED else f"always {check.severity}"
        lines.append(table_row((f"`{code}`", severity, check.meaning, check.remedy)))
    return "\n".join([*lines, ""])
