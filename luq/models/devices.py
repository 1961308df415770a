"""Which device a model is computed on."""

import os
import sys
from pathlib import Path

# Where an NVIDIA driver shows itself: on Linux, and in the Windows Subsystem for Linux.
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


def has_cuda() -> bool:
    """Whether torch sees a CUDA device; torch is only imported where there is a driver."""
    on_linux = sys.platform == "linux"
    if "torch" not in sys.modules and on_linux and not any(d.exists() for d in DRIVERS):
        return False
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    import torch

    return torch.cuda.is_available()


def resolve(device: str) -> str:
    """`auto` as `cuda` or `cpu`; any other name as it is."""
    if device != "auto":
        return device
    return "cuda" if has_cuda() else "cpu"
