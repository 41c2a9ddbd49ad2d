"""Files and hub data sets -> located rows -> records that pass every check, or faults with place and remedy.

Imports neither torch nor transformers; `datasets`, pyarrow and numpy only when a source needs them.
"""

from rlhf.data.check import check, check_splits, report_of
from rlhf.data.fault import Fault
from rlhf.data.page import render_page
from rlhf.data.place import Located, Place
from rlhf.data.report import Report, render_json, render_text
from rlhf.data.scan import scan
from rlhf.data.separate import separate
from rlhf.data.source import digest_source, find_format
from rlhf.recipe.check_codes import CHECKS

__all__ = [
    "CHECKS",
    "Fault",
    "Located",
    "Place",
    "Report",
    "check",
    "check_splits",
    "digest_source",
    "find_format",
    "render_json",
    "render_page",
    "render_text",
    "report_of",
    "scan",
    "separate",
]
