"""A tier, its quantizer and its format from Python files outside of the project."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luq.config import OwnTier, QuantizerConfig
from luq.config.building import build, plain
from luq.errors import ConfigError, LuqError, StoreError
from luq.formats import known
from luq.formats.known import FORMATS, restore
from luq.quantization.methods import make_quantizer
from luq.store.keys import canonical
from pipelines import runs_folder
from tests.pipelines.command import luq

SMALL = [
    "evaluation.samples=4", "evaluation.fidelity=0", "evaluation.text_tokens=0", "tracking=none",
    "evaluation.benchmarks=[gqa]", "allocation=uniform", "quantizer.high=mine",
]  # fmt: skip
TIER = '''
"""Weights as signs with a mean size per row, in a format of their own."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from luq.config import TierConfig
from luq.config.checks import require
from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.known import register


@register
class Signs(PackedWeight):
    format = "NAME_signs"
    classes: ClassVar[dict[str, str]] = {"signs": "codes", "sizes": "scales"}

    def expected_buffers(self):
        rows, columns = self.shape
        return {
            "signs": BufferSpec(torch.int8, (rows, columns)),
            "sizes": BufferSpec(torch.float16, (rows, 1)),
        }

    def dequantize(self, dtype=torch.float32):
        return (self.buffers["signs"].float() * self.buffers["sizes"].float()).to(dtype)

    @property
    def nominal_bits(self):
        return 1.0


@dataclass(frozen=True)
class SignTier(TierConfig):
    """Signs times a factor of the mean size."""

    data_free: ClassVar[bool] = True
    factor: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        require(self.factor > 0, "tier.factor", self.factor, "above 0")

    def make_quantizer(self):
        return SignQuantizer(self)


class SignQuantizer:
    def __init__(self, tier):
        self.tier = tier

    def quantize(self, weight, hessian):
        sizes = (self.tier.factor * weight.abs().mean(1, keepdim=True)).half()
        buffers = {"signs": weight.sign().to(torch.int8), "sizes": sizes}
        return Signs(buffers, tuple(weight.shape))
'''

LOAD = """
import sys
from importlib import import_module

import luq
from transformers import AutoModelForImageTextToText as Auto

folder, own, module = sys.argv[1:]
try:
    Auto.from_pretrained(folder)
except Exception as error:
    print("refused:", error)
sys.path.append(own)
import_module(module)
print("loaded:", type(Auto.from_pretrained(folder)).__name__)
"""


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the user's with a module of a name that no other test imports."""
    folder = tmp_path / "own"
    folder.mkdir()
    path, formats = list(sys.path), dict(FORMATS)
    name = module_name(folder)
    (folder / f"{name}.py").write_text(TIER.replace("NAME", name), encoding="utf-8")
    yield folder
    sys.path[:] = path
    sys.modules.pop(name, None)
    FORMATS.clear()
    FORMATS.update(formats)


def module_name(folder: Path) -> str:
    return f"tiers_{abs(hash(str(folder)))}"


def tier_of(folder: Path, source: str | None = None, **parameters: object) -> OwnTier:
    """The tier of the folder's module, imported anew."""
    name = module_name(folder)
    file = folder / f"{name}.py"
    if source is not None:
        file.write_text(source.replace("NAME", name), encoding="utf-8")
    sys.modules.pop(name, None)
    FORMATS.pop(f"{name}_signs", None)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    tiers = {"mine": {"class": f"{name}:SignTier", **parameters}}
    config = build(QuantizerConfig, {"low": "mine", "high": "mine", "tiers": tiers}, "quantizer")
    tier = config.tiers["mine"]
    assert isinstance(tier, OwnTier)
    return tier


def test_a_run_quantizes_scores_and_exports_an_own_tier(own: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    tier = f'quantizer.tiers.mine={{class:"{module_name(own)}:SignTier",factor:1.5}}'
    words = ["--config-dir", str(own), *SMALL, tier, "checkpoint=true", f"paths.outputs={outputs}"]
    done = luq("run", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    again = luq("run", *words)
    assert " 0 made" in again.stdout.replace("\n", " "), again.stdout + again.stderr
    sys.modules.pop(module_name(own))
    (record,) = runs_folder.iterate(outputs)
    assert module_name(own) not in sys.modules, "a record that is read imports nothing"
    assert set(record.tiers) == {"mine"}
    kept = record.config.quantizer.tiers["mine"]
    assert isinstance(kept, OwnTier)
    assert (kept.path, kept.parameters) == (f"{module_name(own)}:SignTier", {"factor": 1.5})
    with pytest.raises(ConfigError, match="imports no code"):
        _ = kept.least_bits
    folder = outputs / "checkpoints" / record.key
    _check_export(own, folder)


def _check_export(own: Path, folder: Path) -> None:
    """The folder loads where the format's module is imported, and says so where it is not."""
    words = [sys.executable, "-c", LOAD, str(folder), str(own), module_name(own)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "refused: " in done.stdout, done.stderr
    assert "import the module that registers it" in done.stdout
    assert "loaded: Llava" in done.stdout, done.stderr


def test_keys_hold_the_source_or_the_version_that_the_class_declares(own: Path) -> None:
    first = canonical(tier_of(own))
    assert canonical(tier_of(own, factor=2.0)) != first
    assert canonical(tier_of(own, factor=1.0)) == first
    assert canonical(tier_of(own, TIER + "# changed\n")) != first
    with_version = TIER.replace("factor: float", "version: ClassVar[int] = 3\n    factor: float")
    declared = tier_of(own, with_version)
    assert declared.source == "version 3"
    assert canonical(tier_of(own, with_version + "# changed\n")) == canonical(declared)


def test_an_own_tier_survives_json(own: Path) -> None:
    tier = tier_of(own, factor=2.0)
    content = json.loads(json.dumps(plain(tier)))
    tiers = {"low": "mine", "high": "mine", "tiers": {"mine": content}}
    read = build(QuantizerConfig, tiers, strict=False).tiers["mine"]
    assert read == replace(tier, tier=None)
    assert canonical(read) == canonical(tier)


CHANGES = {
    "no tier": ("class SignTier(TierConfig)", "class SignTier", "must be a frozen dataclass"),
    "no quantizer": ("def make_quantizer", "def make", "with a method make_quantizer"),
    "faulty module": ("import torch\n", "import torch, nowhere_at_all\n", "cannot be imported"),
}


@pytest.mark.parametrize(("old", "new", "said"), CHANGES.values(), ids=CHANGES)
def test_a_class_that_is_no_tier_is_refused(own: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tier_of(own, TIER.replace(old, new, 1))


def test_parameters_are_checked_and_named_by_their_place(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"quantizer\.tiers\.mine\.factor=-1\.0"):
        tier_of(own, factor=-1.0)
    with pytest.raises(ConfigError, match=r"quantizer\.tiers\.mine 'factr': did you mean factor"):
        tier_of(own, factr=1.0)
    tiers = {"low": "m", "high": "m", "tiers": {"m": {"class": "tiers.SignTier"}}}
    with pytest.raises(ConfigError, match='must be "MODULE:CLASS"'):
        build(QuantizerConfig, tiers, "quantizer")


WRONG = {
    "another shape": (
        "        sizes",
        "        weight = weight[:2]\n        sizes",
        r"for \[4, 8\]",
    ),
    "no packed weight": ("return Signs(buffers, tuple(weight.shape))", "return 1", "gives int"),
    "an unknown format": ("@register\n", "", "register it"),
    "no quantizer": ("return SignQuantizer(self)", "return self", "has no quantize"),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG)
def test_what_an_own_quantizer_gives_is_checked(own: Path, old: str, new: str, said: str) -> None:
    tier = tier_of(own, TIER.replace(old, new))
    with pytest.raises(LuqError, match=said):
        make_quantizer(tier).quantize(torch.ones(4, 8), None)


def test_a_format_of_an_installed_package_is_found_by_its_entry_point(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = make_quantizer(tier_of(own)).quantize(torch.ones(4, 8), None)
    name = packed.format
    FORMATS.pop(name)
    with pytest.raises(StoreError, match="import the module that registers it"):
        restore(name, packed.buffers, packed.shape)
    installed = own / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    entry = f"[{known.ENTRY_POINTS}]\n{name} = {module_name(own)}:Signs\n"
    (installed / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(own))
    again = restore(name, packed.buffers, packed.shape)
    assert torch.equal(again.dequantize(), packed.dequantize())


def test_no_format_takes_the_name_of_another(own: Path) -> None:
    with pytest.raises(ConfigError, match="has the name 'integer' of another format"):
        tier_of(own, TIER.replace("NAME_signs", "integer"))
