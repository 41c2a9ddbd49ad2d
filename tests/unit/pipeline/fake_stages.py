"""A stage that publishes one small file without training, so that planning is tested in milliseconds."""

import json
from collections.abc import Callable
from pathlib import Path

from rlhf.checkpoint import Checkpoints
from rlhf.errors import StageError
from rlhf.recipe import Recipe, Stage
from rlhf.registry import ManifestDraft, Parent, Registry
from rlhf.stages.inputs import DONE_FILE, StageInputs, registry_folder


class FakeStages:
    """Stands in for `run_stage`; remembers which stages ran, and fails in `fail_in` after one checkpoint."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail_in: str | None = None

    def __call__(
        self, recipe: Recipe, run_folder: Path, stage: Stage, *, on_poll: Callable[[], None], resume_with: str
    ) -> None:
        self.ran.append(stage)
        folder = run_folder / stage
        inputs = StageInputs.model_validate_json((folder / "inputs.json").read_text())
        checkpoints = Checkpoints(folder / "checkpoints")
        step = (checkpoints.newest().step if checkpoints.newest() else 0) + 5  # type: ignore[union-attr]
        (checkpoints.begin(step) / "weights").write_bytes(b"w")
        checkpoints.commit(step)
        on_poll()
        if self.fail_in == stage:
            raise StageError(f"the {stage} stage exited with 1", f"Go on with: {resume_with}")
        registry = Registry(registry_folder(recipe))
        staged = registry.staging(recipe.artefact_name(stage))
        (staged / "config.json").write_text(json.dumps({"made_by": inputs.digest}))
        models = (("policy", inputs.policy), ("reward_model", inputs.reward_model))
        parents = [
            Parent(role=r, reference=m.reference, digest=m.digest or "")
            for r, m in models
            if m and m.reference
        ]
        draft = ManifestDraft(
            name=recipe.artefact_name(stage),
            stage=stage,
            kind="reward_model" if stage == "reward" else "causal_lm",
            parents=parents,
            data=inputs.data,
            recipe_digest=recipe.digest(),
            inputs_digest=inputs.digest,
            tokenizer_digest="t",
            code_version="0",
        )
        registry.publish(staged, draft)
        (folder / "samples.json").write_text(
            json.dumps(
                [
                    {
                        "prompt": "p",
                        "sft": "s",
                        "ppo": f"seed {recipe.stage_seed(stage)}",
                        "sft_score": 0.0,
                        "ppo_score": 1.0,
                    }
                ]
            )
        )
        (folder / DONE_FILE).write_text("{}")
