"""Stop texts: which responses end because their newest token completes one of some texts."""

from typing import cast

import torch
from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from rlhf.errors import UsageError

_NO_TOKEN = 2**31
"""Outside of every vocabulary: part of no text."""


class StopTexts:
    """Looks for texts in tokens, across token boundaries; the newest token may reach past the text's end.

    Args:
        tokenizer: what the tokens decode with.
        texts: each ends a response.

    Attributes:
        texts: the same.

    Raises:
        UsageError: no text, an empty one, or none that the vocabulary can write.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
        if not texts or "" in texts:
            raise UsageError(
                f"ppo.sampling.stop is {texts}: an empty stop text would end every response",
                "Give texts of one character or more, or leave sampling.stop out.",
            )
        self.texts = tuple(texts)
        try:
            self._criteria = StopStringCriteria(tokenizer, texts)
        except ValueError as error:
            raise UsageError(
                f"ppo.sampling.stop is {texts}: no token of the policy's vocabulary can end any of these",
                "Give texts that the policy can write.",
            ) from error

    def completed(self, response_ids: Tensor) -> Tensor:
        """Which rows' last token completes a stop text.

        Args:
            response_ids: [B, n] int64, the response so far; never the prompt, whose text would count too.

        Returns:
            [B] bool.
        """
        return cast(Tensor, self._criteria(cast(LongTensor, response_ids), None))

    def first_end(self, response_ids: Tensor, lengths: Tensor, num_newest: int) -> tuple[Tensor, Tensor]:
        """Where responses end whose newest tokens were looked at by nobody yet.

        Args:
            response_ids: [B, n] int64, the responses so far; never the prompts.
            lengths: [B] int64, tokens of each.
            num_newest: how many of each response's last tokens may complete a text.

        Returns:
            [B] int64, tokens up to the first that completes a text, else all; [B] bool, whether one does.
        """
        width = self._criteria.maximum_token_len  # a token writes a character at least
        counts = lengths[:, None] - torch.arange(num_newest, device=lengths.device)
        columns = counts[:, :, None] - width + torch.arange(width, device=lengths.device)
        windows = response_ids.gather(1, columns.clamp(min=0).flatten(1)).view_as(columns)
        windows = windows.masked_fill(columns < 0, _NO_TOKEN).flatten(0, 1)
        completes = self.completed(windows).view_as(counts)
        ends = counts.where(completes, lengths[:, None]).amin(dim=1)
        return ends, completes.any(dim=1)
