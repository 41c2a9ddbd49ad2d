"""Small tokenizers and chat templates in the styles that models come with, for the tests of this folder."""

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from rlhf.models.tokenizer import train_tokenizer
from rlhf_schemas import Message

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header|>' + m.role + '<|end_header|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header|>assistant<|end_header|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + eos_token }}{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
REWRITES = (  # as reasoning models do: thinking is kept in the last turn alone
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '(thinking)\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_END = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
NO_GENERATION_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
TEXTS = [
    "the film was good , and the answer is good or bad\n\nHi there",
    "assistant user system helpful [INST] first answer ? a.",
] * 4


def byte_level(
    *specials: str | AddedToken, template: str | None = None, **roles: str
) -> PreTrainedTokenizerFast:
    """A GPT-2-like tokenizer; the special tokens have the first ids, in their order."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _finished(backend, template, roles)


def metaspace(scheme: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer that adds BOS (1) and a space to every text; no byte fallback, <unk> is 0, </s> 2."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return _finished(backend, template, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def llama2(template: str | None = None) -> PreTrainedTokenizerFast:
    """Llama 2's way: the normaliser adds the space to every piece between special tokens; bytes for unknown characters."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz?.[]/INST"]
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *fallback, *dict.fromkeys(letters)])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _finished(backend, template, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def _finished(backend: Tokenizer, template: str | None, roles: dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)
    tokenizer.chat_template = template
    return tokenizer


IM = ("<|im_start|>", "<|im_end|>")


def chatml() -> PreTrainedTokenizerFast:
    return byte_level(*IM, template=CHATML, eos_token="<|im_end|>", pad_token="<|im_end|>")


def llama3() -> PreTrainedTokenizerFast:
    return byte_level(
        "<s>",
        "<e>",
        "<|start_header|>",
        "<|end_header|>",
        "<|eot|>",
        template=LLAMA3,
        bos_token="<s>",
        eos_token="<e>",
    )


def phi() -> PreTrainedTokenizerFast:
    takes_space = [AddedToken(f"<|{n}|>", rstrip=True, special=True) for n in ("user", "assistant", "end")]
    return byte_level("<e>", *takes_space, template=PHI, eos_token="<e>")


CHATS = {
    "chatml": (chatml, "<|im_end|>"),
    "llama3": (llama3, "<|eot|>"),
    "zephyr": (lambda: byte_level("</s>", template=ZEPHYR, eos_token="</s>", pad_token="</s>"), "</s>"),
    "gemma": (
        lambda: byte_level(
            "<b>",
            "<e>",
            "<start_of_turn>",
            "<end_of_turn>",
            template=GEMMA,
            bos_token="<b>",
            eos_token="<e>",
        ),
        "<end_of_turn>",
    ),
    "mistral": (
        lambda: byte_level("<s>", "</s>", template=MISTRAL, bos_token="<s>", eos_token="</s>"),
        "</s>",
    ),
    "phi": (phi, "<|end|>"),
    "metaspace first": (lambda: metaspace("first", MISTRAL), "</s>"),
    "metaspace always": (lambda: metaspace("always", MISTRAL), "</s>"),
    "llama2": (lambda: llama2(MISTRAL), "</s>"),
    "trained here": (lambda: train_tokenizer(["the film was good"] * 4, 300), "<|eos|>"),
}


def turns(*contents: str) -> list[Message]:
    """Messages that alternate, the user's first."""
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(contents)]
