"""Which device a model is computed on."""

import os
import sys
from pathlib import Path

from luq.errors import ConfigError

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


def device_count() -> int:
    """CUDA devices that torch sees."""
    if not has_cuda():
        return 0
    import torch

    return torch.cuda.device_count()


def require(device: str) -> None:
    """Refuse a device that this machine does not have, before anything is computed on it.

    Raises:
        ConfigError: names the devices that are there.
    """
    name, _, index = resolve(device).partition(":")
    if name != "cuda":
        return
    count = device_count()
    if int(index or 0) >= count:
        device_names = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(
            f"model.device={device} is not on this machine (here: {device_names}), or torch does "
            "not see it: model.device=auto takes what is there"
        )
