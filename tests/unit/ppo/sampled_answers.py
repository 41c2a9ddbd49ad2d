"""Answers as a policy with a small trained tokenizer samples them, for the tests of sources."""

from rlhf.models.tokenizer import train_tokenizer
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.scoring import Answer
from rlhf_schemas import PromptRecord

POLICY = train_tokenizer(["the cat is kind and the dog is fine"] * 4, 300)
OTHER = train_tokenizer(["is the owl wise ? the owl is wise indeed"] * 4, 300)
OTHER.add_special_tokens({"eos_token": "<|stop|>"})
EOS = POLICY.eos_token_id


def answer(response, prompt="the cat", finish_reason="eos", metadata=None):
    """An answer whose tokens end with EOS where it ended by itself."""
    record = PromptRecord(prompt=prompt, metadata=metadata or {})
    text = prompt if isinstance(prompt, str) else prompt[-1].content
    ids = POLICY.encode(response, add_special_tokens=False) + ([EOS] if finish_reason == "eos" else [])
    return Answer(Prompt(0, POLICY.encode(text, add_special_tokens=False), text, record), ids, finish_reason)
