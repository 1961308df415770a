"""`luq chat`: ask an exported folder, about an image or about none."""

from pathlib import Path
from typing import Any

import torch

from luq.config import ModelConfig
from luq.errors import DataError
from luq.export.about import NATIVE_LAYOUT, read_about
from luq.export.checksums import check_before_loading, check_complete
from luq.models import devices
from luq.models.asking import greedy, plain_text
from luq.models.checkpoint import compute_dtype
from luq.models.loading import load_model
from luq.models.processors import encode_chats, load_processor
from luq.questions import pictures
from pipelines import console
from pipelines.screen import styled

ANSWER_TOKENS = 128  # at most


def load(folder: Path, device: str = "auto") -> tuple[Any, Any]:
    """Model and processor of a folder, in the type that runs are scored in."""
    devices.require(device)
    device = devices.resolve(device)
    about = read_about(folder)
    check_complete(folder, about)
    if about.layout != NATIVE_LAYOUT:  # the loader of our own layout does it itself
        check_before_loading(folder)
    model = load_model(folder, getattr(torch, compute_dtype(folder, device)))
    config = ModelConfig(folder.name, str(folder))
    processor = load_processor(folder, model.config.model_type, config)
    return model.to(device).eval(), processor


def answer(
    model: Any,
    processor: Any,
    image: Path | None,
    question: str,
    tokens: int = ANSWER_TOKENS,
    system: str = "",
) -> str:
    """What a model says to a question, greedily.

    Args:
        model: as `load` gives it.
        processor: as `load` gives it.
        image: a picture's file; None: the question is about none.
        question: what is asked.
        tokens: of the answer, at most.
        system: the system prompt that the run was scored with.

    Raises:
        DataError: the file is no picture, or the model sees none.
    """
    images: list[Any] = []
    content: list[dict[str, str]] = [{"type": "text", "text": plain_text(processor, question)}]
    if image is not None:
        if processor.image_processor is None:
            raise DataError(f"{image}: this is a language model that sees no images: leave it out")
        images = [_picture(image)]
        content.insert(0, {"type": "image"})
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    try:
        inputs = encode_chats(processor, [prompt], images)
    except ValueError as error:
        what = question if image is None else image
        raise DataError(f"{what}: the processor refuses it ({error})") from error
    inputs = inputs.to(model.device, model.dtype)
    with torch.no_grad():
        output = model.generate(**inputs, generation_config=greedy(model, tokens))
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return str(processor.batch_decode(new_tokens, skip_special_tokens=True)[0]).strip()


def _picture(image: Path) -> Any:
    try:
        return pictures.decoded(image.read_bytes())
    except OSError as error:
        raise DataError(f"{image} cannot be read ({error})") from error
    except DataError as error:
        raise DataError(f"{image}: {error}") from error


def chat(folder: Path, image: Path | None, question: str | None) -> None:
    """One answer, or question after question until an empty line or the end of the input."""
    run = read_about(folder).run
    system = "" if run is None else run.system_prompt
    model, processor = load(folder)
    if question:
        console.out.print(answer(model, processor, image, question, system=system))
        return
    while prompt := _question():
        console.out.print(answer(model, processor, image, prompt, system=system))


def _question() -> str:
    """What a person asks next; empty at the end of the input (Ctrl-D)."""
    try:
        return console.out.input(styled(("?", "bold"), " ")).strip()
    except EOFError:
        console.out.print()
        return ""
