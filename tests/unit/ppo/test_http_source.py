"""HTTP services as sources, on a real server: batches, retries, time-outs, refusals, replies that hold no scores."""

import http.client
import threading

import pytest
from reward_service import reward_service
from sampled_answers import POLICY, answer

from rlhf.errors import TrainingError
from rlhf.ppo.sources.http import HTTPSource
from rlhf.recipe.rewards import RewardSource


def service(replies):
    """Each request takes the next reply (a status with a body, "drop", or a function of the request), the last over and over."""

    def reply(number, body):
        chosen = replies[min(number, len(replies) - 1)]
        return chosen(body) if callable(chosen) else chosen

    return reward_service(reply)


def lengths(body):
    return 200, {"scores": [len(response) for response in body["responses"]]}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def http_source(url, waits=None, **fields):
    source = RewardSource(name="judge", url=url, **fields)
    return HTTPSource(source, POLICY, sleep=(waits if waits is not None else []).append)


def test_a_service_gets_batches_and_its_scores_come_in_order():
    with service([lengths]) as (url, seen):
        given = [answer("x" * n, metadata={"n": n}) for n in range(1, 6)]
        assert http_source(url, batch_size=2).score(given) == [1, 2, 3, 4, 5]
        assert http_source(url).score([]) == []
    assert [len(body["prompts"]) for body in seen] == [2, 2, 1]
    assert seen[0] == {
        "prompts": ["the cat", "the cat"],
        "responses": ["x", "xx"],
        "metadata": [{"n": 1}, {"n": 2}],
    }


def test_a_stumbling_service_is_asked_again_after_twice_the_wait_each_time(capsys):
    waits = []
    with service([(503, "busy"), "drop", (429, "slowly"), lengths]) as (url, seen):
        assert http_source(url, waits, retries=3, backoff_seconds=0.5).score([answer("xyz")]) == [3]
    assert waits == [0.5, 1.0, 2.0]
    assert len(seen) == 4
    assert "try 1 of 4: HTTP 503" in capsys.readouterr().out


def test_a_service_that_stays_down_stops_the_stage_with_all_that_one_needs():
    waits = []
    with service([(503, b"out of memory")]) as (url, seen), pytest.raises(TrainingError) as caught:
        http_source(url, waits, retries=2, backoff_seconds=1).score([answer("x")])
    assert (len(seen), waits) == (3, [1.0, 2.0])
    for part in (url, "source judge", "3 times", "HTTP 503", "out of memory", "same command", "resumes"):
        assert part in str(caught.value)
    with pytest.raises(TrainingError, match=r"was asked once .* refused"):
        http_source(url, retries=0).score([answer("x")])


def test_a_slow_service_is_a_time_out_that_is_tried_again():
    released = threading.Event()

    def slow(body):
        released.wait(5)
        return lengths(body)

    with service([slow, lengths]) as (url, seen):
        waits = []
        assert http_source(url, waits, retries=1, timeout_seconds=0.2).score([answer("xy")]) == [2]
        released.set()
    assert (len(seen), len(waits)) == (2, 1)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refused_request_is_final(status):
    waits = []
    with service([(status, b"no field metadata")]) as (url, seen), pytest.raises(TrainingError) as caught:
        http_source(url, waits).score([answer("x")])
    assert (len(seen), waits) == (1, [])
    assert f"HTTP {status}" in str(caught.value)
    assert "no field metadata" in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", "replied with something other .*<html>"),
        ([1.0], "replied with something other"),
        ({"score": [1.0]}, "replied with something other"),
        ({"scores": 1.0}, "not a list"),
        ({"scores": [1.0, 2.0]}, "2 scores for 1"),
        ({"scores": ["1"]}, "score 0 is '1'"),
        (b'{"scores": [NaN]}', "score 0 is nan"),
    ],
)
def test_a_reply_that_holds_no_scores_is_named(reply, message):
    with service([(200, reply)]) as (url, _), pytest.raises(TrainingError, match=message):
        http_source(url).score([answer("x")])


def test_a_reply_cut_short_is_tried_again(monkeypatch):
    source, tries = http_source("http://127.0.0.1:9/", retries=1), []

    def post(body):
        tries.append(body)
        if len(tries) == 1:
            raise http.client.IncompleteRead(b"{")
        return b'{"scores": [4]}'

    monkeypatch.setattr(source, "_post", post)
    assert source.score([answer("x")]) == [4.0]
