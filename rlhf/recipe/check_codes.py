"""Every check that data pass, by code; docs/data_checks.md is made from it."""

from rlhf.recipe.check_table import Check, Group
from rlhf.recipe.checks_of_rows import CHECKS_OF_ROWS
from rlhf.recipe.checks_of_texts import CHECKS_OF_TEXTS

CHECKS: dict[str, Check] = CHECKS_OF_ROWS | CHECKS_OF_TEXTS
"""Code -> check."""


def check_codes(group: Group) -> list[str]:
    """The codes of one group, in the order of the table."""
    return [code for code, check in CHECKS.items() if check.group == group]


BEYOND_ROWS = ("eval_leak", "prompt_leak", "stage_leak", "length_bias", "label_imbalance")
"""What a source is as a whole, or beside another one: no row of it can be dropped for that."""
DROPPABLE = tuple(
    code for code in (*check_codes("content"), *check_codes("across")) if code not in BEYOND_ROWS
)
"""`prepare.drop` may name them."""
GRADED = (
    *DROPPABLE,
    *BEYOND_ROWS,
    *(code for code in check_codes("tokens") if code != "template_no_stop"),
    *(
        code
        for code, check in CHECKS.items()
        if check.group in ("syntax", "shape") and check.severity == "warning"
    ),
)
"""`data.checks.severity` may name them: whatever else is found breaks a row or the chat template, and stays an error."""
