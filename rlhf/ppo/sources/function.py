"""A Python function of the user's as a source of scores."""

import importlib
import traceback
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from rlhf.errors import TrainingError, UsageError
from rlhf.ppo.scoring import Answer
from rlhf.ppo.sources.checked import checked_scores
from rlhf.ppo.sources.texts import as_texts
from rlhf.recipe.functions import look_here_too

RewardFunction = Callable[..., object]


class FunctionSource:
    """Calls `function(prompts=…, responses=…, metadata=…)` with lists of the same length.

    Args:
        name: the source's name in the recipe.
        path: `package.module:function`; imported here, once.
        tokenizer: the policy's, which turns responses into text.

    Raises:
        UsageError: there is no such module, or nothing callable of that name in it.
        TrainingError: the module fails while it is imported.
    """

    def __init__(self, name: str, path: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.called = f"the reward function {path} (source {name})"
        self.function = _load(path, self.called)
        self.tokenizer = tokenizer

    def score(self, answers: list[Answer]) -> list[float]:
        """See `Source`; the function is not called where there is nothing to score."""
        if not answers:
            return []
        texts = as_texts(answers, self.tokenizer)
        try:
            result = self.function(prompts=texts.prompts, responses=texts.responses, metadata=texts.metadata)
        except Exception as error:  # the user's code may raise anything; the cause stays attached
            raise _failed(self.called, error) from error
        return checked_scores(result, len(texts), self.called)


def _load(path: str, called: str) -> RewardFunction:
    module_name, _, name = path.partition(":")
    look_here_too()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{called}: {error}", "Install it, or call rlhf from the folder where the module lies."
        ) from error
    except Exception as error:  # as in `score`: foreign code
        raise _failed(called, error) from error
    function = getattr(module, name, None)
    if not callable(function):
        what = "has nothing of that name" if function is None else f"has a {type(function).__name__} there"
        raise UsageError(f"{called}: {module_name} {what}", "Name a function of that module.")
    return function


def _failed(called: str, error: Exception) -> TrainingError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return TrainingError(
        f"{called} raised {type(error).__name__}{where}: {error}",
        "Mend it and run the same command again: it says how to go on with a changed function.",
    )
