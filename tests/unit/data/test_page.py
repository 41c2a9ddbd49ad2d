"""The HTML report: complete, readable by a parser, and safe whatever the data hold."""

import re
from html.parser import HTMLParser

import pytest

from rlhf.data.fault import make_fault
from rlhf.data.page import render_page
from rlhf.data.place import Place
from rlhf.data.report import Offender, Report

VOID = {"meta"}
"""Elements that have no end."""
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></table></details></section><h1>gone</h1>",
    "</style><svg onload=alert(1)>",
    "&lt;b&gt; & &amp;",
    "javascript:alert(1)",
    "<!-- `<i>` -->",
    "{style}",
]


class _Page(HTMLParser):
    """The page as a browser takes it apart; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def text(self) -> str:
        """All that is read, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def _report(path: str = "pairs.jsonl") -> Report:
    """2 of 1,500 rows with an error, 20 warnings of which 6 are kept."""
    faults = [
        make_fault("blank", Place(path, 1201, 1201), "is blank", field="prompt[1].content", value="''"),
        *(make_fault("email", Place(path, line, line), "has an address") for line in range(1, 7)),
    ]
    return Report(
        path=path,
        kind="preference",
        format="jsonl",
        num_rows=1500,
        num_faults=2,
        counts={"email": 20, "blank": 2},
        faults=faults,
        sha256="ab" * 32,
        shape="records",
        num_records=1498,
        num_faulty_rows=2,
        num_warnings=20,
        lengths={"chosen": [0, 0, 3, 0, 12], "metadata": []},
        facts={"chosen_longer_share": 0.71234},
        worst=[Offender(path, 1201, 1201, ["blank", "email", "email"])],
    )


def test_the_page_tells_all_that_the_report_holds() -> None:
    text = _Page(render_page([_report()])).text()
    assert "2 errors, 20 warnings. Errors stop a run." in text
    for told in ("pairs.jsonl", "1,500", "1,498", "2 (0.13%)", "preference", "records", "ab" * 32):
        assert told in text
    assert "line 1,201 prompt[1].content is blank '' Give text, or remove the row." in text
    assert "chosen longer share 0.7123" in text
    # the code's meaning and remedy beside how often it was found
    assert "email warning 20 an e-mail address Remove or mask it, unless it is public." in text
    assert "line 1,201 3 email × 2, blank" in text


def test_of_each_code_the_first_five_examples_are_shown() -> None:
    text = _Page(render_page([_report()])).text()
    assert text.count("has an address") == 5
    assert "the first 5 of 20" in text
    assert "the first 1 of 2" in text


def test_a_source_without_findings_says_so() -> None:
    clean = Report("a.csv", "sft", "csv", 3, 0, {}, [], None)
    page = _Page(render_page([clean]))
    assert "Nothing found." in page.texts
    assert not {"table", "details", "svg"} & set(page.tags)


def test_warnings_alone_are_no_errors() -> None:
    warned = Report("a.csv", "sft", "csv", 3, 0, {"html": 1}, [], None, num_warnings=1)
    assert "No errors, 1 warning." in _Page(render_page([warned])).texts


def test_several_sources_are_summed_up_and_linked() -> None:
    page = _Page(render_page([_report("a.jsonl"), _report("b.jsonl")]))
    text = page.text()
    assert "4 errors, 40 warnings." in text
    assert "Sources 2 Rows 3,000 Records 2,996 Rows with errors 4 (0.13%)" in text
    assert len(page.links) == 2 + 2 * 2  # to each source, and to each code's examples
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_histograms_show_every_class_between_the_first_and_the_last_filled_one() -> None:
    page = _Page(render_page([_report()]))
    # classes 2 to 4 of `chosen`; nothing is drawn for a field without texts
    assert page.tags.count("rect") == 3
    assert page.tags.count("figure") == 1
    for told in ("2 to 3: 3", "4 to 7: 0", "8 to 15: 12", "most: 12", "chosen: 15 texts"):
        assert told in page.texts


def test_bars_are_as_high_as_their_counts() -> None:
    page = _Page(render_page([_report()]))
    low, none, high = (float(value) for name, value in page.attributes if name == "height")
    assert none == 0
    assert low / high == pytest.approx(3 / 12, abs=1e-3)


def test_lengths_zero_and_one_have_classes_of_their_own() -> None:
    report = Report("a.csv", "sft", "csv", 3, 0, {}, [], None, lengths={"prompt": [4, 5]})
    assert {"0: 4", "1: 5"} <= set(_Page(render_page([report])).texts)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_data_stay_text(text: str) -> None:
    fault = make_fault("unknown_field", Place(text, 1, 1), text, field=text, value=text, remedy=text)
    report = Report(
        path=text,
        kind="sft",
        format="jsonl",
        num_rows=1,
        num_faults=1,
        counts={"unknown_field": 1},
        faults=[fault],
        sha256=None,
        lengths={text: [1]},
        facts={text: 1.0},
        worst=[Offender(text, 1, 1, ["unknown_field", "blank"])],
    )
    harmless = _Page(render_page([_replaced(report, text)]))
    page = _Page(render_page([report, report]))
    one = _Page(render_page([report]))
    assert one.tags == harmless.tags or "`" in text  # backquotes make code of what they hold, nothing else
    assert set(page.tags).isdisjoint({"script", "img", "iframe", "object", "link", "i"})
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(link.startswith("#source-") for link in page.links)
    assert text in one.texts


def _replaced(report: Report, text: str) -> Report:
    """The same report with a word in place of the hostile text."""
    word = "word"
    (fault,) = report.faults
    return Report(
        path=word,
        kind="sft",
        format="jsonl",
        num_rows=1,
        num_faults=1,
        counts=report.counts,
        faults=[make_fault(fault.code, Place(word, 1, 1), word, field=word, value=word, remedy=word)],
        sha256=None,
        lengths={word: [1]},
        facts={word: 1.0},
        worst=[Offender(word, 1, 1, ["unknown_field", "blank"])],
    )


def test_what_cannot_be_seen_is_written_as_an_escape() -> None:
    # NUL, a lone surrogate, and a character that turns the writing direction
    report = Report("a\0b\ud800c\u202ed.csv", "sft", "csv", 0, 0, {}, [], None)
    page = render_page([report])
    assert r"a\x00b\ud800c\u202ed.csv" in page
    assert page.encode("utf-8").count(b"\0") == 0


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = render_page([_report()])
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    assert "prefers-color-scheme: dark" in page


def test_the_same_reports_give_the_same_page() -> None:
    assert render_page([_report()]) == render_page([_report()])
