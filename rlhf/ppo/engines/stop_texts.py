"""Stop texts: which responses end because their newest token completes one of some texts."""

from typing import cast

from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from rlhf.errors import UsageError


class StopTexts:
    """Looks for texts in tokens, across token boundaries; the newest token may reach past the text's end.

    Args:
        tokenizer: what the tokens decode with.
        texts: each ends a response.

    Raises:
        UsageError: no text, an empty one, or none that the vocabulary can write.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
        if not texts or "" in texts:
            raise UsageError(
                f"ppo.sampling.stop is {texts}: an empty stop text would end every response",
                "Give texts of one character or more, or leave sampling.stop out.",
            )
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
