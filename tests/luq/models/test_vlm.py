import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from luq.config import ModelConfig
from luq.errors import ConfigError, ModelError
from luq.models.checkpoint import (
    checkpoint,
    fingerprint,
    linear_shapes,
    resolve_path,
    stored_dtype,
)
from luq.models.families import LINEARS
from luq.models.processors import load_processor
from luq.models.vlm import VLM, find_layers, load_vlm
from luq.pocket.shipped import WEIGHTS as POCKET


def config(path: str) -> ModelConfig:
    return ModelConfig(name="x", path=path, device="cpu")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_pocket_model_is_a_checkpoint_like_any_other() -> None:
    """The transformers classes alone load it, and it is as small as the issue wants."""
    folder = POCKET / "pocket_llava"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    text = model.config.text_config
    assert text.num_hidden_layers >= 8
    assert text.hidden_size % 128 == 0
    assert text.intermediate_size % 128 == 0
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    assert (
        processor.apply_chat_template(message, add_generation_prompt=True)
        == "USER: <image>\nHi ASSISTANT:"
    )
    sizes = {folder.name: size_of(folder) for folder in POCKET.iterdir() if folder.is_dir()}
    assert sizes.pop("smol_llava") <= 20e6  # the trained part of a graft
    assert sum(sizes.values()) <= 40e6


def test_layers_linears_and_image_tokens(vlm: VLM) -> None:
    assert all(set(vlm.original(i)) == set(LINEARS) for i in range(len(vlm.layers)))
    token = vlm.model.config.image_token_index
    assert vlm.image_mask(torch.tensor([[1, token, 5]])).tolist() == [[False, True, False]]


@pytest.mark.parametrize("said", ["auto", "int8", ["float32"], None, "torch.float16"])
def test_a_type_that_is_none_is_read_from_the_weights(tmp_path: Path, said: object) -> None:
    folder = shutil.copytree(POCKET / "pocket_llava", tmp_path / "m")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"dtype": said}))
    assert stored_dtype(folder) == "float16"


def test_a_tensor_that_is_no_matrix_has_no_columns_to_check(tmp_path: Path) -> None:
    name = "language_model.model.layers.0.mlp.{}_proj.weight"
    tensors = {name.format("up"): torch.zeros(4), name.format("down"): torch.zeros(4, 8)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert linear_shapes(tmp_path) == {(0, "mlp.down_proj"): (4, 8)}


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer_config.json", "processor_config.json"]
)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(POCKET / "pocket_llava", tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=r"is missing"):
        load_vlm(config(str(folder)))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(POCKET / "pocket_llava", tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'
    )
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        load_vlm(config(str(folder)))


def test_a_picture_is_padded_to_a_square_or_cropped() -> None:
    """As the original LLaVA: nothing at the sides is lost, and what is added has the mean colour."""
    wide = Image.new("RGB", (144, 72), "white")
    wide.paste("black", (0, 0, 36, 72))  # a quarter at the left, which a crop of the middle loses
    folder, found = POCKET / "pocket_llava", {}
    for pad in (None, False, True):
        processor = load_processor(folder, "llava", ModelConfig("x", str(folder), do_pad=pad))
        found[pad] = processor.image_processor(images=[wide], return_tensors="pt")["pixel_values"][
            0
        ]
        assert found[pad].shape == (3, 72, 72)
    assert torch.equal(found[None], found[False])
    assert float(found[None].min()) > 0.9, "white alone"
    padded = found[True][0]
    assert bool((padded[:10].abs() < 0.02).all()), "the mean colour above"
    assert bool((padded[30:40, :10] < -0.9).all()), "the black quarter"
    assert bool((padded[30:40, 30:] > 0.9).all())


def test_settings_that_a_family_does_not_know() -> None:
    for name, given in (("pocket_qwen", {"do_pad": True}), ("pocket_llava", {"max_pixels": 5000})):
        with pytest.raises(
            ConfigError, match=f"model.{'do_pad' if 'do_pad' in given else 'min_pixels'}.* leave"
        ):
            load_vlm(ModelConfig(name, f"pocket:{name}", device="cpu", **given))
    with pytest.raises(ConfigError, match=r"model\.max_pixels"):
        ModelConfig("x", "y", max_pixels=0)


def test_paths_that_lead_nowhere() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_path(config("/nowhere/at/all"))
    with pytest.raises(ConfigError, match="did you mean pocket_llava"):
        resolve_path(config("pocket:pocket_lava"))


def test_a_model_without_findable_layers() -> None:
    class Strange(nn.Module):
        config = type("C", (), {"model_type": "llavaa"})

    with pytest.raises(ModelError, match="no decoder layers are found in this llavaa model"):
        find_layers(Strange())

    class WithLayers(Strange):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layers = nn.ModuleList([layer])

        def get_decoder(self) -> nn.Module:
            return self

    with pytest.raises(ModelError, match="decoder layer 0 has no linear"):
        find_layers(WithLayers(nn.LayerNorm(2)))
    experts = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2)])})
    with pytest.raises(ModelError, match="mixture of experts"):
        find_layers(WithLayers(experts))
    assert len(find_layers(WithLayers(nn.Sequential(nn.Linear(2, 2))))) == 1


def test_a_checkpoint_of_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    cached = shutil.copytree(
        POCKET / "pocket_llava", tmp_path / "models--a--b" / "snapshots" / "0123abc"
    )
    known = checkpoint(config(str(cached)))
    assert (known.digest, known.layers, known.commit) == (fingerprint(cached), 10, "0123abc")
    assert checkpoint(config("pocket:pocket_llava")).commit is None


def test_fingerprint_sees_a_changed_weight(tmp_path: Path) -> None:
    folder = shutil.copytree(POCKET / "pocket_llava", tmp_path / "m")
    before = fingerprint(folder)
    assert before == fingerprint(POCKET / "pocket_llava")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert fingerprint(folder) != before
