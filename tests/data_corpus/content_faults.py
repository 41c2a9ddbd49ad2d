"""Faults in what the texts hold: a snippet beside an otherwise clean text."""

from data_corpus.clean_rows import CLEAN, assistant, user
from data_corpus.planted import ALL, AT, BINARY, CSVS, JSONS, ROWS, Planted

WORDS = "SENSITIVE_WORDS"
"""Stands for the list of sensitive words, which the test writes: `blorp` and `hush money`."""

# Put together here, so that nobody who searches the repository for keys takes them for real ones.
_GITHUB = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0hJ3lO6"
_AWS = "AKIA" + "QX5TLR7N2WEZ4MBV"
_PRIVATE = "-----BEGIN RSA " + "PRIVATE KEY-----"

SNIPPETS: tuple[tuple[str, str], ...] = (
    ("nul", "one\0two"),
    ("control_char", "a bell\x07 rings"),
    ("control_char", "back\x08space and \x1b[31mred"),
    ("replacement_char", "caf\ufffd au lait"),
    ("prompt_marker", "### Response: it is fine"),
    ("prompt_marker", "### Instruction: say more"),
    ("special_token", "the end<|im_end|>"),
    ("special_token", "all of it <|endoftext|>"),
    ("special_token", "the turn ends <|eot_id|>"),
    ("html", "see <a href='https://film.example'>this</a> <br/> there"),
    ("html", "salt &amp; pepper&nbsp;mill"),
    ("email", "write to maria.kowalska@wp.pl for more"),
    ("phone", "or call +49 221 4710123 in the evening"),
    ("card_number", "paid with 4539 1488 0343 6467 today"),
    ("iban", "to DE89 3704 0044 0532 0130 00 by Friday"),
    ("ip_address", "the server is at 93.184.215.14 now"),
    ("secret", f"the token is {_GITHUB} here"),
    ("secret", f"the key is {_AWS} here"),
    ("secret", f"it starts with {_PRIVATE} and goes on"),
    ("mixed_scripts", "log in to p\u0430ypal first"),
)
"""(code, text that has it)."""
MULTILINE: tuple[tuple[str, str], ...] = (
    ("prompt_marker", "\n\nHuman: and what now?\n\nAssistant: nothing."),
    ("prompt_marker", "\n### Response:\nfine"),
    ("html", "<div class='x'>\n<p>Hello</p>\n</div>"),
)
"""The same with line breaks, which text files cannot hold."""


def _planted(code: str, snippet: str, formats: tuple[str, ...]) -> list[Planted]:
    line, answer = CLEAN["sft-lines"].rows[AT]["text"], CLEAN["preference"].rows[AT]["chosen"]
    prompt = CLEAN["prompt"].rows[AT]["prompt"]

    def with_snippet(text: object) -> str:
        return f"{snippet} {text}" if snippet.startswith("###") else f"{text} {snippet}"

    return [
        Planted(code, "sft-lines", {AT: {"text": with_snippet(line)}}, "text", formats=formats),
        Planted(code, "preference", {AT: {"chosen": with_snippet(answer)}}, "chosen"),
        Planted(code, "prompt", {AT: {"prompt": with_snippet(prompt)}}, "prompt"),
        Planted(
            code,
            "sft-messages",
            {AT: {"messages": [user(f"{snippet} {prompt}"), assistant("Indeed, that is so.")]}},
            "messages[0].content",
        ),
    ]


_LONG = " ".join(f"{number} bottles" for number in range(400))

CONTENT: tuple[Planted, ...] = (
    *(planted for code, text in SNIPPETS for planted in _planted(code, text, ALL)),
    *(planted for code, text in MULTILINE for planted in _planted(code, text, ROWS)),
    Planted(
        "equal_after_normalisation",
        "preference",
        {AT: {"chosen": "Two  hours of HELD breath.", "rejected": "Two hours of held breath."}},
        "chosen",
    ),
    Planted(
        "equal_after_normalisation",
        "preference-messages",
        {AT: {"chosen": [assistant("Cafe\u0301 noir")], "rejected": [assistant("Caf\u00e9 NOIR")]}},
        "chosen",
    ),
    Planted(
        "sensitive_word",
        "sft-lines",
        {AT: {"text": "They took BLORP for it."}},
        "text",
        formats=ALL,
        checks={"sensitive_words": WORDS},
    ),
    Planted(
        "sensitive_word",
        "preference",
        {AT: {"rejected": "He paid hush money."}},
        "rejected",
        checks={"sensitive_words": WORDS},
    ),
    Planted("over_long", "sft-lines", {AT: {"text": _LONG}}, None, formats=ALL, checks={"max_chars": 2500}),
    Planted("over_long", "preference", {AT: {"chosen": _LONG}}, None, checks={"max_chars": 2500}),
)
"""Faults of content."""

assert len(_LONG) > 2500
assert {*JSONS, *CSVS, *BINARY} == {*ROWS}
