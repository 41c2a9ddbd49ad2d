"""Beside a GPU a process takes few of the CPU's threads, but where the CPU computes or somebody has said how many."""

import os

import pytest
import torch

from rlhf.recipe.launch import LaunchSection
from rlhf.stages.sharded import THREADS_BESIDE_A_GPU, prepare_process

LAUNCHES = {
    "one process": ({}, None, THREADS_BESIDE_A_GPU),
    "two, as the pipeline shares cores": ({"num_processes": 2}, "its own", THREADS_BESIDE_A_GPU),
    "said by the user": ({}, "9", 16),
    "offload": ({"strategy": "zero2", "cpu_offload": True}, None, 16),
    "a configuration that may offload": ({"accelerate_config": "zero2.yaml"}, None, 16),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_threads(name, monkeypatch):
    settings, given, expected = LAUNCHES[name]
    launch = LaunchSection(**settings)
    set_to = [16]
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", str(launch.cores_of_each) if given == "its own" else given)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: set_to[-1])
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    prepare_process(launch)
    assert set_to[-1] == expected


def test_on_a_cpu_all_are_left(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare_process(LaunchSection())
    assert not set_to
