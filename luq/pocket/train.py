"""Train a pocket model: a small LLaVA or Qwen2.5-VL that has really learned its world.

Two phases, as real VLMs are made. *Vision*: the tower learns to name what each cell holds, and
then goes on at a lower rate. *Language*: the decoder and the projector learn, in one mixture, to
caption, to answer the nine benchmarks' questions, facts by heart, arithmetic and real English.
Every batch is a function of (seed, step), and the state is saved as it goes, so training continues
where it stopped.
"""

import hashlib
import io
import logging
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from luq.config.checks import (
    require_above,
    require_between,
    require_count,
    require_distinct,
    require_seed,
)
from luq.errors import ConfigError, StoreError, unknown
from luq.models.loading import load_model
from luq.models.settings_files import read_config, text_settings
from luq.pocket import wide
from luq.pocket.family import FAMILIES, Family
from luq.pocket.stream import FOCUS, Batch, Stream, check_lesson
from luq.pocket.tokenizer import load_tokenizer
from luq.pocket.vision import train_vision
from luq.store import durable
from luq.store.sealed import read_table, sealed
from luq.store.store import write_json
from luq.store.writers import sole_writer

log = logging.getLogger(__name__)
VISION_STEPS = 1500  # of a training from scratch
WARM_UP = 200  # steps until the learning rate is at its peak
SHORT_WARM_UP = 50  # the same for trained weights
LOWEST_RATE = 0.02  # share of the peak rate that the last steps still have
SHORTEST = 8  # tokens of a sequence that can hold a question and its answer
SMOOTHING = 0.98  # weight of the steps before in the loss that is shown
SETTINGS = "training.json"  # in the folder of a training: the settings that it began with
CARD = "pocket_training.json"  # in a finished checkpoint
DIGEST_BYTES = 32  # of a sha256
# Settings that may change from one start to the next, since they decide nothing about the weights
# so far: a training may be made longer. All others belong to the folder.
CHANGEABLE = ("steps", "save_every")


@dataclass(frozen=True)
class TrainConfig:
    """Sizes and schedule; the defaults made the weights that ship with the project."""

    model: str = ""  # one of FAMILIES; empty: what `start` is, or pocket_llava
    layers: int | None = None  # None: as many as the model has that ships with the project
    vision_layers: int = 4
    vision_steps: int | None = None  # None: 1500 from scratch, 0 from trained weights
    steps: int = 6300
    batch: int = 24
    length: int = 192
    learning_rate: float = 2e-3  # AdamW: embeddings, head, norms, projector
    muon_rate: float = 4e-3  # Muon: the decoder's weight matrices
    vision_rate: float = 0.15  # the tower's rate in the language phase, as a share of AdamW's
    decay: float = 0.15  # last share of the steps, in which the learning rate falls to zero
    focus: str = ",".join(FOCUS)  # abilities that have most of the training for a while, in turn
    start: str = ""  # folder of a checkpoint whose weights to go on from; empty: from scratch
    seed: int = 0
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("layers", "vision_layers", "steps", "batch", "save_every"):
            require_count(name, getattr(self, name), 1)  # None is not given
        require_count("vision_steps", self.vision_steps, 0)
        require_count("length", self.length, SHORTEST)
        for name in ("learning_rate", "muon_rate"):
            require_above(name, getattr(self, name), 0, "a finite number above 0")
        require_between("vision_rate", self.vision_rate, 0, 1, "in [0, 1]")
        require_between("decay", self.decay, 0, 1, "in [0, 1]")
        require_seed("seed", self.seed)
        require_distinct("focus", self.lessons)
        for lesson in self.lessons:
            check_lesson(lesson)

    @property
    def lessons(self) -> tuple[str, ...]:
        """The abilities of `focus`."""
        return tuple(lesson for lesson in self.focus.split(",") if lesson)


def language_loss(family: Family, model: Any, batch: Batch, tower_learns: bool = True) -> Tensor:
    """Weighted next-token cross-entropy; the vision tower gets a gradient if it learns."""
    ids = torch.from_numpy(batch.ids)
    weight = torch.from_numpy(batch.weight)
    embeds = model.get_input_embeddings()(ids)
    if batch.scenes:
        with torch.set_grad_enabled(tower_learns):
            features = family.features(model, batch.scenes)
        cells = family.project(model, features).to(embeds.dtype)
        is_image = (ids == model.config.image_token_id).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(is_image, cells)
    positions = family.positions(model, ids, len(batch.scenes))
    # bfloat16 only here, where shapes never change: every new shape is compiled anew.
    with torch.autocast("cpu", torch.bfloat16):
        output = model.model.language_model(
            inputs_embeds=embeds, position_ids=positions, use_cache=False
        )
    hidden = output.last_hidden_state[:, :-1].float()
    next_ids = ids[:, 1:]
    next_weight = weight[:, 1:]
    learned = next_weight > 0  # the head computes no logits of what is not learned
    logits = model.lm_head(hidden[learned])
    losses = F.cross_entropy(logits, next_ids[learned], reduction="none")
    token_weights = next_weight[learned]
    return (losses * token_weights).sum() / token_weights.sum()


def make_optimizers(
    family: Family, model: PreTrainedModel, config: TrainConfig
) -> list[torch.optim.Optimizer]:
    """Muon for the decoder's matrices, AdamW for everything else.

    Each parameter group has its highest learning rate under `peak`.
    """
    matrices = []
    for name, parameter in model.named_parameters():
        if "language_model.layers" in name and parameter.ndim == 2:
            matrices.append(parameter)
    tower = list(family.tower(model).parameters())
    grouped = {id(parameter) for parameter in matrices + tower}
    remaining = [parameter for parameter in model.parameters() if id(parameter) not in grouped]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": config.muon_rate}],
        lr=config.muon_rate,
        weight_decay=0.05,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": remaining, "peak": config.learning_rate},
            {"params": tower, "peak": config.learning_rate * config.vision_rate},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.05,
    )
    return [muon, adamw]


def rate_share(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: warm-up, constant, then a fall to zero."""
    warm_up = SHORT_WARM_UP if _starts_trained(config) else WARM_UP
    rise = min(1.0, (step + 1) / warm_up)
    start_of_fall = config.steps * (1 - config.decay)
    if step < start_of_fall:
        return rise
    fall = (config.steps - step) / (config.steps - start_of_fall)
    return rise * max(LOWEST_RATE, fall)


class LanguagePhase:
    """The training of all of a model, and how far it is.

    Args:
        family: What kind of model it is.
        model: The model; it is trained in place.
        tokenizer: Its tokenizer.
        config: Sizes and schedule.
    """

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        config: TrainConfig,
    ):
        self.family = family
        self.model = model
        self.config = config
        self.step = 0
        self.optimizers = make_optimizers(family, model, config)
        self.stream = Stream(
            tokenizer, family.CHAT, config.batch, config.length, config.seed, config.lessons
        )

    def load(self, file: Path) -> None:
        """Go on from what `save` wrote."""
        state = _saved(file)
        self.model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.step = state["step"]

    def save(self, file: Path) -> None:
        optimizer_states = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {
            "model": self.model.state_dict(),
            "optimizers": optimizer_states,
            "step": self.step,
        }
        _save(file, state)

    def run(self, progress: Progress) -> Iterator[float]:
        """Train up to the last step; yields the smoothed loss after every step."""
        task = progress.add_task("language", total=self.config.steps, completed=self.step)
        smooth_loss = math.nan
        while self.step < self.config.steps:
            loss = self._train_step()
            if math.isnan(smooth_loss):
                smooth_loss = loss
            else:
                smooth_loss = SMOOTHING * smooth_loss + (1 - SMOOTHING) * loss
            self.step += 1
            progress.update(task, advance=1, description=f"language loss {smooth_loss:.3f}")
            yield smooth_loss

    def _train_step(self) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_share(self.step, self.config) * group["peak"]
        progress = self.step / self.config.steps
        if _starts_trained(self.config):
            # Trained weights get the second half of the mixture, not the captions of the first.
            progress = 0.5 + progress / 2
        batch = self.stream.batch(self.step, progress)
        tower_learns = self.config.vision_rate > 0
        loss = language_loss(self.family, self.model, batch, tower_learns)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


def _save(file: Path, state: dict[str, Any]) -> None:
    """Save a state, and the sha256 of its bytes behind it, so that the file is never half written.

    Raises:
        OSError: It cannot be written. The earlier state is kept.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getvalue()
    scratch = file.with_suffix(".tmp")
    scratch.write_bytes(content + hashlib.sha256(content).digest())
    durable.sync(scratch)
    durable.replace(scratch, file)


def _saved(file: Path) -> dict[str, Any]:
    """The state in a file.

    Raises:
        StoreError: It is not what was saved.
    """
    content = file.read_bytes()
    state, checksum = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(state).digest() != checksum:
        raise StoreError(
            f"{file} is damaged, or an earlier version wrote it: delete it, and the training "
            "begins again"
        )
    loaded: dict[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
    return loaded


def _model_name(config: TrainConfig) -> str:
    """What is trained; a ConfigError if there is no such model, or if `start` is another."""
    name = config.model or "pocket_llava"
    if config.start:
        name = _model_of(Path(config.start))
        if config.model and config.model != name:
            raise ConfigError(
                f"--start {config.start} is a {name}, and --model says {config.model}: "
                "leave --model out, or start from another checkpoint"
            )
    if name not in FAMILIES:
        raise unknown("pocket model", name, FAMILIES)
    return name


def _model_of(checkpoint: Path) -> str:
    """Which of the pocket models a checkpoint is."""
    settings = read_config(checkpoint)
    if not str(settings.get("model_type")).startswith("qwen"):
        return "pocket_llava"
    is_wide = text_settings(settings).get("hidden_size") == wide.WIDTH
    return "pocket_wide" if is_wide else "pocket_qwen"


def _starts_trained(config: TrainConfig) -> bool:
    """Whether the language phase begins with weights that know the world."""
    return bool(config.start) or FAMILIES[_model_name(config)].IS_TRAINED


def _resolved(config: TrainConfig) -> TrainConfig:
    """The config with what its empty settings mean."""
    vision_steps = config.vision_steps
    if vision_steps is None:
        vision_steps = 0 if _starts_trained(config) else VISION_STEPS
    name = _model_name(config)
    layers = FAMILIES[name].LAYERS if config.layers is None else config.layers
    return replace(config, model=name, layers=layers, vision_steps=vision_steps)


def _card(config: TrainConfig) -> dict[str, Any]:
    """The settings; of `start` only the folder's name, which says no path of a machine."""
    return asdict(config) | {"start": Path(config.start).name}


def _check_same_training(folder: Path, config: TrainConfig) -> None:
    """A ConfigError if `folder` holds a training that this config does not continue.

    Its weights would stay, and its card would say the new settings.
    """
    files = (folder / SETTINGS, folder / "checkpoint" / CARD)
    file = next((file for file in files if file.exists()), None)
    if file is None:
        return
    try:
        before = read_table(file)
    except ValueError as error:
        raise StoreError(f"{file} is damaged ({error}): train in another folder") from error
    now = _card(config)
    for name in now:
        unsaid = before.get(name) in (None, "")  # in cards, which have the settings as given
        if name not in CHANGEABLE and not unsaid and before[name] != now[name]:
            raise ConfigError(
                f"{folder} holds a training with {name}={before[name]}, and {name}={now[name]} is "
                f"asked for: train in another folder, or continue with {name}={before[name]}"
            )
    if now["steps"] < before.get("steps", 0):
        raise ConfigError(
            f"{folder} holds a training with steps={before['steps']}, and steps={now['steps']} is "
            "asked for: a training may be made longer, not shorter. Train in another folder"
        )


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
    settings = _resolved(config)
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
    _check_same_training(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, sealed(_card(settings)))
    family = FAMILIES[settings.model]
    tokenizer = load_tokenizer(settings.start) if settings.start else family.make_tokenizer()
    torch.manual_seed(settings.seed)
    layers = settings.layers or family.LAYERS
    model = family.build(tokenizer, layers, settings.vision_layers)
    if settings.start:
        source = load_model(Path(settings.start), torch.float32)
        model.load_state_dict(source.state_dict())
    _vision_phase(folder / "vision.pt", family, model, settings, progress)
    phase = LanguagePhase(family, model, tokenizer, settings)
    state_file = folder / "state.pt"
    if state_file.exists():
        phase.load(state_file)
    for loss in phase.run(progress):
        if phase.step % 50 == 0:
            log.info("step %d loss %.4f", phase.step, loss)
        if phase.step % settings.save_every == 0 or phase.step == settings.steps:
            phase.save(state_file)
    return export(family, model, tokenizer, folder / "checkpoint", config)


def _vision_phase(
    file: Path, family: Family, model: PreTrainedModel, config: TrainConfig, progress: Progress
) -> None:
    """Train the tower, or read the trained tower from its file."""
    tower = family.tower(model)
    if config.vision_steps and not file.exists():
        accuracy = train_vision(family, model, config.seed, config.vision_steps, progress)
        rounded = {label: round(share, 3) for label, share in accuracy.items()}
        log.info("vision tower, held-out accuracy: %s", rounded)
        _save(file, tower.state_dict())
    if file.exists():
        tower.load_state_dict(_saved(file))


def export(
    family: Family,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    config: TrainConfig,
) -> Path:
    """Write a Hugging Face folder in fp16, as the Auto classes of transformers load it.

    It replaces an earlier one, and is there whole or not at all.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of a training that was killed
    model.half()  # type: ignore[no-untyped-call]  # transformers has no types for it
    model.save_pretrained(scratch)
    family.make_processor(tokenizer).save_pretrained(scratch)
    write_json(scratch / CARD, _card(config))
    for file in scratch.iterdir():  # the weights file is made with the rights of a temporary file
        file.chmod(0o644)
    durable.sync_tree(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    durable.replace(scratch, folder)
    return folder
