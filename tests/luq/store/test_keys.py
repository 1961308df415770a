"""Keys: what enters them and what does not; keys that were given once stay."""

import json
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass, replace
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, ClassVar

import pytest

from luq.calibration.artefacts import Calibration, calibration
from luq.config import (
    CalibrationConfig,
    GptqTier,
    LayerTiers,
    ModelConfig,
    RefineConfig,
    TierConfig,
)
from luq.config.checks import VOLATILE
from luq.config.quantizer import PROJECTOR, VISION
from luq.models.checkpoint import Asking, Checkpoint
from luq.profiling.artefacts import EntropyProfile
from luq.quantization.artefacts import PackedLayer, PackedPart, Refinement
from luq.store import keys
from luq.store.artefact import Artefact
from tests.luq.store.notes import Note

GOLDEN = Path(__file__).parents[2] / "golden"
ARTEFACTS = (
    "luq.calibration.artefacts",
    "luq.profiling.artefacts",
    "luq.formats.artefacts",
    "luq.quantization.artefacts",
    "luq.evaluation.artefacts",
    "luq.pocket.artefacts",
)


@dataclass(frozen=True)
class Settings:
    name: str
    size: int = 3
    place: str = field(default="here", metadata=VOLATILE)


def test_keys_hold_what_differs_from_the_defaults() -> None:
    assert keys.digest(Settings("a")) == keys.digest(Settings("a", 3))
    assert keys.digest(Settings("a")) != keys.digest(Settings("a", 4))
    assert keys.digest(Settings("a")) != keys.digest(Settings("b"))
    assert keys.digest(Settings("a")) == keys.digest(Settings("a", place="there"))
    assert keys.digest({"a": 1, "b": 2}) == keys.digest({"b": 2, "a": 1})
    assert keys.digest(1, 2) != keys.digest(12)
    assert keys.digest("1") != keys.digest(1)
    assert len(keys.digest("x")) == 16


def test_a_dict_may_have_any_names() -> None:
    """No word is left out of a key because of what it is called."""
    for word in ("device", "group", "paths", "tracking", "batch_size"):
        assert keys.digest({word: 1}) != keys.digest({word: 2}) != keys.digest({})


def test_a_new_setting_with_a_default_leaves_old_keys_alone() -> None:
    old = make_dataclass("Same", [("name", str)], frozen=True)
    new = make_dataclass("Same", [("name", str), ("more", int, 5)], frozen=True)
    assert keys.digest(old("a")) == keys.digest(new("a"))
    assert keys.digest(new("a")) != keys.digest(new("a", 6))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_only_plain_data_has_a_key(value: object) -> None:
    with pytest.raises(TypeError):
        keys.digest(value)


def test_not_a_number_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        keys.digest(float("nan"))


def test_equality_hash_and_repr_go_by_the_key() -> None:
    assert Note("a") == Note("a", sleep=3.0)
    assert len({Note("a"), Note("a", sleep=3.0), Note("b")}) == 2
    assert Note("a") != Note("a", loud=True)
    assert repr(Note("a")) == f"Note({Note('a').key})"
    assert Note("a", (Note("b"),)) != Note("a", (Note("c"),)), "the key of what it needs enters"


def test_an_artefact_without_a_version_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="Nameless lacks version"):

        class Nameless(Artefact[str]):
            stage: ClassVar[str] = "x"


def test_needs_are_found_in_nested_values() -> None:
    source = checkpoint()
    recipe = calibration(source, CalibrationConfig("text", 0.0), Path("/nowhere"))
    first = PackedLayer(source.weights, 0, LayerTiers(GptqTier()), recipe)
    second = PackedLayer(source.weights, 1, LayerTiers(GptqTier()), recipe, (first,))
    assert second.needs() == [recipe, first]


def checkpoint(**changes: Any) -> Checkpoint:
    config = ModelConfig("m", "pocket:pocket_llava")
    values: dict[str, Any] = {"digest": "0" * 16, "dtype": "float32"}
    values |= {"config": config, "folder": Path("/a"), "layers": 2} | changes
    return Checkpoint(**values)


def test_a_layer_depends_on_all_that_can_change_it_and_on_nothing_else() -> None:
    source = checkpoint()
    settings = CalibrationConfig("multimodal", 0.5)
    recipe = calibration(source, settings, Path("/nowhere"))
    layer = PackedLayer(source.weights, 0, LayerTiers(GptqTier()), recipe)

    def with_settings(**changes: Any) -> PackedLayer:
        changed = replace(settings, **changes)
        return replace(layer, calibration=calibration(source, changed, Path("/nowhere")))

    def with_checkpoint(**changes: Any) -> PackedLayer:
        other = checkpoint(**changes)
        return PackedLayer(
            other.weights, 0, LayerTiers(GptqTier()), calibration(other, settings, Path("/nowhere"))
        )

    others = {
        "index": replace(layer, index=1),
        "tier": replace(layer, tiers=LayerTiers(GptqTier(bits=3))),
        "inputs": replace(layer, before=(layer,)),
        "refinement": replace(layer, refinement=Refinement(RefineConfig(steps=4), 1)),
        "steps": replace(layer, refinement=Refinement(RefineConfig(steps=5), 1)),
        "code of it": replace(layer, refinement=Refinement(RefineConfig(steps=4), 2)),
        "tokens": with_settings(tokens=512),
        "seed": with_settings(seed=1),
        "alpha": with_settings(alpha=0.25),
        "weights": with_checkpoint(digest="1" * 16),
        "dtype": with_checkpoint(dtype="float16"),
        "images": with_checkpoint(asking=Asking(backend="torchvision")),
        "pixels": with_checkpoint(asking=Asking(max_pixels=100)),
        "prompt": with_checkpoint(asking=Asking("Be brief.")),
    }
    assert len({layer, *others.values()}) == len(others) + 1
    assert with_settings(name="other") == layer
    assert with_checkpoint(folder=Path("/b")) == layer
    device = ModelConfig("m", "elsewhere", device="cpu", activations_gb=1.0)
    assert with_checkpoint(config=device) == layer


def test_a_layer_in_one_tier_has_one_key_however_it_was_asked_for() -> None:
    source = checkpoint().weights
    four, three = GptqTier(bits=4), GptqTier(bits=3)
    named = LayerTiers.of(four, {"mlp.up_proj": GptqTier(bits=4)})
    uniform = PackedLayer(source, 0, LayerTiers(four))
    assert PackedLayer(source, 0, named) == uniform
    mixed = LayerTiers.of(four, {"mlp.up_proj": three, "mlp.down_proj": three})
    turned = LayerTiers.of(four, {"mlp.down_proj": three, "mlp.up_proj": three})
    assert PackedLayer(source, 0, mixed) == PackedLayer(source, 0, turned)
    assert PackedLayer(source, 0, mixed) != uniform


def artefact_classes() -> list[type[Artefact[Any]]]:
    classes: list[type[Artefact[Any]]] = []
    for name in ARTEFACTS:
        for item in vars(import_module(name)).values():
            is_own = isinstance(item, type) and item.__module__ == name
            if is_own and issubclass(item, Artefact) and not isabstract(item):
                classes.append(item)
    return classes


def nested_types(hint: Any) -> list[type]:
    """The dataclasses that a field's type names, those of every tier for a tier."""
    if isinstance(hint, type) and issubclass(hint, TierConfig):
        return [TierConfig, *TierConfig.__subclasses__()]
    types = [hint] if isinstance(hint, type) and is_dataclass(hint) else []
    for argument in getattr(hint, "__args__", ()):
        types += nested_types(argument)
    return types


def defaults(kind: type, seen: set[type] | None = None) -> dict[str, Any]:
    """Class.field -> default of a class and of all dataclasses in its fields."""
    from typing import get_type_hints

    seen = seen if seen is not None else set()
    seen.add(kind)
    hints = get_type_hints(kind)
    table: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.metadata.get("volatile"):
            continue
        default = keys.default_of(entry)
        table[f"{kind.__name__}.{entry.name}"] = (
            "required" if default is MISSING else keys.plain(default)
        )
        for nested in nested_types(hints[entry.name]):
            is_artefact = issubclass(nested, Artefact)
            if nested not in seen and not is_artefact:
                table |= defaults(nested, seen)
    return table


def test_a_changed_default_needs_a_new_version() -> None:
    """A key leaves defaults out: a default that changed would be served the old bytes.

    If this fails: raise the version of the named class, and then write the table again with
    `python -m tests.luq.store.test_keys`.
    """
    golden = json.loads((GOLDEN / "defaults.json").read_text())
    for kind in artefact_classes():
        name = f"{kind.__name__} {kind.version}"
        assert name in golden, f"{name} is new: add it to the table"
        known = golden[name]
        for setting, default in defaults(kind).items():
            # a new setting with a default changes no key
            if setting in known:
                assert default == known[setting], f"{name}: {setting}"


def golden_artefacts() -> dict[str, Artefact[Any]]:
    source = checkpoint()
    recipe = Calibration(source, CalibrationConfig("multimodal", 0.5), None, None)
    first = PackedLayer(source.weights, 0, LayerTiers(GptqTier(bits=3)), recipe)
    tower = PackedPart(source.weights, VISION, GptqTier(bits=3), recipe)
    return {
        "calibration": recipe,
        "profile": EntropyProfile(recipe),
        "profile of 20 clusters": EntropyProfile(recipe, clusters=20),
        "first layer": first,
        "second layer": PackedLayer(
            source.weights, 1, LayerTiers(GptqTier(bits=3)), recipe, (first,)
        ),
        "tower": tower,
        "projector": PackedPart(source.weights, PROJECTOR, GptqTier(bits=3), recipe, (tower,)),
    }


def test_keys_that_were_given_once_stay() -> None:
    """A finished sweep must be found again by the next version."""
    golden = json.loads((GOLDEN / "keys.json").read_text())
    assert {name: artefact.key for name, artefact in golden_artefacts().items()} == golden


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    tables = {f"{kind.__name__} {kind.version}": defaults(kind) for kind in artefact_classes()}
    text = json.dumps(tables, indent=1, sort_keys=True) + "\n"
    (GOLDEN / "defaults.json").write_text(text)
    table = {name: artefact.key for name, artefact in golden_artefacts().items()}
    (GOLDEN / "keys.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
