"""What the two GGUF files of a packed model hold, tensor by tensor, before any is written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from luq.config.quantizer import HEAD
from luq.errors import ConfigError, ModelError
from luq.export.folder import PackedModel
from luq.export.gguf.forms import (
    FLOAT_BITS,
    Form,
    exact_form,
    nearest_tiers,
    recoded_form,
    size_of,
    stored_bits,
    stored_rows,
)
from luq.export.gguf.language import Language, unplaced
from luq.export.gguf.package import gguf_package
from luq.export.gguf.vision import Vision
from luq.formats.base import PackedWeight
from luq.formats.gguf import KINDS
from luq.formats.layer_file import PackedLayer, read_layer
from luq.models.checkpoint import is_tied
from luq.models.families import decoder_weight, part_of
from luq.models.weight_files import OBSOLETE, StoredTensor, plain_name, stored_tensors

PLAIN = Form("f32")  # of norms, biases, convolutions and positions
POSITIONS = "position_embedding"
TOWER_PARTS = ("vision", "projector")


class Stored(NamedTuple):
    """A packed weight: the folder of its file, and its name there."""

    folder: Path
    name: str


class PackedFiles:
    """Reads packed weights.

    Those of a file follow each other: it is read once for all of them, and one is in memory.

    Args:
        source: the checkpoint to which they may refer.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._folder: Path | None = None
        self._layer: PackedLayer = {}

    def layer(self, folder: Path) -> PackedLayer:
        """All weights of a file."""
        if folder != self._folder:
            self._layer = read_layer(folder, self._source)
            self._folder = folder
        return self._layer

    def weight(self, stored: Stored) -> PackedWeight:
        """One of them."""
        return self.layer(stored.folder)[stored.name]


@dataclass(frozen=True)
class Content:
    """A tensor of a GGUF file.

    Args:
        name: in the file.
        form: its type there.
        shape: of its numbers.
        ledger: its bytes per class.
        tensor: of the checkpoint from which it comes, with its file.
        packed: where it is packed; None: it comes as it stands in the checkpoint.
        rows: which of the tensor's it has: the first, and the one after the last; None: all.
        frame: which of the tensor's it has; None: it has no frames, or all.
        order: of its rows.
        values: it itself, where it is in no file.
    """

    name: str
    form: Form
    shape: tuple[int, ...]
    ledger: dict[str, int]
    tensor: tuple[str, Path] = ("", Path())
    packed: Stored | None = None
    rows: tuple[int, int] | None = None
    frame: int | None = None
    order: Tensor | None = None
    values: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(self.ledger.values())


@dataclass
class TierForms:
    """What becomes of a tier in the file.

    Args:
        forms: of its weights.
        weights: numbers in these.
        stored_bytes: their size in the store.
        bytes: their size in the file.
    """

    forms: set[Form] = field(default_factory=set)
    weights: int = 0
    stored_bytes: int = 0
    bytes: int = 0

    @property
    def types(self) -> str:
        """The names of its types."""
        return ", ".join(sorted({form.type for form in self.forms}))


@dataclass
class Contents:
    """All tensors of the two files.

    Args:
        language: of the language model's file.
        vision: of the tower's; empty without one.
        tiers: what becomes of each tier, by its name.
        weights: of the decoder's linears.
        weight_bytes: bytes of these.
    """

    language: list[Content] = field(default_factory=list)
    vision: list[Content] = field(default_factory=list)
    tiers: dict[str, TierForms] = field(default_factory=dict)
    weights: int = 0
    weight_bytes: int = 0

    @property
    def stored_bits(self) -> float:
        """Bits per weight of the decoder's linears."""
        return 8 * self.weight_bytes / self.weights

    @property
    def recoded(self) -> dict[str, str]:
        """Tier -> the types that its weights were coded again in."""
        recoded: dict[str, str] = {}
        for tier, forms in self.tiers.items():
            types = sorted({form.type for form in forms.forms if form.is_recoded})
            if types:
                recoded[tier] = ", ".join(types)
        return recoded


class ContentsOf:
    """Plans the two files of a packed model.

    Args:
        model: what is packed.
        language: its language model.
        vision: its tower; None if there is none.
        recode: the type of what has no exact form; None: that is refused.
    """

    def __init__(
        self, model: PackedModel, language: Language, vision: Vision | None, recode: str | None
    ) -> None:
        self.model = model
        self.language = language
        self.vision = vision
        self.recode = recode
        self.contents = Contents()
        self.files = PackedFiles(model.source)
        self.refused: dict[str, PackedWeight] = {}  # tier -> one of its weights without a form
        self.unseen: dict[int, set[str]] = {}  # layer -> its linears that no tensor is found for
        # What is packed beside the decoder's linears: plain name -> its tier and where it is.
        self.beside: dict[str, tuple[str, Stored]] = {}
        for part in model.parts.values():
            for name in self.files.layer(part.folder):
                self.beside[name] = part.tier, Stored(part.folder, name)

    def plan(self) -> Contents:
        """All tensors.

        Raises:
            ConfigError: a tier has no GGUF form.
            ModelError: a tensor of the checkpoint has no place in llama.cpp's architecture, or
                what was packed is of another checkpoint.
        """
        has_tied_head = is_tied(self.model.source)
        for name, tensor in stored_tensors(self.model.source).items():
            place = decoder_weight(name)
            plain_module = plain_name(name).removesuffix(".weight")
            if OBSOLETE.search(name) or (has_tied_head and part_of(name) == HEAD):
                continue
            if place is not None and len(tensor.shape) == 2:
                self._add_linear(name, tensor, *place)
            elif plain_module in self.beside:
                self._add_packed(name, tensor, *self.beside.pop(plain_module))
            else:
                self._add(name, tensor, _form_beside(name, tensor))
        self._check_all_are_there()
        self._add_frequencies()
        if self.refused:
            raise self._refusal()
        return self.contents

    def _add_linear(self, name: str, tensor: StoredTensor, index: int, linear: str) -> None:
        """Plan one of the decoder's linears."""
        folders = self.model.folders
        names = self.files.layer(folders[index]) if index < len(folders) else {}
        if linear not in names:
            raise ModelError(
                f"{tensor.file} holds {name}, which is none of the linears that were packed"
            )
        self.unseen.setdefault(index, set(names)).discard(linear)
        tier = self.model.allocation.tier_of(index, linear)
        self._add_packed(name, tensor, tier, Stored(folders[index], linear))

    def _check_all_are_there(self) -> None:
        """A ModelError if something is packed that the checkpoint does not hold."""
        missing = sorted(self.beside)
        for index, folder in enumerate(self.model.folders):
            unseen = self.unseen[index] if index in self.unseen else set(self.files.layer(folder))
            missing += [f"layers.{index}.{linear}" for linear in sorted(unseen)]
        if missing:
            raise ModelError(
                f"{self.model.source} has no weight for {missing[0]}: its tensors have other names "
                "than this version knows"
            )

    def _add_packed(self, name: str, tensor: StoredTensor, tier: str, stored: Stored) -> None:
        """Plan a packed weight."""
        weight = self.files.weight(stored)
        if tensor.shape != weight.shape:
            raise ModelError(
                f"{tensor.file} holds {name} as {list(tensor.shape)}, but it was packed as "
                f"{list(weight.shape)}: its tensors are others than the model's"
            )
        form = exact_form(weight)
        if form is None and self.recode is not None:
            form = recoded_form(weight.shape[1], self.recode)
        if form is None:
            self.refused.setdefault(tier, weight)
            return
        forms = self.contents.tiers.setdefault(tier, TierForms())
        forms.forms.add(form)
        forms.weights += tensor.shape[0] * tensor.shape[1]
        forms.stored_bytes += sum(weight.ledger().values())
        forms.bytes += size_of(form, tensor.shape)
        self._add(name, tensor, form, stored)

    def _add(
        self, name: str, tensor: StoredTensor, form: Form, packed: Stored | None = None
    ) -> None:
        """Plan a tensor in whichever file it belongs."""
        part = part_of(name)
        if part in TOWER_PARTS:
            self._add_to_tower(name, tensor, form, packed)
            return
        name_there = self.language.name_of(name)
        if name_there is None:
            raise unplaced(name, self.language.name)
        is_linear = decoder_weight(name) is not None and packed is not None
        content = Content(
            name_there,
            form,
            tensor.shape,
            _ledger(form, tensor.shape, None if is_linear else part, packed is not None),
            (name, tensor.file),
            packed,
            order=self.language.row_order(name),
        )
        if is_linear:
            self.contents.weights += tensor.shape[0] * tensor.shape[1]
            self.contents.weight_bytes += content.bytes
        self.contents.language.append(content)

    def _add_to_tower(
        self, name: str, tensor: StoredTensor, form: Form, packed: Stored | None
    ) -> None:
        if self.vision is None:
            raise unplaced(name, self.language.name)
        if self.vision.is_unread(name):
            return
        places = self.vision.places(name, tensor.shape[0])
        if not places:
            raise unplaced(name, "mmproj")
        for place in places:
            shape = tensor.shape
            if place.rows is not None:
                shape = (place.rows[1] - place.rows[0], *shape[1:])
            if place.frame is not None:
                shape = (*shape[:2], *shape[3:])
            ledger = _ledger(form, shape, part_of(name), packed is not None)
            source = (name, tensor.file)
            self.contents.vision.append(
                Content(place.name, form, shape, ledger, source, packed, place.rows, place.frame)
            )

    def _add_frequencies(self) -> None:
        """By what rotations are slowed down, which transformers computes from the config."""
        factors = self.language.frequency_factors()
        if factors is None:
            return
        gguf = gguf_package()
        name = f"{gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight"
        ledger = _ledger(PLAIN, tuple(factors.shape), "norms", False)
        self.contents.language.append(
            Content(name, PLAIN, tuple(factors.shape), ledger, values=factors)
        )

    def _refusal(self) -> ConfigError:
        """The error for tiers without a GGUF form."""
        lines: list[str] = []
        for tier, weight in self.refused.items():
            bits = stored_bits(weight)
            nearest: list[str] = []
            for name in nearest_tiers(bits, weight.shape[1]):
                nearest.append(f"{name} ({KINDS[name].stored_bits:g})")
            lines.append(
                f"{tier} ({bits:.2f} bits per weight; nearest for rows of {weight.shape[1]} weights"
                f": {', '.join(nearest) or 'float16'})"
            )
        return ConfigError(
            f"no GGUF type holds weights of {'; '.join(lines)}. Run with tiers that have one, or "
            "code these weights again with --recode TYPE, such as q4_k: the file is then another "
            "model than the one that was scored"
        )


def _form_beside(name: str, tensor: StoredTensor) -> Form:
    """The form of what is not packed: linears and tables as they are stored, all else in fp32."""
    if len(tensor.shape) != 2 or POSITIONS in name:
        return PLAIN
    form = Form(tensor.dtype.lower())
    return form if form.type in FLOAT_BITS else PLAIN


def _ledger(
    form: Form, shape: tuple[int, ...], part: str | None, is_packed: bool
) -> dict[str, int]:
    """Bytes per ledger class of a tensor; of the decoder's linears without a part's name."""
    size = size_of(form, shape)
    if part is not None and not is_packed:
        return {part: size}
    name = "weights" if form.type in FLOAT_BITS else "blocks"
    return {name if part is None else f"{part} {name}": size}


def read(content: Content, files: PackedFiles) -> Tensor:
    """Bytes or numbers of a tensor, as its file has them.

    Raises:
        ModelError: they would mean something else than the packed weight does.
    """
    if content.values is not None:
        return content.values
    if content.packed is not None:
        tensor = stored_rows(files.weight(content.packed), content.form)
    else:
        name, file = content.tensor
        with safe_open(file, framework="pt") as stream:
            tensor = stream.get_tensor(name)
        if content.form == PLAIN:
            tensor = tensor.to(torch.float32)
    if content.rows is not None:
        tensor = tensor[slice(*content.rows)]
    if content.frame is not None:
        tensor = tensor[:, :, content.frame]
    if content.order is not None:
        tensor = tensor[content.order]
    return tensor.contiguous()
