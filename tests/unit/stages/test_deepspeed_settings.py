"""What the stages set in DeepSpeed's configuration."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from rlhf.stages.sharded import release_at_once


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"stage3_max_reuse_distance": 0}),
        ({"stage3_max_reuse_distance": "auto"}, {"stage3_max_reuse_distance": 0}),
        ({"stage3_max_reuse_distance": 7}, {"stage3_max_reuse_distance": 7}),
        ({"max_reuse_distance": 7}, {"max_reuse_distance": 7}),
    ],
)
def test_weights_are_freed_at_once_unless_a_configuration_says_otherwise(given, wanted):
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 3} | given})
    state = SimpleNamespace(deepspeed_plugin=plugin)
    release_at_once(SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state))
    assert plugin.deepspeed_config["zero_optimization"] == {"stage": 3} | wanted


def test_without_deepspeed_there_is_nothing_to_set():
    release_at_once(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU, state=SimpleNamespace()))
