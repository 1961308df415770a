"""What llama.cpp computes with mmproj.gguf, step by step, is what transformers computes."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

from luq.export.folder import PackedModel
from luq.export.gguf.folder import MMPROJ, export
from tests.luq.export.gguf.test_folder import keys_of, pack, source_of, tensors_of


class Mmproj:
    """The tensors and keys of a file, and what all its graphs have."""

    def __init__(self, file: Path) -> None:
        self.tensors = {name: numbers for name, (_kind, numbers) in tensors_of(file).items()}
        self.keys: dict[str, Any] = keys_of(file)

    def linear(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def heads(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        """What a linear gives, by head."""
        count = self.keys["clip.vision.attention.head_count"]
        return self.linear(name, inputs).unflatten(-1, (count, -1)).transpose(0, 1)

    @property
    def epsilon(self) -> float:
        return float(self.keys["clip.vision.attention.layer_norm_epsilon"])


class Llava(Mmproj):
    """llama.cpp's graph for LLaVA, with the class token before the patches as CLIP has it."""

    def norm(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(inputs, weight.shape, weight, bias, self.epsilon)

    def attention(self, block: str, inputs: torch.Tensor) -> torch.Tensor:
        query, key, value = (self.heads(f"{block}.attn_{letter}", inputs) for letter in "qkv")
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.linear(f"{block}.attn_out", mixed.transpose(0, 1).flatten(1))

    def mlp(self, block: str, inputs: torch.Tensor) -> torch.Tensor:
        inner = self.linear(f"{block}.ffn_up", inputs)
        inner = F.gelu(inner) if self.keys["clip.use_gelu"] else inner * (1.702 * inner).sigmoid()
        return self.linear(f"{block}.ffn_down", inner)

    def embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        size = self.keys["clip.vision.patch_size"]
        patches = F.conv2d(pixels, self.tensors["v.patch_embd.weight"], stride=size)[0]
        tokens = torch.cat([self.tensors["v.class_embd"][None], patches.flatten(1).T])
        tokens = self.norm("v.pre_ln", tokens + self.tensors["v.position_embd.weight"])
        (layers,) = self.keys["clip.vision.feature_layer"]
        for index in range(layers):
            block = f"v.blk.{index}"
            tokens = tokens + self.attention(block, self.norm(f"{block}.ln1", tokens))
            tokens = tokens + self.mlp(block, self.norm(f"{block}.ln2", tokens))
        return self.linear("mm.2", F.gelu(self.linear("mm.0", tokens[1:])))


class Qwen(Mmproj):
    """llama.cpp's graph for Qwen2.5-VL, for an image that is one window."""

    def norm(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.tensors[f"{name}.weight"]
        return F.rms_norm(inputs, weight.shape, weight, self.epsilon)

    def attention(self, block: str, inputs: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        def turned(name: str) -> torch.Tensor:
            states = self.heads(name, inputs)
            low, high = states.chunk(2, -1)
            return states * angles.cos() + torch.cat([-high, low], -1) * angles.sin()

        query, key = turned(f"{block}.attn_q"), turned(f"{block}.attn_k")
        value = self.heads(f"{block}.attn_v", inputs)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.linear(f"{block}.attn_out", mixed.transpose(0, 1).flatten(1))

    def embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        size = self.keys["clip.vision.patch_size"]
        frames = [self.tensors["v.patch_embd.weight"], self.tensors["v.patch_embd.weight.1"]]
        grid = sum(F.conv2d(pixels, kernel, stride=size)[0] for kernel in frames)
        assert isinstance(grid, torch.Tensor)
        tokens = merged_order(grid)
        width = tokens.shape[-1] // self.keys["clip.vision.attention.head_count"]
        frequencies = 10000.0 ** (-torch.arange(0, width // 2, 2) / (width // 2))
        rows, columns = merged_order(torch.stack(torch.meshgrid(
            torch.arange(grid.shape[1]), torch.arange(grid.shape[2]), indexing="ij",
        ))).T  # fmt: skip
        angles = torch.cat([rows[:, None] * frequencies, columns[:, None] * frequencies], -1)
        angles = torch.cat([angles, angles], -1)
        for index in range(self.keys["clip.vision.block_count"]):
            block = f"v.blk.{index}"
            tokens = tokens + self.attention(block, self.norm(f"{block}.ln1", tokens), angles)
            normed = self.norm(f"{block}.ln2", tokens)
            gate = F.silu(self.linear(f"{block}.ffn_gate", normed))
            inner = gate * self.linear(f"{block}.ffn_up", normed)
            tokens = tokens + self.linear(f"{block}.ffn_down", inner)
        merged = self.norm("v.post_ln", tokens).reshape(len(tokens) // 4, -1)
        return self.linear("mm.2", F.gelu(self.linear("mm.0", merged)))


def merged_order(grid: torch.Tensor) -> torch.Tensor:
    """Patches [n, width] of a grid [width, rows, columns]: those of a square of four together."""
    width, rows, columns = grid.shape
    squares = grid.view(width, rows // 2, 2, columns // 2, 2)
    return squares.permute(1, 3, 2, 4, 0).reshape(rows * columns, width)


@torch.no_grad()
def test_image_embeddings_of_qwen(tmp_path: Path) -> None:
    source = source_of("qwen2_5_vl", tmp_path)
    packed = pack(source, tmp_path, ("q8_0",))
    model = PackedModel(source, packed.folders, packed.allocation)
    folder = export(model, tmp_path / "exported")
    qwen = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    size = qwen.config.vision_config.patch_size
    pixels = torch.randn(1, 3, 4 * size, 4 * size, generator=torch.Generator().manual_seed(0))
    # a picture is two equal frames; a patch is a row of channels, frames, rows and columns
    patches = pixels[0].view(3, 4, size, 4, size).permute(0, 2, 4, 1, 3).reshape(-1, 4, 4)
    rows = merged_order(patches).view(16, 3, 1, size, size).expand(16, 3, 2, size, size)
    sizes = torch.tensor([[1, 4, 4]])
    expected = qwen.get_image_features(rows.reshape(16, -1), sizes).pooler_output[0]
    found = Qwen(folder / MMPROJ).embeddings(pixels)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_image_embeddings_of_llava(tmp_path: Path) -> None:
    source = source_of("llava", tmp_path)
    packed = pack(source, tmp_path, ("q8_0",))
    model = PackedModel(source, packed.folders, packed.allocation)  # its tower is as it was
    folder = export(model, tmp_path / "exported")
    llava = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    side = llava.config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = llava.get_image_features(pixel_values=pixels).pooler_output[0]
    found = Llava(folder / MMPROJ).embeddings(pixels)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-5)
