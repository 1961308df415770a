"""Train a pocket model: a small LLaVA or Qwen2.5-VL that has really learned its world.

Two phases, as real VLMs are made. *Vision*: the tower learns to name what each cell holds, and
then goes on at a lower rate. *Language*: the decoder and the projector learn, in one mixture, to caption, to answer the nine
benchmarks' questions, facts by heart, arithmetic and real English. Every batch is a function of
(seed, step), and the state is saved as it goes, so training continues where it stopped.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoTokenizer

from luq.errors import ConfigError, unknown
from luq.pocket import llava, qwen
from luq.pocket.stream import FOCUS, Batch, Stream
from luq.pocket.world import GRID, LABELS, Scene, make_scene

log = logging.getLogger(__name__)
KINDS: dict[str, Any] = {"pocket_llava": llava, "pocket_qwen": qwen}


@dataclass(frozen=True)
class TrainConfig:
    """Sizes and schedule; the defaults made the weights that ship with the project."""

    model: str = ""  # pocket_llava or pocket_qwen; empty: what `start` is, or pocket_llava
    layers: int = 10
    vision_layers: int = 4
    vision_steps: int | None = None  # None: 1500 from scratch, 0 from a finished checkpoint
    steps: int = 6300
    batch: int = 24
    length: int = 192
    learning_rate: float = 2e-3  # AdamW: embeddings, head, norms, projector
    muon_rate: float = 4e-3  # Muon: the decoder's weight matrices
    vision_rate: float = (
        0.15  # the tower's learning rate in the language phase, as a share of AdamW's
    )
    decay: float = 0.15  # last share of the steps, in which the learning rate falls to zero
    focus: str = ",".join(
        FOCUS
    )  # abilities that have most of the training for a while, one after the other
    start: str = ""  # folder of a checkpoint whose weights to go on from; empty: from scratch
    seed: int = 0
    save_every: int = 250


def _pair(labels: dict[str, Tensor]) -> Tensor:
    """The two printed characters of a cell as one class, since the tokenizer has one token for two letters."""
    pair = labels["left"] * LABELS["right"] + labels["right"]
    return torch.where(labels["left"] > 0, pair, torch.zeros_like(pair))


def train_vision(
    kind: Any, model: Any, config: TrainConfig, steps: int, progress: Progress
) -> dict[str, float]:
    """Teach the tower to name shape, colour, digit, print, bar height and place in each cell; returns held-out accuracy.

    Without the place, a tower that could know it forgets it for every patch that holds something: then no question about left,
    right, above or below can be answered. Features with a `target` also come near to that, in mean square.
    """
    classes = (
        LABELS
        | {"pair": LABELS["left"] * LABELS["right"]}
        | ({"row": GRID + 1, "column": GRID + 1} if kind.PLACES else {})
    )
    heads = nn.ModuleDict({name: nn.Linear(kind.WIDTH, n) for name, n in classes.items()})
    parameters = [*kind.tower(model).parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps + 1, pct_start=0.1
    )
    kinds = (
        "objects",
        "objects",
        "sign",
        "sign",
        "digits",
        "digits",
        "digits",
        "chart",
        "chart",
        "chart",
        "document",
        "code",
    )
    cells = torch.arange(GRID * GRID)
    places = {"row": cells // GRID + 1, "column": cells % GRID + 1}
    task = progress.add_task("vision", total=steps)

    def batch(step: int, split: str) -> tuple[list[Scene], dict[str, Tensor]]:
        rng = np.random.default_rng([config.seed, 1, step])
        scenes = [make_scene(rng, kinds[int(rng.integers(len(kinds)))], split) for _ in range(64)]
        labels = {n: torch.from_numpy(np.stack([s.labels[n] for s in scenes])) for n in LABELS}
        return scenes, labels | {"pair": _pair(labels)} | {
            n: p.expand(64, -1) for n, p in places.items()
        }

    for step in range(steps):
        scenes, labels = batch(step, "train")
        features = kind.features(model, scenes)
        loss = torch.zeros(())
        for name, head in heads.items():
            seen = (labels[name] > 0) | (torch.rand(labels[name].shape) < 0.1)
            loss = loss + F.cross_entropy(head(features[seen]), labels[name][seen])
        if hasattr(kind, "target"):
            wanted = kind.target(scenes)
            loss = loss + F.mse_loss(features, wanted) / wanted.var()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.update(task, advance=1, description=f"vision loss {loss.item():.3f}")
        if step % 100 == 0:
            log.info("vision step %d loss %.4f", step, loss.item())
    with torch.no_grad():
        scenes, labels = batch(10**6, "test")
        features = kind.features(model, scenes)
        return {
            n: (h(features).argmax(-1) == labels[n])[labels[n] > 0].float().mean().item()
            for n, h in heads.items()
        }


def language_loss(kind: Any, model: Any, batch: Batch, frozen: bool = False) -> Tensor:
    """Weighted next-token cross-entropy; `frozen`: the vision tower gets no gradient."""
    ids, weight = torch.from_numpy(batch.ids), torch.from_numpy(batch.weight)
    embeds = model.get_input_embeddings()(ids)
    if batch.scenes:
        with torch.set_grad_enabled(not frozen):
            seen = kind.features(model, batch.scenes)
        places = (ids == model.config.image_token_id).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(places, kind.project(model, seen).to(embeds.dtype))
    positions = kind.positions(model, ids, len(batch.scenes))
    with torch.autocast(
        "cpu", torch.bfloat16
    ):  # only here, where shapes never change: each new shape is compiled anew
        output = model.model.language_model(
            inputs_embeds=embeds, position_ids=positions, use_cache=False
        )
    hidden = output.last_hidden_state[:, :-1].float()
    wanted = weight[:, 1:] > 0
    losses = F.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="none")
    counts = weight[:, 1:][wanted]
    return (losses * counts).sum() / counts.sum()


def make_optimizers(kind: Any, model: Any, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the decoder's matrices, AdamW for everything else."""
    matrices = [
        p for n, p in model.named_parameters() if "language_model.layers" in n and p.ndim == 2
    ]
    tower = list(kind.tower(model).parameters())
    taken = {id(p) for p in matrices + tower}
    others = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": others, "peak": config.learning_rate},
        {"params": tower, "peak": config.learning_rate * config.vision_rate},
    ]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": config.muon_rate}],
        lr=config.muon_rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return [
        muon,
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05),
    ]


def _schedule(step: int, config: TrainConfig) -> float:
    """Share of the peak rate: warm-up (short for trained weights), constant, then a fall to zero over the last `decay`."""
    start = config.steps * (1 - config.decay)
    fall = 1.0 if step < start else max(0.02, (config.steps - step) / (config.steps - start))
    return min(1.0, (step + 1) / (50 if config.start else 200)) * fall


def _save(path: Path, state: dict) -> None:
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    os.replace(scratch, path)


def _kind(config: TrainConfig) -> Any:
    """The module of what is trained; a ConfigError if there is none, or if `start` is another."""
    name = config.model or "pocket_llava"
    if config.start:
        told = json.loads((Path(config.start) / "config.json").read_text())["model_type"]
        name = "pocket_qwen" if told.startswith("qwen") else "pocket_llava"
        if config.model and config.model != name:
            raise ConfigError(
                f"--start {config.start} is a {name}, and --model says {config.model}"
            )
    if name not in KINDS:
        raise unknown("pocket model", name, KINDS)
    return KINDS[name]


def train(folder: Path, config: TrainConfig, progress: Progress) -> Path:
    """Run or continue the training in `folder`; returns the folder of the finished 16-bit checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = _kind(config)
    tokenizer = (
        AutoTokenizer.from_pretrained(config.start) if config.start else kind.make_tokenizer()
    )
    torch.manual_seed(config.seed)
    model = kind.build(tokenizer, config.layers, config.vision_layers)
    vision_file, state_file = folder / "vision.pt", folder / "state.pt"
    if config.start:
        started = AutoModelForImageTextToText.from_pretrained(config.start, dtype=torch.float32)
        model.load_state_dict(started.state_dict())
    vision_steps = (
        (0 if config.start else 1500) if config.vision_steps is None else config.vision_steps
    )
    if vision_steps and not vision_file.exists():
        accuracy = train_vision(kind, model, config, vision_steps, progress)
        log.info(
            "vision tower, held-out accuracy: %s", {k: round(v, 3) for k, v in accuracy.items()}
        )
        _save(vision_file, kind.tower(model).state_dict())
    if vision_file.exists():
        kind.tower(model).load_state_dict(torch.load(vision_file, weights_only=True))
    optimizers, start = make_optimizers(kind, model, config), 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    stream = Stream(
        tokenizer,
        kind.CHAT,
        config.batch,
        config.length,
        config.seed,
        tuple(filter(None, config.focus.split(","))),
    )
    for step, loss in _steps(kind, model, optimizers, stream, config, start, progress):
        if step % 50 == 0:
            log.info("step %d loss %.4f", step, loss)
        if step % config.save_every == 0 or step == config.steps:
            saved = [optimizer.state_dict() for optimizer in optimizers]
            _save(state_file, {"model": model.state_dict(), "optimizers": saved, "step": step})
    return export(kind, model, tokenizer, folder / "checkpoint", config)


def _steps(
    kind: Any,
    model: Any,
    optimizers: list[torch.optim.Optimizer],
    stream: Stream,
    config: TrainConfig,
    start: int,
    progress: Progress,
) -> Iterator[tuple[int, float]]:
    task = progress.add_task("language", total=config.steps, completed=start)
    smooth = math.nan
    for step in range(start, config.steps):
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = _schedule(step, config) * group["peak"]
        # what goes on from a finished checkpoint gets the second half of the mixture, not the captions of the beginning
        at = 0.5 + step / config.steps / 2 if config.start else step / config.steps
        loss = language_loss(kind, model, stream.batch(step, at), frozen=not config.vision_rate)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        progress.update(task, advance=1, description=f"language loss {smooth:.3f}")
        yield step + 1, smooth


def export(kind: Any, model: Any, tokenizer: Any, folder: Path, config: TrainConfig) -> Path:
    """Write a Hugging Face folder in fp16 that AutoModelForImageTextToText and AutoProcessor load."""
    model.half().save_pretrained(folder)
    kind.make_processor(tokenizer).save_pretrained(folder)
    (folder / "pocket_training.json").write_text(
        json.dumps(asdict(config) | {"start": Path(config.start).name}, indent=1) + "\n"
    )
    for file in folder.iterdir():  # the weights file is made with the rights of a temporary file
        file.chmod(0o644)
    return folder
