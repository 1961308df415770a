"""The vision phase of a pocket model's training: the tower learns to name what each cell holds."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import PreTrainedModel

from luq.pocket.drawing import GRID, LABELS, Scene
from luq.pocket.family import Family
from luq.pocket.world import make_scene

log = logging.getLogger(__name__)
SCENES = {"objects": 2, "sign": 2, "digits": 3, "chart": 3, "document": 1, "code": 1}  # of twelve
BATCH = 64  # scenes of a step
LEARNING_RATE = 1e-3
EMPTY_CELLS = 0.1  # share of the cells without a thing that count in its loss
HELD_OUT_STEP = 10**6  # seeds the scenes of the final test; no training has as many steps
# Two printed characters as one class, since the tokenizer has one token for two letters.
PAIRS = LABELS["left"] * LABELS["right"]
PLACE_CLASSES = {"row": GRID + 1, "column": GRID + 1}  # counted from 1: 0 means nothing there


def _pair_labels(left: Tensor, right: Tensor) -> Tensor:
    """The class of two printed characters; 0 where nothing is printed on the left."""
    pair = left * LABELS["right"] + right
    return torch.where(left > 0, pair, torch.zeros_like(pair))


def labelled_scenes(seed: int, step: int, split: str) -> tuple[list[Scene], dict[str, Tensor]]:
    """The scenes of a step, and the class of each of their cells.

    Returns:
        Scenes, and label -> classes [scenes, 36].
    """
    kinds = [kind for kind, count in SCENES.items() for _ in range(count)]
    rng = np.random.default_rng([seed, 1, step])  # 2 is the language phase
    scenes = []
    for _ in range(BATCH):
        kind = kinds[int(rng.integers(len(kinds)))]
        scenes.append(make_scene(rng, kind, split))
    labels = {}
    for name in LABELS:
        labels[name] = torch.from_numpy(np.stack([scene.labels[name] for scene in scenes]))
    labels["pair"] = _pair_labels(labels["left"], labels["right"])
    cells = torch.arange(GRID * GRID).expand(BATCH, -1)
    labels["row"] = cells // GRID + 1
    labels["column"] = cells % GRID + 1
    return scenes, labels


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the cells with a label whose class has the highest logit."""
    right = logits.argmax(-1) == labels
    return right[labels > 0].float().mean().item()


def train_vision(
    family: Family, model: PreTrainedModel, seed: int, steps: int, progress: Progress
) -> dict[str, float]:
    """Teach the tower to name shape, colour, digit, print, bar height and place in each cell.

    Without the place, a tower that could know it forgets it for every patch that holds something:
    then no question about left, right, above or below can be answered. Features of a family with
    a `target` also come near to that, in mean square.

    Args:
        family: What kind of model it is.
        model: The model; its tower is trained in place.
        seed: Seed of the scenes.
        steps: Steps of 64 scenes.
        progress: Where the steps are shown.

    Returns:
        Label -> accuracy on scenes of held-out handwriting.
    """
    classes = LABELS | {"pair": PAIRS}
    if family.PLACES:
        classes |= PLACE_CLASSES
    heads = nn.ModuleDict({name: nn.Linear(family.WIDTH, n) for name, n in classes.items()})
    parameters = [*family.tower(model).parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1
    )
    task = progress.add_task("vision", total=steps)
    for step in range(steps):
        scenes, labels = labelled_scenes(seed, step, "train")
        features = family.features(model, scenes)
        loss = torch.zeros(())
        for name, head in heads.items():
            # Most cells are empty: all of them would teach the head to answer "nothing".
            counts = (labels[name] > 0) | (torch.rand(labels[name].shape) < EMPTY_CELLS)
            loss = loss + F.cross_entropy(head(features[counts]), labels[name][counts])
        target = family.target(scenes)
        if target is not None:
            loss = loss + F.mse_loss(features, target) / target.var()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.update(task, advance=1, description=f"vision loss {loss.item():.3f}")
        if step % 100 == 0:
            log.info("vision step %d loss %.4f", step, loss.item())
    with torch.no_grad():
        scenes, labels = labelled_scenes(seed, HELD_OUT_STEP, "test")
        features = family.features(model, scenes)
        return {name: _accuracy(head(features), labels[name]) for name, head in heads.items()}
