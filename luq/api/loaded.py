"""`luq.load`: a model from a folder, from the hub or from memory, and the store of what is made."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luq.config import ModelConfig
from luq.errors import ConfigError
from luq.models.checkpoint import Checkpoint, checkpoint
from luq.models.in_memory import adopt
from luq.models.vlm import VLM, hold_loaded, loaded
from luq.progress import Bars
from luq.store.artefact import Progress
from luq.store.store import Store


class LoadedModel:
    """A model in memory, and the store of what is made of it.

    Args:
        source: The model as it stands in keys.
        store: What is made of it.
        adopted: The model if a user held it before; None if it is loaded from its folder.
        temporary: Folders that are deleted with this object.
    """

    def __init__(
        self,
        source: Checkpoint,
        store: Store,
        adopted: VLM | None = None,
        temporary: Sequence[Path] = (),
    ):
        self.checkpoint = source
        self.store = store
        self.is_adopted = adopted is not None
        store.about = source.digest
        for folder in temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        if adopted is not None:
            hold_loaded(store.tools, source, adopted)

    def __repr__(self) -> str:
        return f"LoadedModel({self.checkpoint.config.name}, {self.layers} layers)"

    @property
    def vlm(self) -> VLM:
        """The model as the pipeline sees it."""
        return loaded(self.store.tools, self.checkpoint)

    @property
    def model(self) -> Any:
        """The transformers model, with its 16-bit linears."""
        vlm = self.vlm
        vlm.restore()
        return vlm.model

    @property
    def processor(self) -> Any:
        """The model's processor."""
        return self.vlm.processor

    @property
    def layers(self) -> int:
        """Decoder layers of the language backbone."""
        return self.checkpoint.layers


def load(
    model: Any,
    processor: Any = None,
    *,
    device: str = "auto",
    store: str | Path | None = None,
    system_prompt: str = "",
    activations_gb: float = ModelConfig.activations_gb,
    revision: str | None = None,
    stream: bool = False,
    do_pad: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """A vision-language or language model, from a folder, from the hub, or from memory.

    Args:
        model: A folder, a hub id, or a transformers model in memory. One in memory is not loaded
            again: it stays where it is, in its own type, is set to `eval()` and its parameters to
            `requires_grad=False`, and gets packed linears in place of its own when it is packed.
        processor: Of a model in memory; of one that sees no images, its tokenizer.
        device: auto, cpu, cuda or cuda:N.
        store: Folder for what is made (profiles, layers, answers), which is found there again.
            None: a temporary one, which is deleted with the loaded model.
        system_prompt: With which it is asked.
        activations_gb: Of calibration activations that stay in memory; the others wait on disk.
        revision: Of a repository on the hub.
        stream: Leave the decoder's layers on disk and read each when it is needed.
        do_pad: LLaVA: pad an image to a square, or crop it; None: as its processor says.
        min_pixels: Of an image, where a model takes any size; None: as its processor says.
        max_pixels: Likewise.
        progress: Who is told of long work; None: bars on a terminal.

    Raises:
        ConfigError: An argument does not fit the model.
        ModelError: The model cannot be used; the message says why.
    """
    if isinstance(model, str | Path):
        if processor is not None:
            raise ConfigError(f"{model} has a processor of its own: leave processor out")
        config = ModelConfig(
            name=str(model),
            path=str(model),
            revision=revision,
            device=device,
            system_prompt=system_prompt,
            do_pad=do_pad,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            activations_gb=activations_gb,
            stream=stream,
        )
        return _from_folder(checkpoint(config), store, progress)
    settings = {
        "device": None if device == "auto" else device,
        "revision": revision,
        "stream": stream or None,
        "do_pad": do_pad,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
    }
    for name, value in settings.items():
        if value is not None:
            raise ConfigError(
                f"{name}={value!r} would be ignored: a model in memory and its processor are taken "
                "as they are"
            )
    if processor is None:
        raise ConfigError("a model in memory needs its processor: luq.load(model, processor)")
    folder = _temporary_folder("settings")
    try:
        adopted = adopt(model, processor, folder, system_prompt, activations_gb)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    root = _temporary_folder("store") if store is None else Path(store).expanduser()
    temporary = [folder] if store is not None else [folder, root]
    opened_store = Store(root, progress or Bars())
    return LoadedModel(adopted.checkpoint, opened_store, adopted.vlm, temporary)


def _from_folder(
    source: Checkpoint, store: str | Path | None, progress: Progress | None
) -> LoadedModel:
    root = _temporary_folder("store") if store is None else Path(store).expanduser()
    temporary = [root] if store is None else []
    model = LoadedModel(source, Store(root, progress or Bars()), temporary=temporary)
    loaded(model.store.tools, source)  # now, and not when it is first needed
    return model


def _temporary_folder(what: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"luq-{what}-"))
