"""The smallest draft that is valid; imported by the tests and by the processes that they start."""

from rlhf.registry import ManifestDraft, Parent


def make_draft(name: str, inputs: str = "inputs", parents: list[Parent] | None = None) -> ManifestDraft:
    return ManifestDraft(
        name=name,
        stage="sft",
        kind="causal_lm",
        parents=parents or [],
        recipe_digest="recipe",
        inputs_digest=inputs,
        tokenizer_digest="tokenizer",
        code_version="0.1.0",
    )
