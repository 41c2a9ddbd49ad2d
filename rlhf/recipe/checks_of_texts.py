"""Checks of what texts hold, of rows beside each other, and of tokens."""

from rlhf.recipe.check_table import Check, error, warning

CHECKS_OF_TEXTS: dict[str, Check] = {
    # what the texts hold
    "nul": error("content", "a NUL character inside a text", "Remove it: it is left over from binary data."),
    "control_char": warning(
        "content",
        "another control character inside a text (not tab or line break)",
        "Remove it; `prepare.clean: [control]` does.",
    ),
    "replacement_char": warning(
        "content",
        "U+FFFD inside a text: a character was lost when the text was decoded",
        "Read the original again with its right encoding.",
    ),
    "equal_after_normalisation": warning(
        "content",
        "chosen and rejected differ in case, white space or Unicode form alone",
        "Remove the pair, unless it is meant to teach the difference.",
    ),
    "prompt_marker": warning(
        "content",
        "a marker of a prompt format inside a text, such as `### Response:` or `\\n\\nHuman:`",
        "Split the text into its turns, or name the file's `shape`.",
    ),
    "special_token": warning(
        "content",
        "a chat model's special token written out inside a text, such as `<|im_end|>`",
        "Remove it: the chat template writes such tokens.",
    ),
    "html": warning(
        "content", "HTML tags or entities inside a text", "Convert the text; `prepare.clean: [html]` does."
    ),
    "email": warning("content", "an e-mail address", "Remove or mask it, unless it is public."),
    "phone": warning("content", "a phone number", "Remove or mask it, unless it is public."),
    "card_number": warning(
        "content", "a payment card's number (its check digit is right)", "Remove or mask it."
    ),
    "iban": warning("content", "a bank account's number (its check digits are right)", "Remove or mask it."),
    "ip_address": warning("content", "a public IP address", "Remove or mask it, unless it is meant."),
    "secret": warning(
        "content", "a key, token or private key of a known form", "Revoke it, and remove it from the data."
    ),
    "mixed_scripts": warning(
        "content",
        "a word with letters of two scripts, such as a Cyrillic `а` in a Latin word",
        "Replace the look-alike letters.",
    ),
    "sensitive_word": warning(
        "content", "a word of the list that `data.checks.sensitive_words` names", "Look at the row."
    ),
    "over_long": warning(
        "content",
        "a row with more than `data.checks.max_chars` characters",
        "Look at the row: it is often a whole document or a broken separator.",
    ),
    # rows beside each other
    "duplicate": warning(
        "across", "a row that is equal to an earlier one", "Remove it; `prepare.deduplicate: exact` does."
    ),
    "near_duplicate": warning(
        "across",
        "a row that is nearly equal to an earlier one",
        "Remove it; `prepare.deduplicate: near` does.",
    ),
    "contradiction": warning(
        "across",
        "of two answers to a prompt, each is preferred in some row",
        "Keep the majority's row, or drop both: they cancel each other.",
    ),
    "preference_cycle": warning(
        "across",
        "answers to a prompt that are preferred in a circle (A over B, B over C, C over A)",
        "Remove one of the rows.",
    ),
    "eval_leak": warning(
        "across",
        "a held-out row that is also trained on",
        "Remove it from one of the two splits.",
    ),
    "prompt_leak": warning(
        "across",
        "a held-out row whose prompt is also trained on",
        "Split by the prompt; `holdout.by` keeps groups together.",
    ),
    "stage_leak": warning(
        "across",
        "a held-out row of one stage whose prompt another stage trains on",
        "Hold out the same prompts in every stage, if held-out figures of later stages are to count.",
    ),
    "length_bias": warning(
        "across",
        "chosen answers are mostly the longer ones, so that the reward model can learn length",
        "Balance the pairs, or watch the reward report's accuracy by length.",
    ),
    "label_imbalance": warning(
        "across",
        "a source of rows whose labels are nearly all the same while others' are not",
        "Balance the sources, or the model learns the source.",
    ),
    "mixed_languages": warning(
        "across",
        "a row mostly in another script than nearly all others",
        "Remove it, unless several languages are meant; then set mixed_languages: off.",
    ),
    # with the recipe's tokenizer
    "equal_after_truncation": warning(
        "tokens",
        "a pair whose tokens are equal once cut to `max_length`",
        "Raise max_length, or remove the pair.",
    ),
    "over_length": warning(
        "tokens",
        "rows longer than the stage's `max_length` or `max_prompt_length`",
        "Raise the limit, or set over_length to drop or truncate.",
    ),
    "no_label": error(
        "tokens",
        "a demonstration that has no label left within `max_length`",
        "Raise max_length, shorten the prompt, or set over_length: drop.",
    ),
    "cannot_encode": error(
        "tokens",
        "a row that the chat template refuses, or that the tokenizer cannot write exactly",
        "Change the row, or take another template or tokenizer.",
    ),
    "template_no_stop": error(
        "tokens",
        "the chat template writes no token after an assistant's turn that generation could stop at",
        "Take a template that ends its turns, with `model.chat_template`.",
    ),
}
"""Code -> check."""
