"""The checks of one record's texts."""

from collections.abc import Callable

from rlhf.data.content.accounts import find_card, find_iban
from rlhf.data.content.addresses import find_email, find_ip
from rlhf.data.content.characters import find_control, find_nul, find_replacement
from rlhf.data.content.credentials import find_secret
from rlhf.data.content.markers import find_prompt_marker, find_special_token
from rlhf.data.content.markup import find_html
from rlhf.data.content.phones import find_phone
from rlhf.data.content.screen import suspect
from rlhf.data.content.scripts import find_mixed_word
from rlhf.data.content.twins import are_twins
from rlhf.data.content.words import SensitiveWords
from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.place import Place
from rlhf.data.texts import texts_of
from rlhf.recipe.check_codes import CHECKS, check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import RecordKind
from rlhf_schemas import PreferenceRecord, Record

Find = Callable[[str], str | None]
"""A text -> what was found in it, or None."""

FINDERS: dict[str, Find] = {
    "nul": find_nul,
    "control_char": find_control,
    "replacement_char": find_replacement,
    "prompt_marker": find_prompt_marker,
    "special_token": find_special_token,
    "html": find_html,
    "email": find_email,
    "phone": find_phone,
    "card_number": find_card,
    "iban": find_iban,
    "ip_address": find_ip,
    "secret": find_secret,
    "mixed_scripts": find_mixed_word,
}
"""Code -> its search in one text."""
_MASKED = frozenset({"card_number", "iban", "secret"})
"""What a report must not spread."""
_SEPARATOR = "\n\n"


class ContentChecks:
    """Finds what the texts of a record should not hold."""

    def __init__(self, checks: ChecksSection, kind: RecordKind) -> None:
        """Prepare the checks that are not off.

        Raises:
            DataError: the file of sensitive words cannot be read, or has none.
        """
        active = {code for code in check_codes("content") if checks.severity.get(code) != "off"}
        self._kind: RecordKind = kind
        self._finders = {code: find for code, find in FINDERS.items() if code in active}
        self._words: SensitiveWords | None = None
        if checks.sensitive_words is not None and "sensitive_word" in active:
            self._words = SensitiveWords(checks.sensitive_words)
        self._max_chars = checks.max_chars if "over_long" in active else None
        self._compares = kind == "preference" and "equal_after_normalisation" in active

    def find(self, record: Record, place: Place) -> list[Fault]:
        """The faults of the record, at most one a code and field, each with its code's own severity."""
        texts = list(texts_of(record, self._kind))
        joined = _SEPARATOR.join([text for _, text in texts])
        faults: list[Fault] = []
        codes = suspect(joined)
        if codes:
            for code, find in self._finders.items():
                if code in codes:
                    faults += self._search(code, find, texts, place)
        if self._compares and isinstance(record, PreferenceRecord) and are_twins(record):
            faults.append(_fault("equal_after_normalisation", place, "chosen", None))
        if self._words is not None and self._words.find(joined) is not None:
            faults += self._search("sensitive_word", self._words.find, texts, place)
        if self._max_chars is not None and len(joined) > self._max_chars:
            faults += self._measure(texts, place)
        return faults

    def _search(self, code: str, find: Find, texts: list[tuple[str, str]], place: Place) -> list[Fault]:
        found = ((field, find(text)) for field, text in texts)
        return [_fault(code, place, field, value) for field, value in found if value is not None]

    def _measure(self, texts: list[tuple[str, str]], place: Place) -> list[Fault]:
        length = sum(len(text) for _, text in texts)
        if self._max_chars is None or length <= self._max_chars:
            return []
        message = f"a row with {length} characters, more than data.checks.max_chars={self._max_chars}"
        return [make_fault("over_long", place, message)]


def _fault(code: str, place: Place, field: str, found: str | None) -> Fault:
    value = None if found is None else _mask(found) if code in _MASKED else shorten(found)
    message = "a control character inside a text" if code == "control_char" else CHECKS[code].meaning
    return make_fault(code, place, message, field=field, value=value)


def _mask(text: str) -> str:
    """What kind it is and how long, but not what it is: private keys start alike, so theirs shows."""
    shown = text if text.startswith("-----BEGIN") else f"{text[:4]}… ({len(text)} characters)"
    return repr(shown)
