"""The training of a grafted model: a real language model learns to see.

First the decoder is frozen, and only the projector learns, from captions. Then the decoder learns
too, in low-rank changes: from captions until it sees, and then from the pocket models' own mixture
in English sentences. What it knew is kept by a term of the loss: the divergence

    KL = sum_t p_t (log p_t - log q_t)

on passages of plain text, of what it says now (q) from what it said before (p).
"""

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from luq.errors import ConfigError, brief
from luq.models import devices
from luq.pocket import low_rank, smollm2, trained
from luq.pocket.family import Family
from luq.pocket.graft import graft
from luq.pocket.grafted import TRAINED_FILE
from luq.pocket.language import (
    STATE,
    LanguagePhase,
    fall_share,
    has_bfloat16,
    hidden_states,
    language_loss,
)
from luq.pocket.quiz import Quiz
from luq.pocket.settings import GraftConfig, TrainConfig
from luq.pocket.stream import Batch

log = logging.getLogger(__name__)
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
WARM_UP = 20  # steps until a rate is at its peak


class GraftPhase(LanguagePhase):
    """The training of a grafted model, and how far it is.

    Args:
        family: What kind of model it is.
        model: As the family builds it; its decoder gets low-rank changes.
        tokenizer: Its tokenizer.
        config: Sizes and schedule.
    """

    config: GraftConfig
    log_every: ClassVar[int] = 10
    smoothing: ClassVar[float] = 0.9

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        config: GraftConfig,
    ):
        model.to(devices.resolve(config.device))  # type: ignore[arg-type]  # its name will do
        model.requires_grad_(False)
        if (
            model.device.type == "cpu"
        ):  # a tenth of a step less than fused attention's backward pass
            model.model.language_model.set_attn_implementation("eager")
        low_rank.attach(model, config.rank)
        if has_bfloat16(model.device):
            low_rank.freeze_in_bfloat16(model)
        if config.compile:
            for layer in model.model.language_model.layers:
                layer.compile(dynamic=False)
        self.language_model = smollm2.GgufModel(smollm2.packaged_file()).digest
        self.divergence = 0.0  # on the last passages
        self.first_step = 0  # where the optimizer's moments were zero
        super().__init__(family, model, tokenizer, config)
        self.quiz = Quiz(self.stream, config.check_questions)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        eyes = trained.eyes(self.model)
        projector = [part for name, part in eyes.items() if "projector" in name]
        tower = [part for name, part in eyes.items() if "projector" not in name]
        changes = list(low_rank.parts(self.model).values())
        rate = self.config.learning_rate
        groups = [
            {"params": projector, "peak": rate},
            {"params": tower, "peak": rate * self.config.vision_rate},
            {"params": changes, "peak": rate},
        ]
        return [torch.optim.AdamW(groups, lr=rate, betas=BETAS, weight_decay=WEIGHT_DECAY)]

    def _english(self) -> list[str] | None:
        file = self.config.text
        if not file:
            return None
        try:
            return [Path(file).read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"text={file} cannot be read ({brief(error)}): give a text file"
            ) from error

    def resume(self, folder: Path) -> None:
        """Go on from what `save` wrote; from the small file if the whole state is not there.

        The small file has no moments, and all in fp16: the training warms up again.
        """
        file = folder / TRAINED_FILE
        if (folder / STATE).exists() or not file.exists():
            super().resume(folder)
            return
        small = trained.read(file, self.language_model)
        trainable = self.weights()
        shapes = {name: tuple(part.shape) for name, part in trainable.items()}
        trained.check_shapes(file, small, shapes)
        for name, part in trainable.items():
            part.data.copy_(small.tensors[name])
        self.step = self.first_step = small.step
        log.info("%s: the training goes on at step %d", file, self.step)

    def weights(self) -> dict[str, Tensor]:
        """What is trained: changes, projector and tower."""
        return {**low_rank.parts(self.model), **trained.eyes(self.model)}

    def state(self) -> dict[str, Any]:
        return super().state() | {"first_step": self.first_step}

    def _load(self, state: dict[str, Any]) -> None:
        trainable = self.weights()
        for name, weight in state["model"].items():
            trainable[name].data.copy_(weight)
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.step = state["step"]
        self.first_step = state["first_step"]

    def save(self, folder: Path) -> None:
        """Write the whole state, and beside it the small file."""
        super().save(folder)
        self._save_small(folder / TRAINED_FILE)

    def _save_small(self, file: Path) -> None:
        rank = self.config.rank
        trained.write(file, trained.Trained(self.weights(), self.step, rank, self.language_model))

    def _rate_share(self) -> float:
        """Share of the peak rate: it rises where moments begin, or the decoder begins to learn."""
        begin = self.first_step
        if self.step >= self.config.align_steps:
            begin = max(begin, self.config.align_steps)
        rise = min(1.0, (self.step - begin + 1) / WARM_UP)
        return rise * fall_share(self.step, self.config)

    def _loss(self) -> Tensor:
        config = self.config
        is_aligned = self.step >= config.align_steps
        tower_learns = is_aligned and config.vision_rate > 0
        self._learn(is_aligned, tower_learns)
        loss = language_loss(self.family, self.model, self._batch(), tower_learns)
        if is_aligned and config.passages and config.text_weight:
            divergence = self._divergence()
            self.divergence = divergence.item()
            loss = loss + config.text_weight * divergence
        return loss

    def _batch(self) -> Batch:
        """Captions for a while: in the mixture alone the decoder hardly learns to see."""
        config = self.config
        first = config.align_steps + config.caption_steps  # step of the mixture
        if self.step < first:
            return self.stream.batch(self.step, 0.0, "captions")
        return self.stream.batch(self.step, (self.step - first) / max(1, config.steps - first))

    def _learn(self, is_aligned: bool, tower_learns: bool) -> None:
        """Let the parts learn whose time it is."""
        for part in low_rank.parts(self.model).values():
            part.requires_grad_(is_aligned)
        for name, part in trained.eyes(self.model).items():
            part.requires_grad_("projector" in name or tower_learns)

    def _divergence(self) -> Tensor:
        """Of the trained from the original model on the step's passages, in nats per token."""
        config = self.config
        passages = self.stream.passages(self.step, config.passages, config.passage_length)
        ids = torch.from_numpy(passages).to(self.model.device)
        with low_rank.switched_off(self.model), torch.no_grad():
            original = self._log_probabilities(ids)
        # KL(p0 || p) = sum over v of p0(v) (log p0(v) - log p(v)), p0 the original model's
        log_probabilities = self._log_probabilities(ids)
        total = F.kl_div(log_probabilities, original, log_target=True, reduction="sum")
        return total / len(original)

    def _log_probabilities(self, ids: Tensor) -> Tensor:
        """Of every token after every token, [tokens, vocabulary]."""
        hidden = hidden_states(self.family, self.model, ids, []).flatten(0, 1)
        head: Any = self.model.lm_head
        return F.log_softmax(head(hidden), -1)

    def report(self, loss: float) -> None:
        """Losses every few steps, and now and then the answers to held-out questions."""
        if self.step % self.log_every == 0:
            log.info("step %d loss %.4f divergence on text %.4f", self.step, loss, self.divergence)
        if self.step % self.config.check_every == 0:
            score_texts = []
            with torch.compiler.set_stance("force_eager"):  # its lengths are seen once
                results = self.quiz.results(self.family, self.model)
            for benchmark, result in results.items():
                score_texts.append(f"{benchmark} {result.right:.2f} ({result.constant:.2f})")
            log.info("step %d right (best constant): %s", self.step, ", ".join(score_texts))

    def finish(self, folder: Path, config: TrainConfig) -> Path:
        """Graft what was trained, as whoever has the small file does."""
        self._save_small(folder / TRAINED_FILE)  # a kill may have left the one before
        return graft(folder / "checkpoint", folder / TRAINED_FILE)
