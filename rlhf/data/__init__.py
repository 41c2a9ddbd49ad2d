"""Files and hub data sets -> located rows -> records that keep every rule, or faults with place and remedy.

Imports neither torch nor transformers; `datasets` and pyarrow only when a source needs them.
"""

from rlhf.data.check import check, load, scan
from rlhf.data.fault import REMEDIES, Fault
from rlhf.data.place import Located, Place
from rlhf.data.report import Report, render_json, render_text
from rlhf.data.source import digest_source, find_format

__all__ = [
    "REMEDIES",
    "Fault",
    "Located",
    "Place",
    "Report",
    "check",
    "digest_source",
    "find_format",
    "load",
    "render_json",
    "render_text",
    "scan",
]
