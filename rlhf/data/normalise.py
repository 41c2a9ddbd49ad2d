"""The form in which texts are compared where case, white space and Unicode's spellings do not count."""

import unicodedata


def normalise(text: str) -> str:
    """The text in NFKC, case-folded, with each run of white space as one space and none at the ends.

    Folding can undo NFKC (`ΐ` falls apart), so it is composed again: the result stays as it is when normalised again.
    """
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())
