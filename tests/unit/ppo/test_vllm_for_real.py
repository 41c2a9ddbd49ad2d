"""The `vllm` engine over vLLM itself, on a CPU, in a process of its own; skipped where vLLM is not installed.

On a CPU vLLM packs linear weights when it starts, and TRL could not replace them: both packings are switched off here,
which leaves PyTorch's own product. And vLLM computes in float32, as `VLLMGeneration` cannot ask of it.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
CHECKS = (
    "adapters",
    "distinct samples",
    "greedy",
    "log-probabilities",
    "moved weights",
    "repeatable",
    "stop texts",
    "stop tokens",
    "two steps",
)


def test_vllm_itself_samples_what_hf_samples(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("real_vllm.py")), str(tmp_path)],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    shown = {
        line.partition(": ")[0].removeprefix("ok ") for line in done.stdout.splitlines() if line[:3] == "ok "
    }
    assert sorted(shown) == list(CHECKS)
