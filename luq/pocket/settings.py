"""The settings of a training, and whether a folder may take it."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from luq.config.checks import (
    require,
    require_above,
    require_between,
    require_count,
    require_distinct,
    require_seed,
)
from luq.config.model import DEVICE
from luq.errors import ConfigError, StoreError, unknown
from luq.models import devices
from luq.models.settings_files import read_config, text_settings
from luq.pocket import llava, wide
from luq.pocket.family import FAMILIES
from luq.pocket.grafted import GRAFTED, TRAINED_FILE
from luq.pocket.stream import FOCUS, check_lesson
from luq.store.sealed import read_table

VISION_STEPS = 1500  # of a training from scratch
SHORTEST = 8  # tokens of a sequence that can hold a question and its answer
LARGEST_RANK = 16  # of what is trained of a grafted decoder: 10 MB in fp16
SETTINGS = "training.json"  # in the folder of a training: the settings that it began with
CARD = "pocket_training.json"  # in a finished checkpoint
# Settings that may change from one start to the next, since they decide nothing about the weights
# so far: a training may be made longer. All others belong to the folder.
CHANGEABLE = ("steps", "save_every", "check_every", "device", "compile")


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


@dataclass(frozen=True)
class GraftConfig(TrainConfig):
    """The same for a real language model with the pocket world's eyes (`graft_phase`).

    Of its decoder low-rank changes are trained. Its sizes are those of the package's file.
    """

    model: str = GRAFTED
    steps: int = 4000
    batch: int = 6
    length: int = 224
    learning_rate: float = 1.5e-3
    vision_rate: float = 0.0  # the tower knows all that there is to see
    decay: float = 0.3
    save_every: int = 10
    rank: int = 12  # of the changes of the decoder's linears
    align_steps: int = 40  # first steps: captions, and only the projector learns
    caption_steps: int = 300  # then: captions alone, and the decoder learns, too
    text: str = ""  # file of plain text that the model keeps; empty: the shipped training text
    passages: int = 1  # of plain text in a step
    passage_length: int = 96  # tokens
    text_weight: float = 1.0  # of the divergence on plain text in the loss
    check_every: int = 100  # steps between two looks at held-out questions
    check_questions: int = 16  # of each benchmark
    device: str = "auto"  # cuda if there is one, cpu, cuda or cuda:N
    compile: bool = False  # torch.compile for the decoder's layers, which needs a C++ compiler

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("rank", self.rank, 1, LARGEST_RANK, f"in [1, {LARGEST_RANK}]")
        for name in ("align_steps", "caption_steps", "passages"):
            require_count(name, getattr(self, name), 0)
        require_count("passage_length", self.passage_length, 2)
        for name in ("check_every", "check_questions"):
            require_count(name, getattr(self, name), 1)
        require_between("text_weight", self.text_weight, 0, 1e6, "in [0, 1e6]")
        is_device = DEVICE.fullmatch(self.device) is not None
        require(is_device, "device", self.device, "auto, cpu, cuda or cuda:N")
        for name in ("layers", "vision_steps", "start"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not for {GRAFTED}, whose decoder and tower "
                    "are what they are: leave it out"
                )


def make_config(settings: dict[str, Any]) -> TrainConfig:
    """The config of what a command line gives.

    Raises:
        ConfigError: A setting is out of range, or another model's.
    """
    kind = GraftConfig if settings.get("model") == GRAFTED else TrainConfig
    foreign_settings = sorted(settings.keys() - {field.name for field in fields(kind)})
    if foreign_settings:
        raise ConfigError(f"{foreign_settings[0]} is only for --model {GRAFTED}: leave it out")
    return kind(**settings)


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
    if name == GRAFTED and not isinstance(config, GraftConfig):
        raise ConfigError(
            f"{GRAFTED} starts from no checkpoint: put a {TRAINED_FILE} in the folder, and give "
            f"--model {GRAFTED}"
        )
    return name


def _model_of(checkpoint: Path) -> str:
    """Which of the pocket models a checkpoint is."""
    settings = read_config(checkpoint)
    if not str(settings.get("model_type")).startswith("qwen"):
        is_grafted = text_settings(settings).get("hidden_size") != llava.WIDTH
        return GRAFTED if is_grafted else "pocket_llava"
    is_wide = text_settings(settings).get("hidden_size") == wide.WIDTH
    return "pocket_wide" if is_wide else "pocket_qwen"


def starts_trained(config: TrainConfig) -> bool:
    """Whether the language phase begins with weights that know the world."""
    return bool(config.start) or FAMILIES[_model_name(config)].IS_TRAINED


def resolved(config: TrainConfig) -> TrainConfig:
    """The config with what its empty settings mean.

    Raises:
        ConfigError: There is no such model or device.
    """
    if isinstance(config, GraftConfig):
        devices.require(config.device)
    vision_steps = config.vision_steps
    if vision_steps is None:
        vision_steps = 0 if starts_trained(config) else VISION_STEPS
    name = _model_name(config)
    layers = FAMILIES[name].LAYERS if config.layers is None else config.layers
    return replace(config, model=name, layers=layers, vision_steps=vision_steps)


def card(config: TrainConfig) -> dict[str, Any]:
    """The settings; of paths only the last name, which says nothing of a machine."""
    content = asdict(config)
    for setting in ("start", "text"):
        if setting in content:
            content[setting] = Path(content[setting]).name
    return content


def check_same_training(folder: Path, config: TrainConfig) -> None:
    """A ConfigError if `folder` holds a training that this config does not continue.

    Its weights would stay, and its card would say the new settings.
    """
    files = (folder / SETTINGS, folder / "checkpoint" / CARD)
    file = next((file for file in files if file.exists()), None)
    if file is None:
        return
    try:
        earlier_settings = read_table(file)
    except ValueError as error:
        raise StoreError(f"{file} is damaged ({error}): train in another folder") from error
    settings = card(config)
    for name in settings:
        # cards have the settings as they were given: some say nothing
        unsaid = earlier_settings.get(name) in (None, "")
        if name not in CHANGEABLE and not unsaid and earlier_settings[name] != settings[name]:
            raise ConfigError(
                f"{folder} holds a training with {name}={earlier_settings[name]}, and "
                f"{name}={settings[name]} is asked for: train in another folder, or continue with "
                f"{name}={earlier_settings[name]}"
            )
    if settings["steps"] < earlier_settings.get("steps", 0):
        raise ConfigError(
            f"{folder} holds a training with steps={earlier_settings['steps']}, and "
            f"steps={settings['steps']} is asked for: a training may be made longer, not shorter. "
            "Train in another folder"
        )
