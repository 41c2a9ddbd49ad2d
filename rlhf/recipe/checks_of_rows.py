"""Checks of sources, bytes, shapes and the records' own rules."""

from rlhf.recipe.check_table import Check, error, warning

CHECKS_OF_ROWS: dict[str, Check] = {
    # the source as a whole
    "file_missing": error(
        "source",
        "no such file, or a folder or pattern without files",
        "Check the path; a hub data set has the form owner/name.",
    ),
    "not_a_file": error("source", "a special file", "Name a file, a folder of files, or a pattern."),
    "unreadable": error(
        "source", "the system refuses to read it", "Check the file's permissions and the disk."
    ),
    "unknown_format": error(
        "source",
        "the suffix names no format, and `format` is not set",
        "Set `format` (--format): jsonl, json, csv, tsv, text, parquet or arrow; save spreadsheets as CSV.",
    ),
    "other_content": error(
        "source",
        "a file that is something else than its name says: gzip, zstd, zip, bzip2, xz, Parquet or Arrow data, an HTML page, a pointer of Git LFS",
        "Put the data themselves there, under a name or `format` that says what they are.",
    ),
    "mixed_formats": error(
        "source",
        "a folder or pattern with files of several formats",
        "Name files of one format by a pattern.",
    ),
    "bad_source": error(
        "source",
        "a hub data set without a split, files with one, a `shape` that makes no such records, or `columns` for a field that the record or shape has not",
        "Correct the data source in the recipe or the call.",
    ),
    "hub_unavailable": error(
        "source",
        "the hub data set does not load",
        "Check name, split, config and revision, the network and, for private data, `hf auth login`.",
    ),
    "empty": error("source", "no rows, or none that makes a record", "Give at least one row."),
    # bytes and syntax
    "bom": warning(
        "syntax",
        "a byte order mark at the start",
        "Nothing here: it is passed over. Other readers take it for text; `--clean FILE` writes the rows without it.",
    ),
    "not_utf8": error("syntax", "bytes that are not UTF-8", "Save the file as UTF-8."),
    "bad_json": error(
        "syntax",
        "text that is not JSON",
        "Correct the JSON there: look for a trailing comma, single quotes, None or True, or a quote, backslash or line break that is not escaped.",
    ),
    "truncated": error(
        "syntax",
        "the file ends inside a row, or a JSON cell inside its value",
        "Write the file again: it ends in the middle of a row.",
    ),
    "duplicate_key": error(
        "syntax", "a key twice in one object, or a column twice in a header", "Keep one of the two."
    ),
    "not_finite": error("syntax", "NaN or an infinity", "Give a finite number, or leave the field out."),
    "not_object": error(
        "syntax",
        "a row that is JSON, but not an object",
        "Write each row as a JSON object, {...}; a JSON array of rows needs `format: json`.",
    ),
    "not_array": error(
        "syntax",
        "a `.json` file that is neither an array, nor an object, nor an object a line",
        "Write an array of objects, [{...}, ...], or one object a line with `format: jsonl`.",
    ),
    "bad_csv": error(
        "syntax",
        "a stray or unclosed quote",
        "Quote cells that hold separators, quotes or line breaks, and double the quotes inside them.",
    ),
    "column_count": error(
        "syntax",
        "a row with more or fewer cells than the header",
        "Give every row as many cells as the header; quote cells that hold separators.",
    ),
    "bad_parquet": error(
        "syntax",
        "pyarrow cannot read the Parquet file, or not all of it",
        "Write the file again: pyarrow cannot read it.",
    ),
    "bad_arrow": error(
        "syntax",
        "pyarrow cannot read the Arrow file, or not all of it",
        "Save the data set again with `save_to_disk`.",
    ),
    "bad_compression": error(
        "syntax", "a gzip or zstd file that cannot be decompressed to its end", "Compress the file again."
    ),
    # the row's shape
    "unknown_shape": error(
        "shape",
        "columns that are no known shape of this kind of record",
        "Name the `shape` (--shape), or map the columns with `columns` (--column).",
    ),
    "unknown_field": error(
        "shape",
        "a column or a message's key that no field takes",
        "Map it with `columns` (--column), keep it with `extra: metadata` (--keep-extra), or remove it.",
    ),
    "missing_field": error(
        "shape",
        "a required field is absent",
        "Add it, or name the column that holds it in `columns` (--column).",
    ),
    "metadata_clash": error(
        "shape",
        "with `extra: metadata`, a column that `metadata` has too",
        "Rename the column or the key in metadata.",
    ),
    "unknown_role": error(
        "shape",
        "a speaker whose role is not known",
        "Write system, user or assistant (or a name that docs/data_shapes.md lists).",
    ),
    "tool_calls": error(
        "shape",
        "a conversation with tool or function calls, which are not supported",
        "Remove the tool turns, or leave such conversations out.",
    ),
    "bad_transcript": error(
        "shape",
        "a text that is not a transcript of alternating `Human:` and `Assistant:` turns",
        "Start it with a Human turn and end it with an Assistant turn.",
    ),
    "single_answer": warning(
        "shape",
        "a prompt with one scored answer, which makes no pair",
        "Give the prompt a second answer, or remove it.",
    ),
    "tie": warning(
        "shape",
        "answers whose scores are equal, or closer than `min_margin`, so that they make no pair",
        "Nothing, if the ties are real; `min_margin` sets how far apart scores must be.",
    ),
    # the record's own rules
    "null_prompt": error(
        "record",
        "a pair's prompt is null",
        "Give the prompt; leave the field out only where both answers contain the prompt.",
    ),
    "wrong_type": error(
        "record",
        "text for a number, a number for text, an object for a list, ...",
        "Give a value of the right type.",
    ),
    "out_of_range": error(
        "record", "a number below its bound, or a weight of a single turn", "Give a value in the range."
    ),
    "not_a_choice": error(
        "record", "a role or finish reason that does not exist", "Give one of the allowed values."
    ),
    "too_short": error("record", "a list of token ids without entries", "Give at least one entry."),
    "blank": error(
        "record",
        "nothing, or white space alone, where text must stand, such as an empty turn",
        "Give text, or remove the row.",
    ),
    "not_unicode": error(
        "record",
        "half of a surrogate pair",
        "Replace the broken character; it is often half of an emoji that was cut.",
    ),
    "not_json": error(
        "record",
        "metadata that JSON cannot hold, such as a date",
        "Convert it to text, a number, a list or an object.",
    ),
    "shape": error(
        "record",
        "a demonstration with too few or too many of its fields",
        "Give exactly one of: prompt and completion; messages; text.",
    ),
    "mixed": error(
        "record",
        "text and messages in one record",
        "Write all of the record as text, or all of it as messages.",
    ),
    "roles": error(
        "record",
        "turns that do not alternate, start or end as they must",
        "Order the turns: system (optional), user, assistant, user, ...; prompts end with the user, answers with the assistant.",
    ),
    "equal_pair": error(
        "record",
        "chosen is equal to rejected",
        "Remove the row: a pair of equals prefers nothing.",
    ),
    "no_common_prompt": error(
        "record",
        "a pair without `prompt` whose conversations share no prompt, or a `prompt` that its conversations do not start with",
        "Give the prompt in its own field, or start both answers with the same messages up to a user turn.",
    ),
    "length_mismatch": error(
        "record",
        "lists of one row that should have the same length, such as a number for each response token",
        "Give one entry for each.",
    ),
    "cannot_chat": error(
        "record",
        "`data.chat` is on, but the row has no prompt that could become a turn",
        "Turn `data.chat` off, or give the prompt in its own field.",
    ),
}
"""Code -> check, in the order in which a row meets them."""
