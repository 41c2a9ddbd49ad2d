from rlhf.data.across import Across, Tally, leaks, stage_leaks
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import RECORDS


def gather(kind, rows, **severity):
    checks = ChecksSection(severity=severity)
    tally, across = Tally(kind, checks), Across(kind, checks)
    for row in rows:
        tally.add(RECORDS[kind].model_validate(row), "a.jsonl")
    across.extend(tally)
    return across


def places(findings):
    return [(finding.code, finding.ordinal, finding.other) for finding in findings]


TRAIN = [
    {"prompt": "p0", "completion": "a"},
    {"prompt": "p1", "completion": "b"},
    {"prompt": "p1", "completion": "c"},
    {"text": "Once upon a time."},
]
HELD_OUT = [
    {"prompt": "P1 ", "completion": "new"},
    {"prompt": "p2", "completion": "a"},
    {"prompt": "p1", "completion": "c", "weight": 2.0},
    {"text": "Once upon a time."},
    {"text": "Once more."},
]


def test_a_row_in_both_splits_leaks_whole_and_another_with_a_known_prompt_leaks_its_prompt():
    found = leaks(gather("sft", TRAIN), gather("sft", HELD_OUT))
    assert places(found) == [("prompt_leak", 0, 1), ("eval_leak", 2, 2), ("eval_leak", 3, 3)]


def test_pairs_leak_whole_only_where_both_answers_are_the_same():
    train = gather("preference", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    held_out = gather(
        "preference",
        [
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1.0},
            {"prompt": "p", "chosen": "a", "rejected": "c"},
            {"prompt": "q", "chosen": "a", "rejected": "b"},
        ],
    )
    assert places(leaks(train, held_out)) == [("eval_leak", 0, 0), ("prompt_leak", 1, 0)]


def test_leaks_that_are_off_are_not_told():
    train = gather("sft", TRAIN)
    assert places(leaks(train, gather("sft", HELD_OUT, prompt_leak="off"))) == [
        ("eval_leak", 2, 2),
        ("eval_leak", 3, 3),
    ]
    assert places(leaks(train, gather("sft", HELD_OUT, eval_leak="off", prompt_leak="off"))) == []


def test_a_prompt_that_another_stage_trains_on_leaks_whatever_the_kinds():
    trained = gather("sft", TRAIN)
    held_out = gather("prompt", [{"prompt": "p3"}, {"prompt": [{"role": "user", "content": "p0"}]}])
    assert places(stage_leaks(trained, held_out)) == [("stage_leak", 1, 0)]
    assert places(stage_leaks(trained, gather("prompt", [{"prompt": "p0"}], stage_leak="off"))) == []


def test_rows_without_prompts_do_not_leak_by_their_prompts():
    assert places(stage_leaks(gather("sft", TRAIN), gather("sft", [{"text": "Something else."}]))) == []
