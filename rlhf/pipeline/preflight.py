"""What would make a run fail hours later, looked for before anything starts: data, positions, disk, workspace."""

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from rich.console import Console

from rlhf.data import Report, check_splits, render_text, report_of
from rlhf.data.bars import data_bars
from rlhf.data.source import check_source
from rlhf.durable import explain_write_errors, require_disk
from rlhf.errors import DataError, RecipeError, UsageError
from rlhf.pipeline.token_findings import add_token_findings
from rlhf.recipe import Recipe, Stage
from rlhf.recipe.functions import function_fault
from rlhf.recipe.model import ScratchModel
from rlhf.recipe.training import TrainingSection
from rlhf.stages.inputs import judges, run_folder

_BYTES_A_PARAMETER = 12
"""A checkpoint holds float32 weights and AdamW's two moments."""


def check_workspace(recipe: Recipe) -> None:
    """Raise UsageError where the run's folder cannot be written."""
    folder = run_folder(recipe)
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()


def check_sources(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Look at every file that the recipe names, without reading data or running code.

    Raises:
        UsageError: all those that are missing or cannot be what they are named for, reward functions included.
    """
    faults = [
        f"  data.{read.key}: {fault}"
        for read in recipe.all_reads(stages)
        if (fault := check_source(read.source)) is not None
    ]
    named = (
        ("model.chat_template", recipe.model.chat_template),
        ("launch.accelerate_config", recipe.launch.accelerate_config),
        ("data.checks.sensitive_words", recipe.data.checks.sensitive_words),
        *(
            (f"data.{read.key}: prepare.filler_words", source.prepare.filler_words)
            for read in recipe.all_reads(stages)
            for source in (read.source, *read.source.mix_in)
        ),
    )
    faults += [f"  {key}: {path} is not a file" for key, path in named if path and not Path(path).is_file()]
    faults += [
        f"  {source.name}: {fault}"
        for stage in stages
        for source in judges(recipe, stage)
        if source.function is not None and (fault := function_fault(source.function)) is not None
    ]
    if faults:
        raise UsageError(
            "files that the recipe names:\n" + "\n".join(faults),
            f"Paths are relative to where the command is called: {Path.cwd()}.",
        )


def check_trackers(recipe: Recipe) -> None:
    """Raise UsageError where a tracker's package is not installed: Accelerate would leave it out without a word."""
    missing = [name for name in recipe.trackers if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"trackers: not installed: {', '.join(missing)}",
            f"pip install {' '.join(missing)}, or leave them out.",
        )


def check_quantization(recipe: Recipe) -> None:
    """Look at what a base in 4 bits needs.

    Raises:
        UsageError: bitsandbytes is not installed; names the extra.
        RecipeError: an Accelerate configuration with FSDP.
    """
    lora, config = recipe.model.lora, recipe.launch.accelerate_config
    if lora is None or lora.quantize is None:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"model.lora.quantize: {lora.quantize} needs bitsandbytes, which is not installed",
            "pip install -c constraints.txt -e '.[qlora]', or leave quantize out.",
        )
    if _accelerate_config(config).get("distributed_type") == "FSDP":
        raise RecipeError(
            f"model.lora.quantize: {lora.quantize}: {config} takes FSDP, which cannot read its checkpoints again where "
            "weights have scales beside their 4-bit codes",
            "Take launch.strategy: ddp, zero1, zero2 or zero3.",
        )


def check_vllm(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Raise UsageError, naming the extra, where PPO is to sample with vLLM and it is not installed."""
    if "ppo" not in stages or recipe.ppo is None or recipe.ppo.sampling.engine != "vllm":
        return
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "ppo.sampling.engine: vllm needs vLLM, which is not installed",
            "pip install 'trl[vllm]' in an environment of its own, or take engine: auto.",
        )


def check_strategy(recipe: Recipe) -> None:
    """Refuse what is not installed, and a configuration file under which models would be incomplete.

    Raises:
        UsageError: ZeRO without DeepSpeed.
        RecipeError: a file that is not YAML, or has a setting that no stage can work with.
    """
    strategy, config = recipe.launch.strategy, recipe.launch.accelerate_config
    if strategy.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise UsageError(
            f"launch.strategy: {strategy} is DeepSpeed's, which is not installed",
            "pip install deepspeed, or take fsdp2, which PyTorch brings.",
        )
    faults = list(_config_faults(_accelerate_config(config)))
    if faults:
        raise RecipeError(
            f"launch.accelerate_config: {config}:\n" + "\n".join(f"  {fault}" for fault in faults),
            "Mend the file, or take launch.strategy instead, which sets all of this.",
        )


def _accelerate_config(path: str | None) -> dict[str, Any]:
    """What an Accelerate configuration says; nothing where there is none.

    Raises:
        RecipeError: it is not YAML.
    """
    if path is None:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"launch.accelerate_config: {path}: not YAML: {error}", "Mend the file.") from error
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def _config_faults(content: dict[str, Any]) -> Iterator[str]:
    kind = str(content.get("distributed_type", "NO"))
    settings: dict[str, Any] = {}
    for section in ("fsdp_config", "deepspeed_config"):
        settings |= content.get(section) or {}
    if kind == "MEGATRON_LM":
        yield "distributed_type: MEGATRON_LM: no stage runs under it"
    if kind == "FSDP" and settings.get("fsdp_version", 1) != 2:
        yield "fsdp_version: the first one is not supported: set 2"
    if kind == "FSDP" and settings.get("fsdp_cpu_ram_efficient_loading") is not False:
        yield "fsdp_cpu_ram_efficient_loading: must be false: frozen models would be empty on all processes but the first"
    if kind == "FSDP" and settings.get("fsdp_state_dict_type", "SHARDED_STATE_DICT") != "FULL_STATE_DICT":
        yield "fsdp_state_dict_type: must be FULL_STATE_DICT: no whole model could be published"
    if kind == "DEEPSPEED" and settings.get("zero_stage") == 3:
        if settings.get("zero3_init_flag") is not False:
            yield "zero3_init_flag: must be false: frozen models would be cut into parts as they are loaded"
        if settings.get("zero3_save_16bit_model") is not True:
            yield "zero3_save_16bit_model: must be true: no whole model could be published"


def check_data(recipe: Recipe, stages: Sequence[Stage], console: Console) -> list[Report]:
    """Read every split that these stages need, as tokens too where the tokenizer is here.

    Args:
        recipe: names the splits.
        stages: that need them.
        console: shows how far the reading is.

    Raises:
        DataError: all faults of all splits, before a model is loaded.
    """
    with data_bars(console) as bar:
        surveys = check_splits(
            recipe.all_reads(stages), chat=recipe.data.chat, checks=recipe.data.checks, progress=bar
        )
        add_token_findings(recipe, stages, surveys, progress=bar)
    reports = [report_of(one) for one in surveys.values()]
    faulty = [report for report in reports if report.refuses]
    if faulty:
        raise DataError(
            f"{sum(report.num_faults for report in faulty)} fault(s) in the data, nothing was started:\n{render_text(faulty)}",
            "Mend the rows; `rlhf validate RECIPE` checks them again.",
        )
    return reports


def check_model(recipe: Recipe, folder: Path | None, stages: Sequence[Stage]) -> None:
    """Positions and disk, from the starting model's configuration and files where they are on this machine.

    Raises:
        RecipeError: sequences longer than the model's positions.
        UsageError: too little disk for the checkpoints.
    """
    positions, num_parameters = _facts(recipe.model.scratch, folder)
    faults = [
        f"  {where}: {size} exceeds the model's {positions} positions"
        for where, size in _lengths(recipe, stages)
        if positions and size > positions
    ]
    if faults:
        raise RecipeError(
            "sequences longer than the model can read:\n" + "\n".join(faults),
            "Shorten them, or take another model.",
        )
    if num_parameters:
        needed = sum(_checkpoint_bytes(recipe, stage, num_parameters) for stage in stages)
        require_disk(
            run_folder(recipe), needed, "the checkpoints that this run keeps and one that is being written"
        )


def _lengths(recipe: Recipe, stages: Sequence[Stage]) -> list[tuple[str, int]]:
    lengths: list[tuple[str, int]] = []
    for stage in stages:
        section = recipe.section(stage)
        if isinstance(section, TrainingSection):
            lengths.append((f"{stage}.max_length", section.max_length))
        else:
            size = section.max_prompt_length + section.sampling.max_new_tokens
            lengths.append(("ppo.max_prompt_length + ppo.sampling.max_new_tokens", size))
    return lengths


def _facts(scratch: ScratchModel | None, folder: Path | None) -> tuple[int | None, int | None]:
    """(positions, parameters) as far as they are known without loading the model."""
    if scratch is not None:
        width, inner = scratch.hidden_size, scratch.intermediate_size or 4 * scratch.hidden_size
        return scratch.max_positions, scratch.num_layers * (
            4 * width**2 + 3 * width * inner
        ) + scratch.vocab_size * width
    if folder is None or not (folder / "config.json").is_file():
        return None, None
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return positions, size // (2 if "16" in dtype else 4) or _estimate(config)


def _estimate(config: dict[str, Any]) -> int | None:
    """Parameters of a decoder from its configuration, where the weights are not here yet; within about a tenth."""
    width = config.get("hidden_size") or config.get("n_embd")
    depth = config.get("num_hidden_layers") or config.get("n_layer")
    words = config.get("vocab_size")
    if not (width and depth and words):
        return None
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * width
    return depth * (4 * width**2 + 3 * width * inner) + words * width


def _checkpoint_bytes(recipe: Recipe, stage: Stage, num_parameters: int) -> int:
    """Full fine-tuning's size; an upper bound for LoRA's is the base once."""
    section = recipe.section(stage)
    models = 2 if stage == "ppo" else 1
    each = num_parameters * models * (4 if recipe.model.lora is not None else _BYTES_A_PARAMETER)
    return each * (section.keep_checkpoints + 2)
