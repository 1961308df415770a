"""Vision tower and projector in llama.cpp's words: the file that it calls mmproj."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from luq.errors import ConfigError
from luq.export.gguf.language import SUFFIXES
from luq.export.gguf.package import gguf_package
from luq.models.families import LLAVA
from luq.models.weight_files import plain_name

FIXED_WINDOW = 112  # pixels; llama.cpp has no key for Qwen2.5-VL's
FRAMES = 2  # of a Qwen patch; llama.cpp has a convolution for each
MERGED = 2  # patches that Qwen's projector makes one token of, along each side
ANY_SIZE = 560  # pixels that llama.cpp's converter names for towers that take images of any size
# The projector's linears, which the package numbers as Pixtral has them: llama.cpp's LLaVA counts
# the activation between the two, too.
LLAVA_PROJECTOR = {"linear_1": 0, "linear_2": 2}
UNREAD = "vision_tower.post_layernorm."  # LLaVA takes what a layer gives, before this norm
QKV = ("q", "k", "v")
PROJECTOR_NUMBERS = 3  # of the projector's modules, which the package counts as layers


class Place(NamedTuple):
    """Where a part of a checkpoint's tensor stands: the rows, or the frame, with this number."""

    name: str
    rows: tuple[int, int] | None = None  # the first, and the one after the last
    frame: int | None = None


@dataclass(frozen=True)
class Vision:
    """A vision tower with its projector as llama.cpp knows it.

    Args:
        family: `model_type` of the checkpoint.
        config: of transformers, with its defaults.
        images: settings of the image processor.
    """

    family: str
    config: Any
    images: dict[str, Any]

    @property
    def blocks(self) -> int:
        """Layers of the tower."""
        tower = self.config.vision_config
        depth: int = tower.num_hidden_layers if self.family == LLAVA else tower.depth
        return depth

    def places(self, tensor: str, rows: int) -> list[Place]:
        """Where a tensor of the checkpoint stands; nowhere if llama.cpp has no name for it.

        Args:
            tensor: its name.
            rows: how many it has.
        """
        plain = plain_name(tensor)
        if self.family == LLAVA:
            return [Place(name) for name in self._llava_names(plain)]
        if ".qkv." in plain:
            third = rows // len(QKV)
            split: list[Place] = []
            for place, letter in enumerate(QKV):
                name = self._mapped(plain.replace(".qkv.", f".{letter}."))
                if name is not None:
                    split.append(Place(name, (place * third, (place + 1) * third)))
            return split
        name = self._mapped(plain)
        if name is None:
            return []
        if plain == "visual.patch_embed.proj.weight":
            return [Place(name, frame=0), Place(f"{name}.1", frame=1)]
        return [Place(name)]

    @property
    def differences(self) -> list[str]:
        """What llama.cpp is known to compute otherwise, and has no key for."""
        window = getattr(self.config.vision_config, "window_size", FIXED_WINDOW)
        if self.family == LLAVA:
            return [
                "llama.cpp puts CLIP's class token behind the patches while its issue 25814 is "
                "open: its image embeddings are others than those the run saw"
            ]
        if window != FIXED_WINDOW:
            return [
                f"the tower's windows have {window} pixels, and llama.cpp's have {FIXED_WINDOW}: "
                "its image embeddings are others than those the run saw"
            ]
        return []

    def is_unread(self, tensor: str) -> bool:
        """Whether the model does not use a tensor of its checkpoint."""
        return self.family == LLAVA and plain_name(tensor).startswith(UNREAD)

    def _llava_names(self, plain: str) -> Iterator[str]:
        part, _, inner_name = plain.partition(".")
        linear, _, suffix = inner_name.partition(".")
        if part == "multi_modal_projector":
            if linear in LLAVA_PROJECTOR:
                gguf = gguf_package()
                name = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.V_MMPROJ]
                yield f"{name.format(bid=LLAVA_PROJECTOR[linear])}.{suffix}"
            return
        name = self._mapped(f"{part}.vision_model.{inner_name}")
        if name is not None:
            yield name

    def _mapped(self, name: str) -> str | None:
        mapped: str | None = self._names.get_name(name, try_suffixes=SUFFIXES)
        return mapped

    @cached_property
    def _names(self) -> Any:
        gguf = gguf_package()
        numbers = max(self.blocks, PROJECTOR_NUMBERS)
        return gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, numbers)

    def add_keys(self, writer: Any) -> None:
        """Give a `gguf.GGUFWriter` the numbers of tower and projector."""
        tower = self.config.vision_config
        writer.add_clip_has_vision_encoder(True)
        writer.add_vision_projection_dim(self.config.get_text_config().hidden_size)
        writer.add_vision_patch_size(tower.patch_size)
        writer.add_vision_embedding_length(tower.hidden_size)
        writer.add_vision_feed_forward_length(tower.intermediate_size)
        writer.add_vision_block_count(self.blocks)
        writer.add_vision_image_mean([float(value) for value in self.images["image_mean"]])
        writer.add_vision_image_std([float(value) for value in self.images["image_std"]])
        if self.family == LLAVA:
            self._add_llava_keys(writer)
        else:
            self._add_qwen_keys(writer)

    def _add_llava_keys(self, writer: Any) -> None:
        tower = self.config.vision_config
        writer.add_clip_projector_type("mlp")
        writer.add_vision_head_count(tower.num_attention_heads)
        writer.add_vision_attention_layernorm_eps(tower.layer_norm_eps)
        writer.add_vision_image_size(tower.image_size)
        writer.add_vision_use_gelu(tower.hidden_act == "gelu")
        writer.add_array("clip.vision.feature_layer", [self.feature_layer])

    @property
    def feature_layer(self) -> int:
        """After how many of LLaVA's layers its features are taken."""
        layer: int = self.config.vision_feature_layer
        return layer if layer >= 0 else self.blocks + 1 + layer

    def _add_qwen_keys(self, writer: Any) -> None:
        gguf = gguf_package()
        tower = self.config.vision_config
        writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN25VL)
        writer.add_vision_head_count(tower.num_heads)
        writer.add_vision_attention_layernorm_eps(1e-6)  # as transformers has it, not in configs
        writer.add_vision_image_size(ANY_SIZE)
        size = self.images.get("size") or {}  # the edges are numbers of pixels
        least = size.get("shortest_edge", self.images.get("min_pixels"))
        most = size.get("longest_edge", self.images.get("max_pixels"))
        if least and most:
            writer.add_vision_min_pixels(least)
            writer.add_vision_max_pixels(most)
        writer.add_vision_spatial_merge_size(tower.spatial_merge_size)
        writer.add_vision_use_silu(True)
        writer.add_vision_n_wa_pattern(tower.fullatt_block_indexes[0] + 1)
        writer.add_vision_window_size(tower.window_size)


def vision_of(family: str, config: Any, images: dict[str, Any]) -> Vision:
    """Tower and projector of a checkpoint.

    Args:
        family: its `model_type`, one that sees images and that `language_of` lets pass.
        config: of transformers.
        images: settings of its image processor.

    Raises:
        ConfigError: llama.cpp would compute something else.
    """
    if family == LLAVA:
        unknown = _unknown_to_llava(config)
    else:
        unknown = _unknown_to_qwen(config.vision_config)
    for name in ("image_mean", "image_std"):
        unknown[f"no {name} of its images"] = name not in images
    for setting, is_there in unknown.items():
        if is_there:
            raise ConfigError(
                f"the model has {setting}, for which --format gguf has no place: leave --format out"
            )
    return Vision(family, config, images)


def _unknown_to_llava(config: Any) -> dict[str, bool]:
    """What a LLaVA may have -> whether it has that and llama.cpp has not."""
    tower = config.vision_config
    strategy = config.vision_feature_select_strategy
    return {
        f"the tower {tower.model_type}": tower.model_type != "clip_vision_model",
        f"hidden_act={tower.hidden_act}": tower.hidden_act not in ("gelu", "quick_gelu"),
        f"projector_hidden_act={config.projector_hidden_act}": (
            config.projector_hidden_act != "gelu"
        ),
        "a projector without biases": not config.multimodal_projector_bias,
        "several vision_feature_layers": not isinstance(config.vision_feature_layer, int),
        f"vision_feature_select_strategy={strategy}": strategy != "default",
    }


def _unknown_to_qwen(tower: Any) -> dict[str, bool]:
    """The same for a Qwen2.5-VL."""
    full = list(tower.fullatt_block_indexes)
    period = full[0] + 1 if full else 1
    regular = list(range(period - 1, tower.depth, period))
    return {
        f"hidden_act={tower.hidden_act}": tower.hidden_act != "silu",
        f"fullatt_block_indexes={full}": full != regular,
        f"temporal_patch_size={tower.temporal_patch_size}": tower.temporal_patch_size != FRAMES,
        f"spatial_merge_size={tower.spatial_merge_size}": tower.spatial_merge_size != MERGED,
    }
