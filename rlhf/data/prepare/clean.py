"""Clean-up of texts: markup, Unicode form, control characters, blanks."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from html import unescape

from rlhf.recipe.preparation import CleanStep

_INLINE = "a abbr b bdi bdo big cite code data dfn em font i img ins kbd label mark q s samp small span strike strong sub sup tt u var wbr"
_BLOCK = (
    "address article aside blockquote body br button caption center col colgroup dd del details div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 head header hr html iframe input legend li link main meta nav "
    "ol option p picture pre section select source summary svg table tbody td textarea tfoot th thead title tr ul video"
)
# Possessive: inside a tag nothing can be read in two ways, so hostile text takes no longer than other text.
_ATTRIBUTES = r"""(?=[\s/>])(?:[^<>"']|"[^"<>]*+"|'[^'<>]*+')*+>"""


def _tag(names: str) -> str:
    return rf"</?(?:{'|'.join(names.split())}){_ATTRIBUTES}"


_OPENING = re.compile(rf"<(script|style){_ATTRIBUTES}|<(!--)", re.I)
_CLOSING = {
    "script": re.compile(r"</script\s*+>", re.I),
    "style": re.compile(r"</style\s*+>", re.I),
    "!--": re.compile("-->"),
}
_BLOCK_TAG = re.compile(_tag(_BLOCK), re.I)
_INLINE_TAG = re.compile(_tag(_INLINE), re.I)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_BLANKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_EMPTY_LINES = re.compile(r"\n{3,}")


def clean_html(text: str) -> str:
    """Tags of HTML's own names removed (those of blocks become a line break), entities resolved.

    What is written `&lt;b&gt;` was meant to be seen, so it becomes `<b>` and stays; `List<int>` and `a < b > c` stay too.
    """
    if "<" in text:
        text = _without_hidden(text)
        text = _BLOCK_TAG.sub("\n", text)
        text = _INLINE_TAG.sub("", text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: unescape(found[0]), text)
    return text


def _without_hidden(text: str) -> str:
    """Without comments, scripts and styles; one that never ends is left as it is."""
    kept, start, endless = "", 0, set[str]()
    while (opening := _OPENING.search(text, start)) is not None and len(endless) < len(_CLOSING):
        kind = str(opening[1] or opening[2]).lower()
        closing = None if kind in endless else _CLOSING[kind].search(text, opening.end())
        if closing is None:
            endless.add(kind)  # none of its kind further on ends either: not looked for again
        stop = opening.end() if closing is None else opening.start()
        kept += text[start:stop]
        start = stop if closing is None else closing.end()
    return kept + text[start:]


def clean_control(text: str) -> str:
    """Control characters removed but for tabs and line breaks; all line ends, and vertical ones, become `\\n`."""
    return text if text.isprintable() else _CONTROL.sub("", _LINE_ENDS.sub("\n", text))


def clean_whitespace(text: str) -> str:
    """Runs of blanks made one, none at the ends of lines and of the text, at most one empty line in a row."""
    if text.isprintable():  # one line, whose blanks are plain ones
        return _BLANKS.sub(" ", text).strip() if "  " in text else text.strip()
    text = _BLANKS.sub(" ", _LINE_ENDS.sub("\n", text))
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    return _EMPTY_LINES.sub("\n\n", text).strip()


def clean_nfc(text: str) -> str:
    """Unicode's canonical composition: one spelling for what looks the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean_nfkc(text: str) -> str:
    """Unicode's compatibility composition: ligatures, full-width letters and the like become plain ones."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


CLEANERS: dict[CleanStep, Callable[[str], str]] = {
    "html": clean_html,
    "nfc": clean_nfc,
    "nfkc": clean_nfkc,
    "control": clean_control,
    "whitespace": clean_whitespace,
}
"""Step -> what it does, in the order in which they run whatever the recipe's: an entity can be a control character."""


def cleaner(steps: Sequence[CleanStep]) -> Callable[[str], str]:
    """All of these steps as one function."""
    chosen = [clean for step, clean in CLEANERS.items() if step in steps]

    def run(text: str) -> str:
        for clean in chosen:
            text = clean(text)
        return text

    return run
