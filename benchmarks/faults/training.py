"""A training of a tiny model that takes seconds."""

import os
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.faults.forked import Act
from luq.pocket import train as training
from luq.pocket.train import LanguagePhase, TrainConfig, train

SETTINGS = TrainConfig(
    layers=2, vision_layers=1, vision_steps=2, steps=4, batch=2, length=32, save_every=2
)


def train_act(folder: Path) -> Act:
    """Train in a folder, or go on there."""

    def act() -> int:
        with Progress(disable=True) as progress:
            train(folder, SETTINGS, progress)
        return 0

    return act


def after_tower(folder: Path) -> Act:
    """Train until the tower is saved."""
    save = training._save

    def save_and_end(file: Path, state: dict[str, Any]) -> None:
        save(file, state)
        os._exit(0)

    def act() -> int:
        training._save = save_and_end  # in a process of its own
        return train_act(folder)()

    return act


def after_half(folder: Path) -> Act:
    """Train until the state was saved for the first time, half way."""
    save = LanguagePhase.save

    def save_and_end(phase: LanguagePhase, file: Path) -> None:
        save(phase, file)
        os._exit(0)

    def act() -> int:
        LanguagePhase.save = save_and_end  # type: ignore[assignment,method-assign]  # only here
        return train_act(folder)()

    return act
