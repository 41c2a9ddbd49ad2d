"""An HTTP service as a source of scores: JSON by POST, in batches, with patience for a service that stumbles."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from rlhf.errors import TrainingError
from rlhf.ppo.scoring import Answer
from rlhf.ppo.sources.checked import checked_scores
from rlhf.ppo.sources.texts import as_texts
from rlhf.recipe.rewards import RewardSource

TOO_MANY_REQUESTS = 429
SHOWN_CHARACTERS = 200
AGAIN = (
    "Start the service again and run the same command: the stage resumes from its newest checkpoint. "
    "timeout_seconds, retries and backoff_seconds of the source say how long it waits."
)


class HTTPSource:
    """Posts `{"prompts", "responses", "metadata"}` and reads `{"scores"}`.

    Args:
        source: the recipe's source, with its url, batch size, time-out and retries.
        tokenizer: the policy's, which turns responses into text.
        sleep: waits between two tries, seconds.
    """

    def __init__(
        self,
        source: RewardSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        assert source.url is not None
        self.url = source.url
        self.source = source
        self.called = f"the reward service {source.url} (source {source.name})"
        self.tokenizer = tokenizer
        self.sleep = sleep

    def score(self, answers: list[Answer]) -> list[float]:
        """See `Source`.

        Raises:
            TrainingError: also where the service stays down after all retries, or refuses a request (4xx).
        """
        size = self.source.batch_size
        return [
            score
            for start in range(0, len(answers), size)
            for score in self._score_batch(answers[start : start + size])
        ]

    def _score_batch(self, answers: list[Answer]) -> list[float]:
        texts = as_texts(answers, self.tokenizer)
        body = {"prompts": texts.prompts, "responses": texts.responses, "metadata": texts.metadata}
        reply = self._parsed(self._ask(json.dumps(body).encode()))
        return checked_scores(reply, len(answers), self.called)

    def _ask(self, body: bytes) -> bytes:
        """The reply's bytes; tried again after twice the wait each time."""
        tries = self.source.retries + 1
        wait, reason = self.source.backoff_seconds, ""
        for attempt in range(1, tries + 1):
            try:
                return self._post(body)
            except urllib.error.HTTPError as error:
                reason = _status(error)
                if error.code < 500 and error.code != TOO_MANY_REQUESTS:
                    raise TrainingError(
                        f"{self.called} refused a request: {reason}",
                        "Check the url and what the service expects: docs/rewards.md has the protocol.",
                    ) from error
            # A connection dropped within a reply is an HTTPException; time-outs are OSErrors, and so is URLError.
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            if attempt < tries:
                print(f"{self.called}: try {attempt} of {tries}: {reason}; waits {wait:g} s", flush=True)
                self.sleep(wait)
                wait *= 2
        times = "once" if tries == 1 else f"{tries} times"
        raise TrainingError(f"{self.called} was asked {times} and did not answer; at last: {reason}", AGAIN)

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(
            self.url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=self.source.timeout_seconds) as reply:
            return cast(bytes, reply.read())

    def _parsed(self, reply: bytes) -> Any:
        try:
            content = json.loads(reply)
        except ValueError:  # UnicodeDecodeError is one too
            content = None
        if not isinstance(content, dict) or "scores" not in content:
            shown = reply[:SHOWN_CHARACTERS].decode(errors="replace")
            raise TrainingError(
                f'{self.called} replied with something other than {{"scores": […]}}: {shown!r}',
                "docs/rewards.md has the protocol.",
            )
        return content["scores"]


def _status(error: urllib.error.HTTPError) -> str:
    """Status and the beginning of what the service says about it."""
    with error:
        try:
            said = error.read(SHOWN_CHARACTERS).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):  # the connection went while it was explaining
            said = ""
    return f"HTTP {error.code} {error.reason}" + (f": {said}" if said else "")
