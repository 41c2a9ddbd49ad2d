"""What tells one split's tokens from another's, and what a cached split brings back."""

import fcntl
import json

import pytest
from encoded import TOKENIZER, dialogue, ppo_section, reward_section, sft_section, split_of

from rlhf.errors import DataError
from rlhf.models.tokenizer import TRAINED_TEMPLATE, train_tokenizer
from rlhf.stages.tokens import shared as module
from rlhf.stages.tokens.cache import shared_folder
from rlhf.stages.tokens.encoders import Demonstration, Pair
from rlhf.stages.tokens.examples import demonstrations, pairs
from rlhf.stages.tokens.prompts import prompts
from rlhf.stages.tokens.rows import DEMONSTRATIONS, PAIRS, TokenRows, read_rows, write_rows
from rlhf_schemas import PromptRecord

ROWS = [{"prompt": "is it?", "completion": " it is."}, {"prompt": "a", "completion": " cat", "weight": 2.0}]


@pytest.fixture
def built(monkeypatch):
    """How often a split was encoded."""
    builds: list[int] = []
    build = module._build

    def counted(*arguments):
        builds.append(1)
        build(*arguments)

    monkeypatch.setattr(module, "_build", counted)
    return builds


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [Demonstration([5, 6, 7], [False, True, True], 0.5), Demonstration([8], [True], 1.0)]
    couples = [Pair([1], [1, 2], [1, 3], 0.25, 2.0), Pair(None, [4], [5], None, 1.0)]
    for name, some, layout in (("a", rows, DEMONSTRATIONS), ("b", couples, PAIRS)):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, some, layout, lambda: {"fact": 1})
        dataset, facts = read_rows(tmp_path / name)
        again = TokenRows(dataset, layout.row)
        assert list(again) == [again[0], again[1]] == again[:] == some
        assert (len(again), again[-1]) == (2, some[-1])
        assert (facts["fact"], facts["num_rows"]) == (1, 2)


def test_a_second_run_reads_what_the_first_has_written(tmp_path, built):
    split, section = split_of(tmp_path, "sft", ROWS), sft_section()
    first = demonstrations(TOKENIZER, split, section, cache=tmp_path / "cache")
    second = demonstrations(TOKENIZER, split, section, cache=tmp_path / "cache")
    assert len(built) == 1
    assert list(first.rows) == list(second.rows)
    assert (str(second), second.has_weights) == (str(first), True)


def test_prompts_are_encoded_once_and_bring_their_records_back(tmp_path, built):
    rows = [
        {"prompt": "is it?", "metadata": {"n": 1, "share": 0.5, "who": None, "tags": ["a", "é\n"]}},
        {"prompt": "the cat sat on the mat. " * 9},
        {"prompt": dialogue("is it?", system="it is.")},
    ]
    split = split_of(tmp_path, "prompt", rows)
    section = ppo_section(max_prompt_length=60, over_length="drop")
    first = prompts(TOKENIZER, split, section, cache=tmp_path / "cache")
    second = prompts(TOKENIZER, split, section, cache=tmp_path / "cache")
    assert len(built) == 1
    assert list(first.rows) == list(second.rows)
    assert str(first) == str(second) == "2 prompts; too long: 1 dropped, 0 truncated"
    text, turns = second.rows
    assert (text.prompt_id, turns.prompt_id) == (0, 2)
    assert text.record == PromptRecord.model_validate(rows[0])
    assert turns.record == PromptRecord.model_validate(rows[2])
    assert text.token_ids == TOKENIZER.encode("is it?")
    prompts(TOKENIZER, split, ppo_section(max_prompt_length=300), cache=tmp_path / "cache")
    assert len(built) == 2, "another limit, other rows"


def test_a_long_build_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    split = split_of(tmp_path, "sft", ROWS)
    monkeypatch.setattr(module, "TOLD_SECONDS", 0.0)
    demonstrations(TOKENIZER, split, sft_section(), cache=tmp_path / "cache")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"sft.train: {number} rows as tokens so far" for number in (1, 2)]


def changed(tmp_path, what):
    """The tokenizer, split and section of a run in which one thing is another."""
    tokenizer, rows, chat, source = train_tokenizer(["is it? it is."], 300), ROWS, False, {}
    limits: dict[str, object] = {"max_length": 50}
    if what == "rows":
        rows = [*ROWS[:1], {**ROWS[1], "weight": 3.0}]
    elif what == "chat":
        chat = True
    elif what == "mapping":
        source = {"extra": "metadata"}
    elif what == "preparation":
        source = {"prepare": {"clean": ["nfc"]}}
    elif what == "length":
        limits = {"max_length": 49}
    elif what == "rule":
        limits = {"max_length": 50, "over_length": "drop"}
    elif what == "vocabulary":
        tokenizer = train_tokenizer(["a dog runs, a dog runs"], 300)
    elif what == "template":
        tokenizer.chat_template = TRAINED_TEMPLATE.replace("|>'", "|> '")
    return tokenizer, split_of(tmp_path, "sft", rows, chat=chat, **source), sft_section(**limits)


@pytest.mark.parametrize(
    "what", ["rows", "chat", "mapping", "preparation", "length", "rule", "vocabulary", "template", "nothing"]
)
def test_whatever_decides_the_tokens_decides_the_key(tmp_path, built, what):
    for change in ("nothing", what):
        tokenizer, split, section = changed(tmp_path, change)
        demonstrations(tokenizer, split, section, cache=tmp_path / "cache")
    assert len(built) == (1 if what == "nothing" else 2)


def test_a_list_of_words_counts_by_its_content(tmp_path, built):
    words = tmp_path / "fillers.txt"
    learned = []
    for filler in ("cat", "is"):
        words.write_text(filler + "\n", encoding="utf-8")
        split = split_of(tmp_path, "sft", ROWS[:1], prepare={"filler_words": str(words)})
        examples = demonstrations(TOKENIZER, split, sft_section(), cache=tmp_path / "cache")
        learned.append(TOKENIZER.decode(examples.rows[0].input_ids))
    assert len(built) == 2
    assert "is" in learned[0]
    assert "is" not in learned[1]


def test_faulty_rows_leave_nothing_behind(tmp_path):
    rows = [*ROWS, {"prompt": "a", "completion": " b<|eos|> c"}, {"prompt": "d", "completion": "<|eos|> e"}]
    split = split_of(tmp_path, "sft", rows)
    with pytest.raises(DataError) as caught:
        demonstrations(TOKENIZER, split, sft_section(), cache=tmp_path / "cache")
    message = str(caught.value)
    assert "2 row(s) cannot be encoded" in message
    assert all(f"sft.jsonl:{line}: " in message for line in (3, 4))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    split = split_of(tmp_path, "sft", ROWS)

    def changing(rows, encoder):
        (tmp_path / "sft.jsonl").write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
        return ((item.place, encoder(item.record)) for item in rows)

    monkeypatch.setattr(module, "encode_rows", changing)
    with pytest.raises(DataError, match=r"data\.sft\.train .* was changed while it was read"):
        demonstrations(TOKENIZER, split, sft_section(), cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_faulty_rows_of_a_cached_split_are_told_to_the_next_run_too(tmp_path, built):
    rows = [*ROWS, {"prompt": "", "completion": " b"}]
    written = []
    for run in ("one", "two"):
        file = tmp_path / run / "quarantine.sft.train.jsonl"
        file.parent.mkdir()
        split = split_of(tmp_path, "sft", rows, quarantine=file, on_error="quarantine", max_faulty_share=0.5)
        examples = demonstrations(TOKENIZER, split, sft_section(), cache=tmp_path / "cache")
        assert str(examples).startswith("3 rows read; 1 faulty (quarantine.sft.train.jsonl)")
        written.append(file.read_bytes())
    assert len(built) == 1
    assert written[0] == written[1]
    assert b"blank" in written[0]


def test_cached_tokens_bring_their_own_faulty_rows_back_and_no_others(tmp_path, built):
    file = tmp_path / "stage" / "quarantine.sft.train.jsonl"
    file.parent.mkdir()
    blank_a, blank_b = {"prompt": "a", "completion": " "}, {"prompt": "b", "completion": " "}
    told = []
    for rows in ([*ROWS, blank_a], [*ROWS, blank_b], ROWS, [*ROWS, blank_a], ROWS):
        split = split_of(tmp_path, "sft", rows, quarantine=file, on_error="quarantine", max_faulty_share=0.5)
        demonstrations(TOKENIZER, split, sft_section(), cache=tmp_path / "cache")
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        told.append([json.loads(line)["values"]["prompt"] for line in lines])
    assert told == [["a"], ["b"], [], ["a"], []]
    assert len(built) == 3


@pytest.mark.parametrize("damage", ["cut", "no facts", "half of the facts"])
def test_a_damaged_cache_is_noticed_and_built_anew(tmp_path, built, capsys, damage):
    split, cache = split_of(tmp_path, "sft", ROWS), tmp_path / "cache"
    demonstrations(TOKENIZER, split, sft_section(), cache=cache)
    (path,) = cache.glob("*/rows.arrow")
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-100])
    elif damage == "no facts":
        (path.parent / "facts.json").unlink()
    else:
        (path.parent / "facts.json").write_text('{"num_ro', encoding="utf-8")
    examples = demonstrations(TOKENIZER, split, sft_section(), cache=cache)
    assert len(built) == 2
    assert capsys.readouterr().out == f"{path.parent} is damaged; it is built anew\n"
    assert path.read_bytes() == whole
    assert len(examples.rows) == 2


def test_pairs_are_kept_apart_from_demonstrations_and_have_margins(tmp_path):
    row = {"prompt": "a", "chosen": " b", "rejected": " c", "margin": 0.5}
    turns = {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")}
    split = split_of(tmp_path, "preference", [row, turns])
    examples = pairs(TOKENIZER, split, reward_section(), cache=tmp_path / "cache")
    assert [pair.margin for pair in examples.rows] == [0.5, None]


@pytest.mark.parametrize("killed", ["own", "another's", "a living one's"])
def test_what_killed_builders_left_is_removed(tmp_path, killed):
    name = "key" if killed == "own" else "other"
    (tmp_path / f".writing-{name}").mkdir()
    (tmp_path / f".writing-{name}" / "rows.arrow").write_bytes(b"half")

    def build(folder):
        assert not list(folder.iterdir())
        (folder / "done").write_text("1", encoding="utf-8")

    with (tmp_path / "other.lock").open("a") as lock:
        if killed == "a living one's":
            fcntl.flock(lock, fcntl.LOCK_EX)
        built = shared_folder(tmp_path, "key", build, is_whole=lambda path: (path / "done").exists())
    assert (built / "done").exists()
    assert (tmp_path / ".writing-other").exists() == (killed == "a living one's")
    assert not (tmp_path / ".writing-key").exists()


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("no_label", {"prompt": "is it good? " * 20, "completion": " a"}),
        ("cannot_encode", {"prompt": "a", "completion": " b<|eos|> c"}),
    ],
)
def test_rows_without_tokens_stop_the_stage_or_are_left_out_as_their_severity_says(tmp_path, code, bad):
    section = sft_section(max_length=20, over_length="truncate")
    rows, cache = [ROWS[0], bad, ROWS[1]], tmp_path / "cache"
    split = split_of(tmp_path, "sft", rows)
    with pytest.raises(DataError, match=r"sft\.jsonl:2"):
        demonstrations(TOKENIZER, split, section, cache=cache)
    split = split_of(tmp_path, "sft", rows, severity={code: "warning"})
    examples = demonstrations(TOKENIZER, split, section, cache=cache)
    assert (len(examples.rows), examples.num_dropped) == (2, 1)
