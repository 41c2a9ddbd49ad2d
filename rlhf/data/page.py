"""Reports as one HTML page that needs nothing else: no scripts, no fonts, no network."""

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rlhf.data.fault import Fault
from rlhf.data.pagestyle import STYLE
from rlhf.data.report import Offender, Report, plural
from rlhf.recipe.check_codes import CHECKS

EXAMPLES_A_CODE = 5
"""Examples of each code that the page lists."""
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 360, 150, 16, 20
"""A histogram's size and the space for text above and below its bars, in the units of its own drawing."""
_MAX_TICKS = 9
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Data report</title>
<style>{style}</style>
</head>
<body>
"""


def render_page(reports: Sequence[Report]) -> str:
    """All reports as one self-contained HTML file.

    Whatever stands in the data is escaped, and the page's own policy forbids scripts and anything from elsewhere.
    """
    parts = [_HEAD.format(style=STYLE), "<h1>Data report</h1>", _verdict(reports)]
    if len(reports) > 1:
        parts += [_totals(reports), _sources(reports)]
    parts += [_section(number, report) for number, report in enumerate(reports, 1)]
    return "\n".join([*parts, "</body>", "</html>", ""])


def _verdict(reports: Sequence[Report]) -> str:
    errors, warnings = sum(one.num_faults for one in reports), sum(one.num_warnings for one in reports)
    if not errors and not warnings:
        return '<p class="verdict good">Nothing found.</p>'
    told = plural(warnings, "warning")
    if not errors:
        return f'<p class="verdict warning">No errors, {told}.</p>'
    return f'<p class="verdict error">{plural(errors, "error")}, {told}. Errors stop a run.</p>'


def _totals(reports: Sequence[Report]) -> str:
    faulty, rows = sum(one.num_faulty_rows for one in reports), sum(one.num_rows for one in reports)
    return _numbers(
        {
            "Sources": f"{len(reports):,}",
            "Rows": f"{rows:,}",
            "Records": f"{sum(one.num_records for one in reports):,}",
            "Rows with errors": _share(faulty, rows),
            "Errors": f"{sum(one.num_faults for one in reports):,}",
            "Warnings": f"{sum(one.num_warnings for one in reports):,}",
        }
    )


def _sources(reports: Sequence[Report]) -> str:
    rows = [
        [
            f'<a href="#source-{number}">{_text(one.path)}</a>',
            one.kind,
            f"{one.num_rows:,}",
            f"{one.num_records:,}",
            f"{one.num_faults:,}",
            f"{one.num_warnings:,}",
            f"<code>{(one.sha256 or '')[:12]}</code>",
        ]
        for number, one in enumerate(reports, 1)
    ]
    heads = ["Source", "=Kind", "#Rows", "#Records", "#Errors", "#Warnings", "=SHA-256"]
    return "<h3>Sources</h3>\n" + _table(heads, rows)


def _section(number: int, report: Report) -> str:
    parts = [
        f'<section id="source-{number}">',
        f"<h2>{_text(report.path)}</h2>",
        _summary(report),
        _codes(report, number),
        _examples(report, number),
        _worst(report),
        _lengths(report.lengths),
        _facts(report.facts),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _summary(report: Report) -> str:
    numbers = {
        "Kind": report.kind,
        "Format": report.format or "unknown",
        "Shape": report.shape or "unknown",
        "Rows": f"{report.num_rows:,}",
        "Records": f"{report.num_records:,}",
        "Rows with errors": _share(report.num_faulty_rows, report.num_rows),
        "Errors": f"{report.num_faults:,}",
        "Warnings": f"{report.num_warnings:,}",
    }
    return _numbers(
        numbers, wide={} if report.sha256 is None else {"SHA-256": f"<code>{report.sha256}</code>"}
    )


def _codes(report: Report, number: int) -> str:
    rows = [
        [
            f'<a href="#source-{number}-{code}"><code>{code}</code></a>',
            _badge(report.severity(code)),
            f"{report.counts[code]:,}",
            _prose(CHECKS[code].meaning),
            _prose(CHECKS[code].remedy),
        ]
        for code in report.codes()
    ]
    heads = ["=Code", "=Severity", "#Times", "What is wrong", "What to do"]
    return "<h3>What was found</h3>\n" + _table(heads, rows) if rows else ""


def _examples(report: Report, number: int) -> str:
    parts: list[str] = []
    for code in report.codes():
        shown = [fault for fault in report.faults if fault.code == code][:EXAMPLES_A_CODE]
        rows = [_example(fault, report) for fault in shown]
        heads = ["@Place", "@Field", "What is wrong", "Value", "What to do"]
        is_open = " open" if report.severity(code) == "error" else ""
        left = report.counts[code] - len(shown)
        more = f' <span class="dim">the first {len(shown)} of {report.counts[code]:,}</span>' if left else ""
        parts.append(
            f"<details{is_open}><summary><code>{code}</code>{more}</summary>\n"
            # a link to what is inside opens the details
            f'<div id="source-{number}-{code}">{_table(heads, rows)}</div></details>'
        )
    return "\n".join(["<h3>First examples</h3>", *parts]) if parts else ""


def _example(fault: Fault, report: Report) -> list[str]:
    return [
        _place(fault, report.path),
        _code(fault.field),
        _text(fault.message),
        _code(fault.value),
        _prose(fault.remedy),
    ]


def _worst(report: Report) -> str:
    rows = [
        [
            _place(one, report.path),
            f"{len(one.codes):,}",
            ", ".join(
                f"<code>{code}</code>" + (f" × {count}" if count > 1 else "")
                for code, count in Counter(one.codes).most_common()
            ),
        ]
        for one in report.worst
    ]
    return "<h3>Worst rows</h3>\n" + _table(["@Place", "#Findings", "Codes"], rows) if rows else ""


def _lengths(lengths: Mapping[str, Sequence[int]]) -> str:
    charts = [_histogram(field, counts) for field, counts in lengths.items() if any(counts)]
    if not charts:
        return ""
    return "\n".join(["<h3>Lengths in characters</h3>", '<div class="charts">', *charts, "</div>"])


def _histogram(field: str, counts: Sequence[int]) -> str:
    filled = [index for index, count in enumerate(counts) if count]
    first, last = filled[0], filled[-1]
    width = _WIDTH / (last - first + 1)
    foot, most = _HEIGHT - _BOTTOM, max(counts)
    step = -(-(last - first + 2) // _MAX_TICKS)
    marks = [
        f'<text x="0" y="11">most: {most:,}</text>',
        f'<line x1="0" x2="{_WIDTH}" y1="{foot}" y2="{foot}"/>',
    ]
    for index in range(first, last + 1):
        left, high = (index - first) * width, (foot - _TOP) * counts[index] / most
        marks.append(
            f'<rect x="{left + 1:.2f}" y="{foot - high:.2f}" width="{width - 2:.2f}" height="{high:.2f}">'
            f"<title>{_span(index)}: {counts[index]:,}</title></rect>"
        )
        if (index - first) % step == 0:
            marks.append(f'<text x="{left + 1:.2f}" y="{_HEIGHT - 5}">{_short(_lowest(index))}</text>')
    label = f"{_text(field)}: {plural(sum(counts), 'text')}"
    return (
        f"<figure><figcaption>{label}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="lengths of {label}">'
        f"{''.join(marks)}</svg></figure>"
    )


def _lowest(index: int) -> int:
    return 0 if index == 0 else 1 << (index - 1)


def _span(index: int) -> str:
    low, high = _lowest(index), max((1 << index) - 1, 0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _short(number: int) -> str:
    if number < 1024:
        return str(number)
    return f"{number >> 10}k" if number < 1 << 20 else f"{number >> 20}M"


def _facts(facts: Mapping[str, float]) -> str:
    rows = [
        [_text(name.replace("_", " ")), f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"]
        for name, value in facts.items()
    ]
    return "<h3>Over the whole source</h3>\n" + _table(["Measure", "#Value"], rows) if rows else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; `#` before a heading marks numbers, `@` places, `=` what must not be broken into lines."""
    kinds = {"#": ' class="number"', "@": ' class="place"', "=": ' class="whole"'}
    named = [(head.lstrip("#@="), kinds.get(head[0], "")) for head in heads]
    head = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in named)
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{name}">{cell}</td>' if cell else "<td></td>"
            for (name, kind), cell in zip(named, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'


def _numbers(numbers: Mapping[str, str], wide: Mapping[str, str] | None = None) -> str:
    tiles = [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers.items()]
    tiles += [
        f'<div class="wide"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in (wide or {}).items()
    ]
    return f'<dl class="numbers">{"".join(tiles)}</dl>'


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.2%})" if part and whole else f"{part:,}"


def _badge(severity: str) -> str:
    return f'<span class="badge {severity}">{severity}</span>'


def _place(found: Fault | Offender, source: str) -> str:
    """Where it is; the file is left out where the section's heading names it."""
    if found.line is not None:
        where = f"line {found.line:,}"
    elif found.row is not None:
        where = f"row {found.row:,}"
    else:
        where = "whole file"
    return where if found.path == source else f"{_text(found.path)}, {where}"


def _code(value: str | None) -> str:
    return "" if value is None else f"<code>{_text(value)}</code>"


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    """Text from anywhere as HTML; what cannot be seen, or would turn the writing direction, is written as an escape."""
    seen = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return html.escape(seen)
