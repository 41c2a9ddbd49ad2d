"""HTML left in a text."""

import re

_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)

_CLOSED = (
    "a|abbr|b|big|blockquote|body|button|caption|center|cite|code|dd|del|div|dl|dt|em|figcaption|figure|font|form"
    "|h[1-6]|head|html|i|iframe|ins|kbd|li|nav|noscript|ol|p|pre|q|script|select|small|span|strike|strong|style"
    "|sub|sup|table|tbody|td|textarea|tfoot|th|thead|tr|tt|u|ul|video"
)
_WITH_ATTRIBUTE = (
    "a|audio|body|button|div|embed|font|form|h[1-6]|hr|html|iframe|img|input|li|link|meta|ol|p|pre|script|source"
    "|span|style|svg|table|td|th|tr|ul|video"
)
_TAG = re.compile(
    rf"<(?:/(?:{_CLOSED})\s?>"
    rf"|(?:{_WITH_ATTRIBUTE})\s{{1,9}}[a-z][a-z-]{{1,29}}\s?=\s?[\"'\w#/][^<>]{{0,1000}}>"
    r"|[bh]r\s?/?>"
    r"|(?<!\w<)(?:div|tr|td|ul|ol|li|h[1-6]|strong|em|blockquote)>"
    r"|!--|!doctype html)",
    re.IGNORECASE,
)
"""Closing tags, tags with an attribute, and opening tags that are seldom a placeholder, a type or an inequality."""
_CASED_TAG = re.compile(
    r"<(?:[pP]>(?=[A-Z])|(?:(?<=\A<)|(?<=[.!?>\n]<))[pP]>|(?<=[\s>(]<)s>[^<>]{1,200}</s>)"
)
"""Paragraphs and struck-out text: single letters in angle brackets are often a formula or a special token."""

_ENTITY = re.compile(
    r"&(?:#[0-9]{2,7}|#[xX][0-9a-fA-F]{2,6}"
    r"|amp|lt|gt|quot|apos|nbsp|hellip|[mn]dash|[lr][sda]quo|bull|middot|trade|euro|pound|laquo|raquo|shy|szlig"
    r"|[A-Za-z](?:acute|grave|circ|uml|tilde|cedil|slash|caron)|[Aa]ring|(?:ae|AE|oe|OE)lig"
    r"|(?<![=(,]&)(?<![=(,] &)(?:copy|reg));"
)
"""Entities that web pages use; the long list has names such as `&sum;`, which is also an address in C."""


def find_html(text: str) -> str | None:
    """The first HTML tag or entity outside Markdown's code."""
    if "`" in text:
        text = _CODE.sub(" ", text)
    found = _ENTITY.search(text) if "&" in text else None
    if found is None and "<" in text:
        found = _TAG.search(text) or _CASED_TAG.search(text)
    return None if found is None else found[0]
