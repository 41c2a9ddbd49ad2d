"""What a vLLM server must be, and what is said where it does not answer."""

import pytest
from test_vllm_engine import engine_of, fake, sampled  # noqa: F401  # `fake` stands in for the library
from tiny_ppo import tiny_lm

from rlhf.errors import TrainingError, UsageError


def test_a_server_that_leaves_the_temperature_out_of_its_log_probabilities_is_refused(fake):  # noqa: F811
    fake.logprobs_mode = "raw_logprobs"
    engine_of(tiny_lm())  # VLLMGeneration itself asks a colocated engine for them
    with pytest.raises(UsageError, match=r"gives raw_logprobs(.|\n)*--logprobs-mode processed_logprobs"):
        engine_of(tiny_lm(), mode="server", server_url="http://localhost:8000")


def test_a_server_that_would_cut_responses_is_refused(fake):  # noqa: F811
    fake.max_model_len = 39  # prompt and response have up to 40
    engine_of(tiny_lm())
    with pytest.raises(UsageError, match=r"takes 39 tokens(.|\n)*up to 40"):
        engine_of(tiny_lm(), mode="server", server_url="http://localhost:8000")


@pytest.mark.parametrize("died", [Exception("Request failed: 500"), ConnectionError("refused")])
def test_a_server_that_dies_is_named_with_the_way_on(died):
    policy = tiny_lm()
    engine = engine_of(policy, mode="server", server_url="http://localhost:8000")

    def generate(**_):
        raise died

    engine._vllm.generate = generate
    with pytest.raises(TrainingError, match=r"http://localhost:8000 does not answer: (.|\n)*rlhf run"):
        sampled(engine, policy)


def test_a_server_that_refuses_at_the_start_is_a_users_error(fake):  # noqa: F811
    def refuses(*_, **__):
        raise Exception("Request failed: 401")  # as TRL's client does

    fake.sync_weights = refuses
    with pytest.raises(UsageError, match=r"does not start: Request failed: 401(.|\n)*vllm serve"):
        engine_of(tiny_lm(), mode="server", server_url="http://localhost:8000")
