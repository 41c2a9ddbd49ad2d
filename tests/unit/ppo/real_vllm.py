"""What `test_vllm_for_real.py` runs in a process of its own; prints a line for each thing that held."""

import functools
import sys
from pathlib import Path

import torch
import trl.generation.vllm_generation as library
import vllm._custom_ops
import vllm.model_executor.layers.utils as products
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from test_graph_engine import noise_of, responses
from tiny_ppo import TinyPPO, lively, made_up_targets, section_of
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.models.load import ModelSource, load_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.ppo.actor_critic import response_logprobs
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.engines.vllm import VLLMEngine
from rlhf.ppo.prompts import Prompt
from rlhf.recipe.vllm import VLLMSection

VOCAB, EOS, NUM_ROWS, NUM_TOKENS = 1000, 1, 12, 24
PROMPTS = [[5 + (7 * row + 3 * k) % 900 for k in range(2 + row % 5)] for row in range(NUM_ROWS)]
NOISE = noise_of(NUM_ROWS, NUM_TOKENS)
GREEDY = {"temperature": 0, "stop_ids": (EOS,)}


def holds(name: str, condition: bool, told: object = "") -> None:
    """Print that something held, or leave."""
    print(f"{'ok' if condition else 'NOT OK'} {name}: {told}", flush=True)
    if not condition:
        sys.exit(1)


def saved_policy(folder: Path) -> None:
    """A Llama of three layers with random weights, and a tokenizer, where vLLM can read them."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    ids = {"eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": None}
    config = LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, max_position_embeddings=128, **shape, **ids)
    policy = lively(LlamaForCausalLM(config), 0)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.35)  # at this width logits would be in the hundreds
    policy.save_pretrained(folder)
    texts = ["The cat is good. The dog is bad. Who knows what the owl is?"] * 3
    train_tokenizer(texts, VOCAB).save_pretrained(folder)


def move(policy: torch.nn.Module, std: float, seed: int) -> None:
    """Change trained weights as an update would, only further."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * std)


def deviation(policy: torch.nn.Module, out, temperature: float) -> float:
    """The largest |log ratio| of any token between the engine and a pass of the policy."""
    worst = 0.0
    for prompt, row, kept, numbers in zip(
        PROMPTS, out.response_ids, out.response_mask, out.logprobs, strict=True
    ):
        ids = torch.cat([torch.tensor(prompt), row[kept]])[None]
        everywhere = torch.ones(1, int(kept.sum()), dtype=torch.bool)
        with torch.no_grad():
            mine, _ = response_logprobs(
                policy, ids, torch.ones_like(ids, dtype=torch.bool), everywhere, temperature=temperature
            )
        worst = max(worst, float((mine[0] - numbers[kept]).abs().max()))
    return worst


def check_samples(engine: VLLMEngine, policy: torch.nn.Module) -> None:
    """Greedy tokens, log-probabilities, seeds, and weights that move."""

    def sampled(noise=NOISE, prompts=PROMPTS, temperature=0.7, stop_ids=(EOS,)):
        return engine.generate(policy, prompts, noise, temperature=temperature, stop_ids=stop_ids)

    def greedy_as_hf():
        mine, other = sampled(**GREEDY), HFEngine().generate(policy, PROMPTS, NOISE, **GREEDY)
        return responses(mine) == responses(other) and mine.finish_reasons == other.finish_reasons

    holds("greedy", greedy_as_hf())
    first = sampled()
    apart = deviation(policy, first, 0.7)
    holds("log-probabilities", apart < 1e-4, apart)
    other = sampled(noise_of(NUM_ROWS, NUM_TOKENS, seed=1))
    holds("repeatable", responses(sampled()) == responses(first) != responses(other))
    rows = responses(sampled(prompts=[PROMPTS[0]] * NUM_ROWS))
    holds(
        "distinct samples",
        len({tuple(row) for row in rows}) > NUM_ROWS // 2,
        len({tuple(row) for row in rows}),
    )
    before = responses(sampled(**GREEDY))
    move(policy, 0.1, seed=2)
    holds("moved weights", responses(sampled(**GREEDY)) != before and greedy_as_hf())


def check_ends(engine: VLLMEngine, policy: torch.nn.Module, tokenizer) -> None:
    """Stop tokens and stop texts that occur in greedy responses."""
    plain = responses(HFEngine().generate(policy, PROMPTS, NOISE, **GREEDY))
    stops = {"temperature": 0, "stop_ids": tuple(sorted({row[5] for row in plain[:4] if len(row) > 5}))}
    mine, other = (each.generate(policy, PROMPTS, NOISE, **stops) for each in (engine, HFEngine()))
    holds("stop tokens", responses(mine) == responses(other) and mine.finish_reasons == other.finish_reasons)
    said = [tokenizer.decode(row[k : k + 2]) for row in plain for k in range(3, len(row) - 1)]
    texts = StopTexts(tokenizer, [text for text in said if text.isascii() and len(text) > 1][:2])
    engine.stop_texts = texts
    mine, other = (
        each.generate(policy, PROMPTS, NOISE, **GREEDY) for each in (engine, HFEngine(stop_texts=texts))
    )
    same = responses(mine) == responses(other) and mine.finish_reasons == other.finish_reasons
    holds("stop texts", same and "stop" in mine.finish_reasons, mine.finish_reasons.count("stop"))
    engine.stop_texts = None


def check_adapters(engine: VLLMEngine, policy: torch.nn.Module) -> None:
    """An adapter is sent merged, and the base is left bit for bit."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(policy, lora).eval()
    before = {name: each.clone() for name, each in adapted.named_parameters()}
    plain = responses(engine.generate(adapted, PROMPTS, NOISE, **GREEDY))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                before[name] = parameter.normal_(std=0.1).clone()
    mine, other = (each.generate(adapted, PROMPTS, NOISE, **GREEDY) for each in (engine, HFEngine()))
    unmoved = all(torch.equal(before[name], each) for name, each in adapted.named_parameters())
    holds("adapters", plain != responses(mine) == responses(other) and unmoved)


def check_steps(folder: Path, engine: VLLMEngine) -> None:
    """Two steps of PPO: sampled by vLLM, weighed, and the second step samples from what the first one made."""
    section = section_of(sampling={"max_new_tokens": 8, "temperature": 0.7, "engine": "vllm"})
    tiny = TinyPPO(section, policy=load_causal_lm(ModelSource(str(folder))).eval(), engine=engine)
    tiny.collector.reference, tiny.collector.stop_ids = tiny.policy, (EOS,)
    tiny.collector.scorer = LengthScorer()
    tiny.model.critic = classifier(folder)
    for step in range(2):
        rollout = tiny.collect(step, [Prompt(n, ids, "") for n, ids in enumerate(PROMPTS[:8])])
        weights = rollout.importance_weights[rollout.response_mask]
        numbers = tiny.updater.update(rollout, *made_up_targets(rollout), step)
        if (weights - 1).abs().max() > 1e-3 or numbers["val/first_log_ratio_abs"] > 1e-5:
            holds("two steps", False, (step, weights.tolist(), numbers))
    holds("two steps", True, f"weights from {weights.min():.6f} to {weights.max():.6f}")


class LengthScorer:
    """Scores by length."""

    def score(self, answers):
        from rlhf.ppo.scoring import Score

        return [Score(float(len(answer.response_ids)), {}) for answer in answers]


def classifier(folder: Path) -> torch.nn.Module:
    """A critic over the same tokens."""
    from transformers import LlamaForSequenceClassification

    return LlamaForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()


def main(folder: Path) -> None:
    """Start vLLM once, and look at everything with it."""
    vllm._custom_ops._supports_onednn = False
    products.check_cpu_sgl_kernel = lambda *_: False
    library.LLM = functools.partial(library.LLM, dtype="float32", enforce_eager=True)
    saved_policy(folder)
    policy = load_causal_lm(ModelSource(str(folder))).eval()
    tokenizer = train_tokenizer(["The cat is good. The dog is bad. Who knows what the owl is?"] * 3, VOCAB)
    engine = VLLMEngine(
        policy,
        VLLMSection(gpu_memory_utilization=0.1),
        accelerator=Accelerator(cpu=True),
        tokenizer=tokenizer,
        num_slots=8,
        max_length=64,
    )
    check_samples(engine, policy)
    check_ends(engine, policy, tokenizer)
    check_steps(folder, engine)
    check_adapters(engine, policy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
