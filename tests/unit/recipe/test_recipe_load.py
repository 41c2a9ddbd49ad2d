"""A recipe's faults: all at once, each with its path in the file and its line."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tiny import SECTIONS, TinyRecipe

from rlhf.errors import RecipeError, UsageError
from rlhf.recipe import Recipe, load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def faults_with(recipe: TinyRecipe, *overrides: str) -> list[str]:
    """The fault lines, without the heading."""
    return [line.strip() for line in faults_of(recipe.path, *overrides).split("\n")[1:]]


def test_a_valid_recipe_has_its_values_and_its_defaults(tiny_recipe: TinyRecipe) -> None:
    recipe = load_recipe(tiny_recipe.path)
    assert recipe.stages() == ["sft", "reward", "ppo"]
    assert recipe.sft is not None
    assert (recipe.sft.learning_rate, recipe.sft.keep_checkpoints) == (0.01, 2)
    assert recipe.artefact_name("ppo") == "tiny-ppo"
    assert recipe.splits("reward").train.path == "preference.train.jsonl"


def test_every_kind_of_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: bad name\n"  # 1
        "modle: {path: x}\n"  # 2
        "data:\n"  # 3
        "  sft: {train: a.jsonl}\n"  # 4
        "  preference: {train: {path: b.jsonl, formt: csv}}\n"  # 5
        "sft:\n"  # 6
        "  lerning_rate: 0.1\n"  # 7
        "  global_batch_size: many\n"  # 8
        "  per_device_batch_size: 4\n"  # 9
        "  patience: 2\n"  # 10
        "ppo: {num_steps: 0, global_batch_size: 10, num_minibatches: 4, per_device_batch_size: 1,\n"  # 11
        "  learning_rate: 1.0, sampling: {max_new_tokens: 5}}\n",  # 12
    )
    text = faults_of(path)
    for expected in (
        "r.yaml:1: name: ",
        "r.yaml:2: modle: unknown key; did you mean model?",
        "r.yaml: model: missing",
        "r.yaml:3: data: the ppo stage needs data.prompts",
        "r.yaml:5: data.preference.train.formt: unknown key; did you mean format?",
        "r.yaml:7: sft.lerning_rate: unknown key; did you mean learning_rate?",
        "r.yaml:6: sft.learning_rate: missing, and it has no default",
        "r.yaml:8: sft.global_batch_size: Input should be a valid integer, unable to parse string as an integer (got 'many')",
        "r.yaml:10: sft.patience: early stopping needs a held-out split: add data.sft.eval or holdout",
        "r.yaml:11: ppo.num_steps: Input should be greater than or equal to 1 (got 0)",
        "r.yaml:11: ppo.global_batch_size: global_batch_size=10 is not a multiple of num_minibatches=4",
        "r.yaml:11: ppo: PPO needs a reward model",
    ):
        assert expected in text
    assert "12 fault(s)" in text


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("model.path=x", "model", "give either path"),
        ("model.lora={}", "model.lora", "nothing to freeze"),
        ("model.revision=main", "model.revision", "has none"),
        ("model.scratch.num_heads=5", "model.scratch.num_heads", "does not divide"),
        ("model.scratch.num_heads=32", "model.scratch.num_heads", "not a multiple of 2"),
        ("model.scratch.max_positions=32", "sft.max_length", "max_length=64 exceeds"),
        ("ppo.max_prompt_length=53", "ppo.max_prompt_length", "53 + sampling.max_new_tokens=12 exceeds"),
        ("sft=null", "model.scratch", "needs an sft stage"),
        ("data.preference=null", "data", "the reward stage needs data.preference"),
        ("reward=null", "ppo", "PPO needs a reward model"),
        ("reward.num_reference_samples=1", "ppo.shaping.normalize", "gives none"),
        ("sft.per_device_batch_size=3", "sft.global_batch_size", "not a multiple of per_device_batch_size=3"),
        ("launch.num_processes=3", "sft.global_batch_size", "3 processes = 24"),
        ("launch.num_processes=3", "ppo.global_batch_size", "a minibatch of 4 responses"),
        ("ppo.num_minibatches=3", "ppo.global_batch_size", "not a multiple of num_minibatches=3"),
        ("ppo.shaping={missing_eos_penalty: 2.0}", "ppo.shaping.missing_eos_penalty", "missing_eos is none"),
        ("ppo.shaping={length_free_tokens: 5}", "ppo.shaping.length_free_tokens", "length_penalty is 0"),
        ("ppo.sampling.samples_per_prompt=3", "ppo.sampling.samples_per_prompt", "is not a multiple of"),
        ("ppo.kl={coef: 0, target: 6}", "ppo.kl.coef", "0 stays 0"),
        ("ppo.kl={horizon: 50}", "ppo.kl.horizon", "set target too"),
        ("ppo.kl={horizon: 1, target: 6}", "ppo.kl.horizon", "turn the coefficient's sign"),
        ("ppo.combine=min", "ppo.combine", "not several sources"),
        ("ppo.ptx_batch_size=8", "ppo.ptx_batch_size", "ptx_coef is 0"),
        (
            "ppo.evaluation={select_best: eval/gold_scores}",
            "ppo.evaluation.select_best",
            "needs a gold judge",
        ),
        (
            "ppo.evaluation={select_best: objective/scores}",
            "ppo.evaluation.select_best",
            "not measured at evaluations",
        ),
        ("ppo.evaluation={kl_budget: 3}", "ppo.evaluation.kl_budget", "name in select_best"),
        ("ppo.sampling={max_new_tokens: 9, top_p: 0.9, replay: x}", "ppo.sampling.replay", "leave those out"),
        ("ppo.kl={place: loss}", "ppo.kl.estimator", "k1 in the loss has no gradient"),
        ("ppo.kl={estimator: k2}", "ppo.kl.estimator", "k2 is a biased estimate"),
        ("ppo.critic_warmup_steps=4", "ppo.critic_warmup_steps", "the policy would never be trained"),
        ("sft.publish_as=tiny-ppo", "ppo.publish_as", "is the sft stage's name already"),
        ("sft.publish_as=../x", "sft.publish_as", "should match pattern"),
        ("seed=4294967296", "seed", "less than 4294967296"),
        ("ppo.seed=-1", "ppo.seed", "greater than or equal to 0"),
        ("sft.learning_rate=.nan", "sft.learning_rate", "finite"),
        ("trackers=[wandbb]", "trackers.0", "wandb"),
        ("launch.mixed_precision=fp16", "launch.mixed_precision", "'bf16'"),
    ],
)
def test_impossible_and_bad_values_are_refused_where_they_stand(
    tiny_recipe: TinyRecipe, override: str, where: str, message: str
) -> None:
    lines = faults_with(tiny_recipe, override)
    assert any(f": {where}: " in line and message in line for line in lines), lines


def test_no_stage_at_all_is_refused(tiny_recipe: TinyRecipe) -> None:
    (line,) = [
        line for line in faults_with(tiny_recipe, "sft=null", "reward=null", "ppo=null") if "no stage" in line
    ]
    assert line == f"{tiny_recipe.path}: no stage: give at least one of sft, reward, ppo"


def test_combinations_are_told_although_a_value_beside_them_is_broken(tiny_recipe: TinyRecipe) -> None:
    lines = faults_with(
        tiny_recipe,
        "sft.learning_rate=fast",
        "sft.max_length=65",
        "data.sft=null",
        "data.prompts.train.formt=x",
    )
    told = {line.split(": ")[1] for line in lines}
    assert told == {
        "sft.learning_rate",
        "sft.max_length",
        "data",
        "data.prompts.train.formt",
    }


def test_combinations_are_checked_when_a_recipe_is_built_in_python(tiny_recipe: TinyRecipe) -> None:
    values = load_recipe(tiny_recipe.path).model_dump()
    values["ppo"]["num_minibatches"] = 3
    with pytest.raises(ValueError, match=r"ppo.global_batch_size: .* num_minibatches=3"):
        Recipe.model_validate(values)


def test_overrides_reach_everywhere_and_are_named_as_their_place(tiny_recipe: TinyRecipe) -> None:
    recipe = load_recipe(
        tiny_recipe.path,
        [
            "ppo.seed=7",
            "data.sft.train.columns={prompt: q}",
            "ppo.kl.coef=0.2",
            "reward=null",
            "ppo.reward_model=m",
        ],
    )
    assert recipe.ppo is not None
    assert (recipe.ppo.seed, recipe.ppo.kl.coef, recipe.reward) == (7, 0.2, None)
    assert recipe.data.sft is not None
    assert recipe.data.sft.train.path == "sft.train.jsonl"
    assert recipe.data.sft.train.columns == {"prompt": "q"}
    assert faults_with(tiny_recipe, "ppo.lam=2")[0].startswith("--set ppo.lam=2: ppo.lam: ")


@pytest.mark.parametrize("override", ["ppo.seed", "=1", "name.x=1", "seed=[1"])
def test_a_malformed_override_is_a_wrong_call(tiny_recipe: TinyRecipe, override: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        load_recipe(tiny_recipe.path, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nseed: 1\nseed: 2\n", "r.yaml:3: seed is given twice (first at "),
        ("name: a\nsft:\n  seed: 1\n  seed: 2\n", "r.yaml:4: sft.seed is given twice"),
        ("name: a\nsft: [1\nppo: {}\n", "r.yaml:3: not YAML"),
        ("name: a\non: {}\n", "r.yaml:2: on: a key is text"),
        ("- a\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("name: !!python/object/apply:os.getcwd []\n", "r.yaml:1: not YAML"),
        ("name: 2024-13-45\n", "not YAML"),
        ("name: &a {b: *a}\n", "not YAML"),
        (
            "a: &a [1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{n}: &{n} [{','.join([f'*{p}'] * 8)}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "unfold to more than",
        ),
    ],
    ids=["twice", "twice-inside", "syntax", "key", "list", "empty", "object", "date", "circle", "laughs"],
)
def test_what_is_no_recipe_is_refused_in_one_message(tmp_path: Path, text: str, message: str) -> None:
    assert message in faults_of(write(tmp_path, text))


def test_a_recipe_that_cannot_be_read_is_a_wrong_call(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="recipe"):
            load_recipe(path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert "not UTF-8 at byte 9" in faults_of(tmp_path / "latin.yaml")


def test_the_digest_ignores_order_and_spelled_out_defaults_and_sees_every_value(
    tiny_recipe: TinyRecipe,
) -> None:
    first = load_recipe(tiny_recipe.path).digest()
    sections = tiny_recipe.sections()
    tiny_recipe.write(
        dict(
            reversed(
                [(k, dict(reversed(v.items())) if isinstance(v, dict) else v) for k, v in sections.items()]
            )
        )
    )
    assert load_recipe(tiny_recipe.path).digest() == first
    assert load_recipe(tiny_recipe.path, ["ppo.gamma=1.0", "launch={}"]).digest() == first
    for override in ("seed=1", "ppo.gamma=0.5", "data.chat=false", "workspace=w"):
        assert load_recipe(tiny_recipe.path, [override]).digest() != first


def test_the_resolved_dump_reads_back_as_the_same_recipe(tiny_recipe: TinyRecipe) -> None:
    recipe = load_recipe(tiny_recipe.path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnopqrst", "https://me:pa55@example.org/x", "sk-abcdefghijklmnop1234"]
)
def test_a_secret_is_refused_and_never_shown(tiny_recipe: TinyRecipe, secret: str) -> None:
    hidden = "pa55" if "pa55" in secret else secret
    for override in (
        f"model.path={secret}",
        f"model.scratch.{secret.replace('.', '-')}=1",
        f"seed={secret}",
        secret,
    ):
        with pytest.raises(UsageError) as caught:
            load_recipe(tiny_recipe.path, [override])
        assert hidden not in str(caught.value), override
    assert any(
        "model.path: holds a secret" in line for line in faults_with(tiny_recipe, f"model.path={secret}")
    )


def sections_of(model: type[BaseModel], outer: tuple[Any, ...] = ()) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for option in (field.annotation, *getattr(field.annotation, "__args__", ())):
            # a section may hold more of its own kind
            if inspect.isclass(option) and issubclass(option, BaseModel) and option not in (*outer, model):
                yield from sections_of(option, (*outer, model))


def test_every_field_of_every_section_has_a_docstring() -> None:
    sections: set[Any] = set(sections_of(Recipe))
    assert len(sections) > 10
    bare = [
        f"{s.__name__}.{name}"
        for s in sections
        for name, field in s.model_fields.items()
        if not field.description
    ]
    assert bare == []


def test_the_sections_of_the_tiny_recipe_are_not_changed_by_loading(tiny_recipe: TinyRecipe) -> None:
    load_recipe(tiny_recipe.path, ["ppo.seed=1"])
    assert yaml.safe_load(tiny_recipe.path.read_text()) == SECTIONS


@pytest.mark.parametrize("text", ["no", "false", '"no"'])
def test_a_bare_no_means_no_mixed_precision(tiny_recipe, text):
    assert load_recipe(tiny_recipe.path, [f"launch.mixed_precision={text}"]).launch.mixed_precision == "no"


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp2"])
def test_layers_are_compiled_where_that_is_tested_alone(tiny_recipe: TinyRecipe, strategy: str) -> None:
    lines = faults_with(tiny_recipe, f"launch.strategy={strategy}", "ppo.compile=true")
    assert any(f": ppo.compile: layers have not been compiled under {strategy}" in line for line in lines), (
        lines
    )
    lines = faults_with(tiny_recipe, "model.lora={r: 2, quantize: nf4}", "ppo.compile=true")
    assert any(": ppo.compile: layers over 4-bit weights" in line for line in lines), lines
    load_recipe(tiny_recipe.path, ["ppo.compile=true"])
