"""Impossible sources of scores: each with its place and what to do."""

import pytest
from tiny import TinyRecipe, write_tiny_recipe

from rlhf.errors import RecipeError
from rlhf.recipe import Recipe, load_recipe
from rlhf.recipe.functions import function_fault, function_file

FUNCTION = {"name": "words", "function": "my.rewards:score"}
SERVICE = {"name": "judge", "url": "http://127.0.0.1:8000/score"}
OWN = {"name": "own", "model": "recipe"}
OUTSIDE = {"name": "other", "model": "registry:rm@1"}
NONE = {"shaping": {}}
"""The tiny recipe normalises by the one reward model's statistics; lists do not."""


def faults(tmp_path, ppo, **sections):
    recipe = write_tiny_recipe(tmp_path, {"ppo": NONE | ppo})
    recipe.write(recipe.sections() | sections)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe.path)
    return [line.strip() for line in str(caught.value).split("\n")[1:]]


def one_fault(tmp_path, ppo, **sections):
    (fault,) = faults(tmp_path, ppo, **sections)
    return fault


@pytest.mark.parametrize(
    "rewards",
    [[FUNCTION], [SERVICE, OWN], [OWN | {"normalize": True, "weight": 2.0}, OUTSIDE | {"normalize": True}]],
)
def test_lists_that_make_sense_are_taken(tmp_path, rewards):
    recipe = load_recipe(write_tiny_recipe(tmp_path, {"ppo": NONE | {"rewards": rewards}}).path)
    assert recipe.ppo is not None
    assert [source.name for source in recipe.ppo.rewards] == [source["name"] for source in rewards]


def test_a_function_needs_no_reward_model(tmp_path):
    recipe = write_tiny_recipe(tmp_path, {"ppo": NONE | {"rewards": [FUNCTION]}})
    recipe.write({key: value for key, value in recipe.sections().items() if key != "reward"})
    assert load_recipe(recipe.path).stages() == ["sft", "ppo"]


@pytest.mark.parametrize(
    "extra", [{}, {"model": "recipe", "function": "a:b"}, {"url": "http://x", "function": "a:b"}]
)
def test_a_source_is_exactly_one_of_model_function_and_url_and_its_line_is_told(tmp_path, extra):
    fault = one_fault(tmp_path, {"rewards": [FUNCTION, {"name": "odd"} | extra]})
    assert "recipe.yaml:" in fault
    told = " and ".join(k for k in ("model", "function", "url") if k in extra) or "none of them"
    assert fault.endswith(f"ppo.rewards.1: give exactly one of model, function and url (here: {told})")


@pytest.mark.parametrize(
    ("ppo", "place", "message"),
    [
        ({"rewards": [FUNCTION], "reward_model": "registry:rm@1"}, "ppo.rewards", "not both"),
        ({"rewards": [FUNCTION, SERVICE | {"name": "words"}]}, "ppo.rewards.1.name", "another source's name"),
        (
            {"rewards": [FUNCTION], "evaluation": {"gold": SERVICE | {"name": "words"}}},
            "ppo.evaluation.gold.name",
            "another source's name",
        ),
        ({"rewards": [FUNCTION | {"name": "disagreement"}]}, "ppo.rewards.0.name", "another name"),
        ({"rewards": [FUNCTION | {"name": "score"}]}, "ppo.rewards.0.name", "another name"),
        ({"rewards": [FUNCTION | {"batch_size": 4}]}, "ppo.rewards.0.batch_size", "only a url has it"),
        ({"evaluation": {"gold": SERVICE | {"name": "reward_model"}}}, "ppo.evaluation.gold.name", "another name"),
        ({"evaluation": {"gold": {"name": "g"}}}, "ppo.evaluation.gold", "exactly one of"),
        ({"rewards": [FUNCTION | {"normalize": True}]}, "ppo.rewards.0.normalize", "only a reward model publishes"),
        (
            {"rewards": [{"name": "hub", "model": "owner/rm", "normalize": True}]},
            "ppo.rewards.0.normalize",
            "no published mean",
        ),
        (
            {"rewards": [OWN | {"weight": 2.0}, OUTSIDE], "combine": "min"},
            "ppo.rewards.0.weight",
            "leave weight out",
        ),
        (
            {"rewards": [OWN, OUTSIDE], "shaping": {"normalize": "reference"}},
            "ppo.shaping.normalize",
            "2 sources: set normalize: true on the sources",
        ),
        (
            {"rewards": [SERVICE], "shaping": {"normalize": "reference"}},
            "ppo.shaping.normalize",
            "take batch or running",
        ),
        (
            {"rewards": [OWN | {"weight": 0.5}], "shaping": {"normalize": "reference"}},
            "ppo.shaping.normalize",
            "leave the source's weight and normalize out",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_at_its_place(tmp_path, ppo, place, message):
    fault = one_fault(tmp_path, ppo)
    assert f": {place}: " in fault
    assert message in fault


@pytest.mark.parametrize(
    ("ppo", "place"),
    [
        ({"rewards": [FUNCTION, OWN]}, "ppo.rewards.1.model"),
        ({"rewards": [FUNCTION], "evaluation": {"gold": OWN}}, "ppo.evaluation.gold.model"),
        ({}, "ppo"),
    ],
)
def test_the_recipes_own_reward_model_needs_its_section(tmp_path, ppo, place):
    assert f": {place}: " in one_fault(tmp_path, ppo, reward=None)


@pytest.mark.parametrize(
    ("ppo", "place"),
    [
        ({"rewards": [OWN | {"normalize": True}, OUTSIDE]}, "ppo.rewards.0.normalize"),
        ({"rewards": [OWN], "shaping": {"normalize": "reference"}}, "ppo.shaping.normalize"),
        ({"shaping": {"normalize": "reference"}}, "ppo.shaping.normalize"),
    ],
)
def test_statistics_that_the_reward_stage_does_not_publish_are_missed_at_once(tmp_path, ppo, place):
    recipe = write_tiny_recipe(tmp_path)
    reward = recipe.sections()["reward"] | {"num_reference_samples": 0}
    assert f": {place}: reference needs scores" in one_fault(tmp_path, ppo, reward=reward)


def test_a_users_name_in_a_url_is_a_secret_and_is_not_repeated(tmp_path):
    text = "\n".join(faults(tmp_path, {"rewards": [SERVICE | {"url": "http://me:pass@host/score"}]}))
    assert "ppo.rewards.0.url: holds a secret" in text
    assert "pass" not in text


def test_rules_hold_for_a_recipe_built_in_python_too(tiny_recipe: TinyRecipe):
    values = load_recipe(tiny_recipe.path).model_dump()
    values["ppo"]["rewards"] = [{"name": "a"}]
    with pytest.raises(ValueError, match=r"ppo.rewards.0: give exactly one"):
        Recipe.model_validate(values)


def test_a_list_that_is_none_is_one_fault_and_hides_no_other(tmp_path):
    told = faults(tmp_path, {"rewards": "words", "num_minibatches": 3})
    assert any("ppo.rewards: " in fault for fault in told)
    assert any("num_minibatches=3" in fault for fault in told)


# Where a function's code lies.


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`judges.words` with a function; importing any of it would fail."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "judges"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    (folder / "words.py").write_text(
        "import nowhere\nif nowhere:\n    from nowhere import other\n\ndef score():\n    local = 1\n"
    )
    (folder / "broken.py").write_text("def score(:\n")
    return folder


def test_a_function_is_found_without_running_anything(package):
    assert function_file("judges.words:score") == package / "words.py"
    assert function_fault("judges.words:score") is None
    assert function_fault("judges.words:other") is None
    assert function_fault("json:dumps") is None


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("judges.words:scores", "defines no scores"),
        ("judges.words:local", "defines no local"),
        ("judges.word:score", "no module judges.word"),
        ("judge.words:score", "no module judge.words"),
        ("judges.words.deep:score", "no module judges.words.deep"),
        ("judges.broken:score", "is not Python"),
    ],
)
def test_a_function_that_cannot_be_imported_is_told_why(package, function, fault):
    told = function_fault(function)
    assert told is not None
    assert fault in told
