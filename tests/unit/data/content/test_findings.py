"""Each check finds its fault in the right field, among clean text, and says what it found."""

import pytest

from rlhf.data.content import ContentChecks
from rlhf.data.place import Place
from rlhf.recipe.check_codes import check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import Message, PreferenceRecord, PromptRecord, SFTRecord

PLACE = Place("rows.jsonl", 7)

# published test numbers of the makers, registries and standards; tokens put together here so that no scanner stops
FOUND = [
    ("nul", "a\0b"),
    ("control_char", "ring \x07 the bell"),
    ("control_char", "delete\x7f"),
    ("control_char", "next page\x0chere"),
    ("control_char", "C1 \x92 from Windows"),
    ("replacement_char", "caf\ufffd"),
    ("prompt_marker", "### Instruction:\nAdd.\n\n### Response:\n4"),
    ("prompt_marker", "Say this.\n### Response: no"),
    ("prompt_marker", "\n\nHuman: Hi?\n\nAssistant: Hello."),
    ("prompt_marker", "Fine.\r\n\r\nHuman: and now?"),
    ("prompt_marker", "Hello there.\n\nAssistant: again"),
    ("prompt_marker", "Human: Hi?\nAssistant:"),
    ("prompt_marker", "User: Hi?\nAssistant: Hello."),
    ("prompt_marker", "A chat. USER: Hi? ASSISTANT: Hello."),
    ("special_token", "Hi<|im_end|>"),
    ("special_token", "<|endoftext|>"),
    ("special_token", "<|start_header_id|>user<|end_header_id|>"),
    ("special_token", "<|END_OF_TURN_TOKEN|> x"),
    ("special_token", "<|user|> hi"),
    ("special_token", "<start_of_turn>model"),
    ("special_token", "x<eos>"),
    ("special_token", "[INST] Hi [/INST]"),
    ("special_token", "bye [/INST]"),
    ("special_token", "<<SYS>> Be kind. <</SYS>>"),
    ("special_token", "<s> Hi"),
    ("special_token", "Bye.</s>\n"),
    ("special_token", "Bye</s><s>Hi"),
    ("special_token", "<\uff5cbegin\u2581of\u2581sentence\uff5c>Hi"),
    ("html", "One<br>two"),
    ("html", "One<BR />two"),
    ("html", "a <b>bold</b> word"),
    ("html", "<p>Text of a paragraph"),
    ("html", "First.<p>second"),
    ("html", 'see <a href="https://example.org">here'),
    ("html", "<img src=x.png>"),
    ("html", "<div>loose"),
    ("html", "was <s>10</s> 5"),
    ("html", "<!-- hidden -->"),
    ("html", "<!DOCTYPE html>"),
    ("html", "Tom &amp; Jerry"),
    ("html", "it&#39;s and it&#x27;s"),
    ("html", "caf&eacute; &copy; 2020"),
    ("html", "`code` and <em>more"),
    ("email", "Write to jane.doe+x@mail.example.org."),
    ("email", "mailto:joe_o'neil@firm.co.uk?subject=x"),
    ("email", "(Müller@bücher.de)"),
    ("email", "JOE@FIRM.COM"),
    ("email", "@handle but also joe@firm.museum: call"),
    ("phone", "Call +49 30 1234567 now."),
    ("phone", "Call +44 (0)20 7946 0958"),
    ("phone", "(+33 6 12 34 56 78)"),
    ("phone", "+1 202-555-0143"),
    ("phone", "+12025550143"),
    ("phone", "tel:+491701234567"),
    ("phone", "+48 601 234 567"),
    ("phone", "(202) 555-0143"),
    ("phone", "202-555-0143, ask for Joe"),
    ("phone", "1.202.555.0143"),
    ("phone", "0049 30 1234567"),
    ("phone", "Tel.: 030 1234567"),
    ("phone", "phone number is 555-0143"),
    ("card_number", "4111 1111 1111 1111"),
    ("card_number", "card 4111111111111111."),
    ("card_number", "5555-5555-5555-4444,"),
    ("card_number", "3782 822463 10005"),
    ("card_number", "6011111111111117"),
    ("card_number", "30569309025904"),
    ("card_number", "3530111333300000"),
    ("card_number", "2223003122003222"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "to GB82WEST12345698765432."),
    ("iban", "NO93 8601 1117 947"),
    ("iban", "MT84 MALT 0110 0001 2345 MTLC AST0 01S THEN MORE"),
    ("ip_address", "Ping 8.8.8.8 now."),
    ("ip_address", "8.8.8.8"),
    ("ip_address", "http://93.184.216.34/index"),
    ("ip_address", "the host 1.0.4.7:80"),
    ("ip_address", "came from 52.24.191.7, twice"),
    ("ip_address", "DNS 2001:4860:4860::8888."),
    ("ip_address", "2606:4700:0:0:0:0:0:1111"),
    ("ip_address", "2abc:def::fade:f"),
    ("secret", "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIE"),
    ("secret", "-----BEGIN PRIVATE" + " KEY-----"),
    ("secret", "AKIA" + "IOSFODNNQEXAMPLE"),
    ("secret", "ASIA" + "QWERTYUIOPLKJHGF,"),
    ("secret", "key=AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"),
    ("secret", "ghp" + "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"),
    ("secret", "github_pat" + "_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyzABCDEFGHIJKLMNOPQR"),
    ("secret", "glpat" + "-abcdefghijklmnopqrst"),
    ("secret", "hf" + "_abcdefghijklmnopqrstuvwxyzABCDEFGH"),
    ("secret", "sk" + "-proj-abcdefgh1jklmnopqrst"),
    ("secret", "sk" + "-ant-api03-abcdefghijklmnopqrst"),
    ("secret", "sk" + "-abcdefghijklmnopqrstuvwxyz1234567890ABCDEFGHIJKL"),
    ("secret", "sk" + "_live_abcdefghijklmnop"),
    ("secret", "xoxb" + "-123456789012-abcdefghijkl"),
    ("secret", "npm" + "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"),
    ("secret", "pypi" + "-AgEIcHlwaS5vcmcCJGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6QUJDREVGR0g"),
    ("secret", "SG" + ".abcdefghijklmnopqrstu1.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"),
    ("secret", "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "abcdefghijklmnopqrstuvwxyz"),
    ("mixed_scripts", "P\u0430ypal is not a bank"),  # Cyrillic a
    ("mixed_scripts", "M\u043escow"),  # Cyrillic o
    ("mixed_scripts", "\u041cо\u0441к\u0432a"),  # Latin a
    ("mixed_scripts", "micr\u03bfsoft"),  # Greek omicron
    ("mixed_scripts", "\u0391thens"),  # Greek capital alpha
    ("mixed_scripts", "Α\u03b8ή\u03bdαo"),  # Latin o
    ("mixed_scripts", "first clean слово, then \u0410pple"),
]  # fmt: skip


def found(text: str, checks: ChecksSection | None = None) -> list[str]:
    record = PromptRecord(prompt=text)
    return [fault.code for fault in ContentChecks(checks or ChecksSection(), "prompt").find(record, PLACE)]


@pytest.mark.parametrize(("code", "text"), FOUND)
def test_each_fault_is_found_and_nothing_else(code: str, text: str) -> None:
    assert found(text) == [code]


@pytest.mark.parametrize(("code", "text"), FOUND)
def test_what_is_found_is_found_far_inside_a_long_text(code: str, text: str) -> None:
    if text[0] in "<\n" or "</s>" in text or text.startswith("H"):
        pytest.skip("found at the start or the end of a text alone")
    words = "Plain words of a clean text. " * 200
    assert found(f"{words}\n{text}\n{words}") == [code]


def test_every_code_of_the_group_is_tested() -> None:
    apart = {"equal_after_normalisation", "sensitive_word", "over_long"}
    assert {code for code, _ in FOUND} | apart == set(check_codes("content"))


@pytest.mark.parametrize(("code", "text"), FOUND)
def test_a_code_that_is_off_is_not_looked_for(code: str, text: str) -> None:
    assert found(text, ChecksSection(severity={code: "off"})) == []


def test_a_fault_names_the_place_the_field_and_what_was_found() -> None:
    messages = [Message(role="user", content="Who?"), Message(role="assistant", content="joe@firm.com")]
    (fault,) = ContentChecks(ChecksSection(), "sft").find(SFTRecord(messages=messages), PLACE)
    assert (fault.path, fault.line, fault.field) == ("rows.jsonl", 7, "messages[1].content")
    assert (fault.value, fault.severity) == ("'joe@firm.com'", "warning")


def test_a_nul_character_is_an_error() -> None:
    (fault,) = ContentChecks(ChecksSection(), "prompt").find(PromptRecord(prompt="a\0b"), PLACE)
    assert (fault.severity, fault.value) == ("error", r"'a\x00b'")


def test_a_severity_of_the_recipe_is_left_to_the_caller() -> None:
    checks = ContentChecks(ChecksSection(severity={"email": "error"}), "prompt")
    (fault,) = checks.find(PromptRecord(prompt="joe@firm.com"), PLACE)
    assert fault.severity == "warning"


def test_there_is_one_fault_a_code_and_field() -> None:
    pair = PreferenceRecord(
        prompt="a@firm.com, b@firm.com?", chosen="c@firm.com and 8.8.8.8", rejected="<br><br> none"
    )
    faults = ContentChecks(ChecksSection(), "preference").find(pair, PLACE)
    assert sorted((fault.code, fault.field) for fault in faults) == [
        ("email", "chosen"),
        ("email", "prompt"),
        ("html", "rejected"),
        ("ip_address", "chosen"),
    ]


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("4111 1111 1111 1111", "'4111… (19 characters)'"),
        ("DE89 3704 0044 0532 0130 00", "'DE89… (27 characters)'"),
        ("ghp" + "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJ", "'ghp_… (40 characters)'"),
    ],
)
def test_a_report_does_not_spread_cards_accounts_and_secrets(secret: str, shown: str) -> None:
    (fault,) = ContentChecks(ChecksSection(), "prompt").find(PromptRecord(prompt=f"It is {secret}."), PLACE)
    assert fault.value == shown


def test_a_row_with_more_characters_than_allowed_is_told_once_without_a_field() -> None:
    checks = ContentChecks(ChecksSection(max_chars=10), "preference")
    at_limit = PreferenceRecord(prompt="1234", chosen="567", rejected="890")
    beyond = PreferenceRecord(prompt="1234", chosen="567", rejected="8901")
    assert checks.find(at_limit, PLACE) == []
    (fault,) = checks.find(beyond, PLACE)
    assert (fault.code, fault.field) == ("over_long", None)
    assert "11 characters" in fault.message
