"""The versions of what has a say in the numbers."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from luq import __version__

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "lm_eval",
    "datasets",
    "numpy",
    "scikit-learn",
    "safetensors",
    "pillow",
    "torchvision",  # where it is installed, images are resized another way
    "triton",  # where it is installed, linears are computed another way on CUDA
)


@cache
def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    installed = {"luq": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
