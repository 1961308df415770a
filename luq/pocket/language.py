"""The language phase of a training: all of a model learns to describe, to answer and to read."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from luq.pocket.drawing import Scene
from luq.pocket.family import Family
from luq.pocket.saving import export, save_state, saved_state
from luq.pocket.settings import CARD, TrainConfig, card, starts_trained
from luq.pocket.stream import Batch, Stream

log = logging.getLogger(__name__)
WARM_UP = 200  # steps until the learning rate is at its peak
SHORT_WARM_UP = 50  # the same for trained weights
LOWEST_RATE = 0.02  # share of the peak rate that the last steps still have
STATE = "state.pt"  # in the folder of a training


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; without it that is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any("bf16" in name and bool(has) for name, has in capabilities.items())


def hidden_states(
    family: Family, model: Any, ids: Tensor, scenes: list[Scene], tower_learns: bool = True
) -> Tensor:
    """What the decoder makes of tokens and pictures, [batch, length, hidden] in fp32.

    Args:
        family: What kind of model it is.
        model: The model.
        ids: Tokens [batch, length], those of pictures among them.
        scenes: What the image tokens show, in order.
        tower_learns: Whether the tower gets a gradient.
    """
    embeds = model.get_input_embeddings()(ids)
    if scenes:
        with torch.set_grad_enabled(tower_learns and torch.is_grad_enabled()):
            features = family.features(model, scenes)
        cells = family.project(model, features).to(embeds.dtype)
        is_image = (ids == model.config.image_token_id).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(is_image, cells)
    positions = family.positions(model, ids, len(scenes))
    # bfloat16 only here, where shapes never change: every new shape is compiled anew.
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=has_bfloat16(ids.device)):
        output = model.model.language_model(
            inputs_embeds=embeds, position_ids=positions, use_cache=False
        )
    hidden: Tensor = output.last_hidden_state.float()
    return hidden


def language_loss(family: Family, model: Any, batch: Batch, tower_learns: bool = True) -> Tensor:
    """Weighted next-token cross-entropy; the vision tower gets a gradient if it learns."""
    ids = torch.from_numpy(batch.ids).to(model.device)
    weight = torch.from_numpy(batch.weight).to(model.device)
    hidden = hidden_states(family, model, ids, batch.scenes, tower_learns)[:, :-1]
    next_ids = ids[:, 1:]
    next_weight = weight[:, 1:]
    learned = next_weight > 0  # the head computes no logits of what is not learned
    logits = model.lm_head(hidden[learned])
    losses = F.cross_entropy(logits, next_ids[learned], reduction="none")
    # sum over t of w_t * -log p(x_t | before t), over the sum of w_t
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
    warm_up = SHORT_WARM_UP if starts_trained(config) else WARM_UP
    return min(1.0, (step + 1) / warm_up) * fall_share(step, config)


def fall_share(step: int, config: TrainConfig) -> float:
    """1 until the learning rate falls, and what is left of it then."""
    start_of_fall = config.steps * (1 - config.decay)
    if step < start_of_fall:
        return 1.0
    return max(LOWEST_RATE, (config.steps - step) / (config.steps - start_of_fall))


class LanguagePhase:
    """The training of all of a model, and how far it is.

    Args:
        family: What kind of model it is.
        model: The model; it is trained in place.
        tokenizer: Its tokenizer.
        config: Sizes and schedule.
    """

    log_every: ClassVar[int] = 50
    smoothing: ClassVar[float] = 0.98  # weight of the steps before in the loss that is shown

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        config: TrainConfig,
    ):
        self.family = family
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.step = 0
        self.optimizers = self._optimizers()
        self.stream = Stream(
            tokenizer,
            family.CHAT,
            config.batch,
            config.length,
            config.seed,
            config.lessons,
            family.MIXTURE,
            self._english(),
        )

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return make_optimizers(self.family, self.model, self.config)

    def _english(self) -> list[str] | None:
        """The passages of real text; None: the shipped training text."""
        return None

    def resume(self, folder: Path) -> None:
        """Go on from what `save` wrote, if it did."""
        file = folder / STATE
        if file.exists():
            self._load(saved_state(file))

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.step = state["step"]

    def state(self) -> dict[str, Any]:
        """All that decides how the training goes on."""
        optimizer_states = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.weights(), "optimizers": optimizer_states, "step": self.step}

    def weights(self) -> dict[str, Tensor]:
        """What is trained."""
        weights: dict[str, Tensor] = self.model.state_dict()
        return weights

    def save(self, folder: Path) -> None:
        """Write what `resume` reads."""
        save_state(folder / STATE, self.state())

    def report(self, loss: float) -> None:
        """Say from time to time how it goes."""
        if self.step % self.log_every == 0:
            log.info("step %d loss %.4f", self.step, loss)

    def finish(self, folder: Path, config: TrainConfig) -> Path:
        """Write the checkpoint with the settings as they were given; the model is at its end."""
        processor = self.family.make_processor(self.tokenizer)
        return export(self.model, processor, folder / "checkpoint", {CARD: card(config)})

    def run(self, progress: Progress) -> Iterator[float]:
        """Train up to the last step; yields the smoothed loss after every step."""
        task = progress.add_task("language", total=self.config.steps, completed=self.step)
        smooth_loss = math.nan
        while self.step < self.config.steps:
            loss = self._train_step()
            if math.isnan(smooth_loss):
                smooth_loss = loss
            else:
                smooth_loss += (1 - self.smoothing) * (loss - smooth_loss)
            self.step += 1
            progress.update(task, advance=1, description=f"language loss {smooth_loss:.3f}")
            yield smooth_loss

    def _train_step(self) -> float:
        share = self._rate_share()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak"]
        loss = self._loss()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _rate_share(self) -> float:
        return rate_share(self.step, self.config)

    def _loss(self) -> Tensor:
        progress = self.step / self.config.steps
        if starts_trained(self.config):
            # Trained weights get the second half of the mixture, not the captions of the first.
            progress = 0.5 + progress / 2
        batch = self.stream.batch(self.step, progress)
        tower_learns = self.config.vision_rate > 0
        return language_loss(self.family, self.model, batch, tower_learns)
