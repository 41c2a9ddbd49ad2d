"""Versions and devices, for bug reports; torch is asked in a process of its own, so that this one stays light."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "rlhf-stages",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "deepspeed",
    "bitsandbytes",
    "pydantic",
)
_ASK_TORCH = """
import torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(", ".join(names) or "none")
print(torch.version.cuda or "none")
"""


def describe_environment() -> dict[str, str]:
    """Name -> value, in the order to print."""
    described = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "cpu": f"{os.cpu_count()} cores",
    }
    for package in PACKAGES:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            described[package] = "not installed"
    asked = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False)
    lines = (
        asked.stdout.strip().split("\n") if asked.returncode == 0 else ["torch cannot be imported", "unknown"]
    )
    return described | {"gpus": lines[0], "cuda": lines[-1]}
