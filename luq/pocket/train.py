"""Train a pocket model: a small LLaVA or Qwen2.5-VL that has really learned its world.

Two phases, as real VLMs are made. *Vision* (`vision`): the tower learns to name what each cell
holds, and then goes on at a lower rate. *Language* (`language`): the decoder and the projector
learn, in one mixture, to caption, to answer the nine benchmarks' questions, facts by heart,
arithmetic and real English. A grafted language model has a language phase of its own
(`graft_phase`). Every batch is a function of (seed, step), and the state is saved as it goes, so
training continues where it stopped.
"""

import logging
from pathlib import Path

import torch
from rich.progress import Progress
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from luq.models.loading import load_model
from luq.pocket.family import FAMILIES, Family
from luq.pocket.graft_phase import GraftPhase
from luq.pocket.language import LanguagePhase
from luq.pocket.saving import save_state, saved_state
from luq.pocket.settings import (
    CARD,
    SETTINGS,
    GraftConfig,
    TrainConfig,
    card,
    check_same_training,
    make_config,
    resolved,
)
from luq.pocket.tokenizer import load_tokenizer
from luq.pocket.vision import train_vision
from luq.store.sealed import sealed
from luq.store.store import write_json
from luq.store.writers import sole_writer

__all__ = ["CARD", "SETTINGS", "GraftConfig", "TrainConfig", "make_config", "train"]

log = logging.getLogger(__name__)


def train(folder: Path, config: TrainConfig, progress: Progress) -> Path:
    """Run the training in `folder`, or continue it.

    Args:
        folder: Where the state and the finished checkpoint are written.
        config: Sizes and schedule.
        progress: Where the steps are shown.

    Returns:
        The folder of the finished 16-bit checkpoint.

    Raises:
        ConfigError: There is no such model, or the folder holds another training.
        StoreError: Another process trains in the folder, or what it saved there is damaged.
    """
    settings = resolved(config)
    with sole_writer(folder, "training"):
        return _train(folder, config, settings, progress)


def _train(folder: Path, config: TrainConfig, settings: TrainConfig, progress: Progress) -> Path:
    """`train`, while no other process trains in the folder.

    Args:
        folder: Where the state and the finished checkpoint are written.
        config: Sizes and schedule as they were given, for the card.
        settings: The same, with what was left open.
        progress: Where the steps are shown.
    """
    check_same_training(folder, settings)
    family = FAMILIES[settings.model]
    tokenizer = load_tokenizer(settings.start) if settings.start else family.make_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, sealed(card(settings)))
    torch.manual_seed(settings.seed)
    layers = settings.layers or family.LAYERS or 0
    model = family.build(tokenizer, layers, settings.vision_layers)
    if settings.start:
        source = load_model(Path(settings.start), torch.float32)
        model.load_state_dict(source.state_dict())
    _vision_phase(folder / "vision.pt", family, model, settings, progress)
    phase = _language_phase(family, model, tokenizer, settings)
    phase.resume(folder)
    for loss in phase.run(progress):
        phase.report(loss)
        if phase.step % settings.save_every == 0 or phase.step == settings.steps:
            phase.save(folder)
    return phase.finish(folder, config)


def _language_phase(
    family: Family,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    config: TrainConfig,
) -> LanguagePhase:
    if isinstance(config, GraftConfig):
        return GraftPhase(family, model, tokenizer, config)
    return LanguagePhase(family, model, tokenizer, config)


def _vision_phase(
    file: Path, family: Family, model: PreTrainedModel, config: TrainConfig, progress: Progress
) -> None:
    """Train the tower, or read the trained tower from its file."""
    tower = family.tower(model)
    if config.vision_steps and not file.exists():
        accuracy = train_vision(family, model, config.seed, config.vision_steps, progress)
        rounded = {label: round(share, 3) for label, share in accuracy.items()}
        log.info("vision tower, held-out accuracy: %s", rounded)
        save_state(file, tower.state_dict())
    if file.exists():
        tower.load_state_dict(saved_state(file))
