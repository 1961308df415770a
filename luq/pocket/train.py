"""Train `pocket_llava`: a small LlavaForConditionalGeneration that has really learned its world.

Two phases, as real VLMs are made. *Vision*: the CLIP tower learns to name what each patch holds, and
then goes on at a lower rate. *Language*: the decoder and the projector learn, in one mixture, to caption, to answer the nine
benchmarks' questions, facts by heart, arithmetic and real English. Every batch is a function of
(seed, step), and the state is saved as it goes, so training continues where it stopped.
"""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from luq.evaluation.prompts import PROMPTS, SHORT, TARGETS
from luq.pocket import questions, text
from luq.pocket.benchmarks import ROWS, Row
from luq.pocket.tokenizer import make_processor, train_tokenizer
from luq.pocket.world import CELL, GRID, LABELS, SIZE, Scene, make_scene

log = logging.getLogger(__name__)
IMAGE_TOKENS = GRID * GRID
CAPTIONS = ((0.0, 0.25, 0.6), (0.65, 0.65, 0.08))  # progress -> share of pictures that are first described
ENGLISH_WEIGHT = 0.3  # of a token of a passage, against 1 for a token of an answer


@dataclass(frozen=True)
class TrainConfig:
    """Sizes and schedule; the defaults made the weights that ship with the project."""

    hidden: int = 128
    intermediate: int = 384
    layers: int = 10
    heads: int = 4
    vision_layers: int = 4
    vision_steps: int = 1500
    steps: int = 9000
    batch: int = 24
    length: int = 192
    learning_rate: float = 1e-3
    vision_rate: float = 0.3  # the tower's learning rate in the language phase, as a share of the others'
    decay: float = 0.3  # last share of the steps, in which the learning rate falls to zero
    seed: int = 0
    save_every: int = 250


def build_model(config: TrainConfig, vocabulary: int, image_token: int) -> LlavaForConditionalGeneration:
    """A LLaVA of pocket size with random weights, in fp32."""
    torch.manual_seed(config.seed)
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=config.vision_layers, num_attention_heads=4,
        image_size=SIZE, patch_size=CELL, projection_dim=128,
    )  # fmt: skip
    language = LlamaConfig(
        hidden_size=config.hidden, intermediate_size=config.intermediate, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads, vocab_size=vocabulary,
        max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    full = LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=image_token, image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=False,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(full)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    model.generation_config.bos_token_id = 1
    return model


def to_pixels(scenes: list[Scene]) -> Tensor:
    """Scenes -> [n, 3, 72, 72] in [-1, 1], exactly as the processor makes them."""
    stack = np.stack([s.pixels for s in scenes]).transpose(0, 3, 1, 2)
    return torch.from_numpy(stack).float() / 127.5 - 1


def vision_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Patch features [n, 36, width] of the layer that LLaVA reads."""
    return model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def train_vision(model: LlavaForConditionalGeneration, config: TrainConfig, progress: Progress) -> dict[str, float]:
    """Teach the tower to name shape, colour, digit, print and bar height in each patch; returns held-out accuracy."""
    heads = nn.ModuleDict({name: nn.Linear(128, n) for name, n in LABELS.items()})
    parameters = [*model.model.vision_tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=config.vision_steps + 1, pct_start=0.1)
    kinds = ("objects", "sign", "sign", "digits", "digits", "digits", "chart", "document", "code")
    task = progress.add_task("vision", total=config.vision_steps)

    def batch(step: int, split: str) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng([config.seed, 1, step])
        scenes = [make_scene(rng, kinds[int(rng.integers(len(kinds)))], split) for _ in range(64)]
        return to_pixels(scenes), {n: torch.from_numpy(np.stack([s.labels[n] for s in scenes])) for n in LABELS}

    for step in range(config.vision_steps):
        pixels, labels = batch(step, "train")
        features = vision_features(model, pixels)
        loss = torch.zeros(())
        for name, head in heads.items():
            seen = (labels[name] > 0) | (torch.rand(labels[name].shape) < 0.1)
            loss = loss + F.cross_entropy(head(features[seen]), labels[name][seen])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.update(task, advance=1, description=f"vision loss {loss.item():.3f}")
    with torch.no_grad():
        pixels, labels = batch(10**6, "test")
        features = vision_features(model, pixels)
        return {
            n: (h(features).argmax(-1) == labels[n])[labels[n] > 0].float().mean().item() for n, h in heads.items()
        }


class Stream:
    """Endless training sequences, each a function of (seed, step, index)."""

    def __init__(self, config: TrainConfig, tokenizer):
        self.config, self.tokenizer = config, tokenizer
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        joined = [t + [tokenizer.eos_token_id] for t in tokenizer(text.split("train")).input_ids]
        self.english = np.concatenate([np.asarray(t, np.int64) for t in joined])
        self.by_kind: dict[str, list[tuple[str, int]]] = {}

    def _turns(self, rng: np.random.Generator, progress: float) -> tuple[Scene | None, list[tuple[str, str]]]:
        if rng.random() < 0.17:
            turns = []
            for _ in range(14):
                q = questions.text_question(rng)
                kind = rng.random()
                if kind < 0.8 or not q.distractors:
                    turns.append((q.text + SHORT, q.answer))
                else:
                    yes = rng.random() < 0.5
                    turns.append((q.claim.format(q.answer if yes else q.distractors[0]) + SHORT, "Yes" if yes else "No"))
            return None, turns
        scene, turns = scene_turns(rng)
        if rng.random() < float(np.interp(progress, *CAPTIONS)):
            turns.insert(0, ("Describe the image.", questions.caption(scene)))
        return scene, turns

    def sequence(self, step: int, index: int, progress: float) -> tuple[Scene | None, np.ndarray, np.ndarray]:
        """Scene (or None), token ids [length] and how much each token counts in the loss."""
        rng = np.random.default_rng([self.config.seed, 2, step, index])
        length = self.config.length
        if rng.random() < 0.12:
            start = int(rng.integers(len(self.english) - length))
            ids = self.english[start : start + length]
            return None, ids, np.full(length, ENGLISH_WEIGHT, np.float32)
        scene, turns = self._turns(rng, progress)
        pieces, learned = [[self.tokenizer.bos_token_id]], [False]
        for i, (question, answer) in enumerate(turns):
            image = "<image>\n" if i == 0 and scene is not None else ""
            ask, reply = self._encode(f"USER: {image}{question} ASSISTANT:"), self._encode(f" {answer}</s>")
            if image:
                at = ask.index(self.image)
                ask = ask[:at] + [self.image] * IMAGE_TOKENS + ask[at + 1 :]
            pieces += [ask, reply]
            learned += [False, True]
        ids = np.concatenate([np.asarray(p, np.int64) for p in pieces])[:length]
        weights = [np.full(len(p), flag, np.float32) for p, flag in zip(pieces, learned, strict=True)]
        weight = np.concatenate(weights)[:length]
        pad = length - len(ids)
        return scene, np.pad(ids, (0, pad)), np.pad(weight, (0, pad))

    def _encode(self, piece: str) -> list[int]:
        return self.tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False).ids

    def batch(self, step: int, progress: float) -> tuple[Tensor | None, Tensor, Tensor]:
        rows = [self.sequence(step, i, progress) for i in range(self.config.batch)]
        scenes = [scene for scene, _, _ in rows if scene is not None]
        ids, weight = (torch.from_numpy(np.stack([r[i] for r in rows])) for i in (1, 2))
        return (to_pixels(scenes) if scenes else None), ids, weight


_KIND_SHARE = {"objects": 0.24, "sign": 0.26, "digits": 0.1, "chart": 0.16, "document": 0.14, "emblem": 0.03, "code": 0.07}


def scene_turns(rng: np.random.Generator, n: int = 9) -> tuple[Scene, list[tuple[str, str]]]:
    """One train scene and `n` questions about it, in the words of the benchmarks that could ask them."""
    kind = str(rng.choice(list(_KIND_SHARE), p=list(_KIND_SHARE.values())))
    scene = make_scene(rng, kind)
    skills = [*questions.SKILLS[kind], questions.scene_type] if rng.random() < 0.1 else questions.SKILLS[kind]
    turns: list[tuple[str, str]] = []
    for _ in range(4 * n):
        q = skills[int(rng.integers(len(skills)))](rng, scene)
        if q is not None:
            turns.append(_phrase(rng, kind, q))
        if len(turns) == n:
            break
    return scene, turns


def _phrase(rng: np.random.Generator, kind: str, q: questions.Question) -> tuple[str, str]:
    """One question as an open, a yes/no or a multiple-choice prompt, through the benchmarks' own prompts."""
    form, doc = rng.random(), {"question": q.text, "answer": q.answer}
    if form < 0.25 and q.distractors:
        yes = rng.random() < 0.5
        doc = {"question": q.claim.format(q.answer if yes else q.distractors[0]), "answer": "Yes" if yes else "No"}
        return PROMPTS["mme"](doc), doc["answer"]
    if form < 0.45 and len(q.distractors) >= 2:
        options = [q.answer, *q.distractors[:3]]
        options = [options[int(j)] for j in rng.permutation(len(options))]
        if kind in ("digits", "chart", "code") and rng.random() < 0.5:
            doc |= {"question_type": "multi_choice", "choices": options}
            return PROMPTS["mathvista"](doc), TARGETS["mathvista"](doc)
        doc |= dict(zip("ABCD", options, strict=False)) | {"answer": "ABCD"[options.index(q.answer)]}
        return PROMPTS["mmbench"](doc), doc["answer"]
    if kind in ("digits", "chart", "code") and q.answer.lstrip("-").isdigit() and rng.random() < 0.6:
        doc |= {"question_type": "free_form", "answer_type": "integer", "choices": None}
        return PROMPTS["mathvista"](doc), q.answer
    name = {"chart": "chartqa", "sign": "textvqa", "document": "docvqa"}.get(kind, "gqa")
    return PROMPTS["gqa" if name == "textvqa" and rng.random() < 0.5 else name](doc), q.answer


def language_loss(model: LlavaForConditionalGeneration, pixels: Tensor | None, ids: Tensor, weight: Tensor) -> Tensor:
    """Weighted next-token cross-entropy; ids and weight are [batch, length]."""
    embeds = model.get_input_embeddings()(ids)
    if pixels is not None:
        projected = model.model.multi_modal_projector(vision_features(model, pixels))
        places = (ids == model.config.image_token_index).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(places, projected.to(embeds.dtype))
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, :-1]
    wanted = weight[:, 1:] > 0
    losses = F.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="none")
    counts = weight[:, 1:][wanted]
    return (losses * counts).sum() / counts.sum()


def _rate(step: int, config: TrainConfig) -> float:
    """Warm-up, a constant stretch, then a fall to zero over the last `decay` of the steps."""
    start = config.steps * (1 - config.decay)
    fall = 1.0 if step < start else max(0.02, (config.steps - step) / (config.steps - start))
    return config.learning_rate * min(1.0, (step + 1) / 200) * fall


def _save(path: Path, state: dict) -> None:
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    os.replace(scratch, path)


def train(folder: Path, config: TrainConfig, progress: Progress) -> Path:
    """Run or continue the training in `folder`; returns the folder of the finished 16-bit checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    model = build_model(config, len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    vision_file, state_file = folder / "vision.pt", folder / "state.pt"
    if not vision_file.exists():
        accuracy = train_vision(model, config, progress)
        log.info("vision tower, held-out accuracy: %s", {k: round(v, 3) for k, v in accuracy.items()})
        _save(vision_file, model.model.vision_tower.state_dict())
    model.model.vision_tower.load_state_dict(torch.load(vision_file, weights_only=True))
    tower = list(model.model.vision_tower.parameters())
    others = [p for n, p in model.named_parameters() if "vision_tower" not in n]
    groups = [{"params": others, "share": 1.0}, {"params": tower, "share": config.vision_rate}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    start = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    stream = Stream(config, tokenizer)
    for step, loss in _steps(model, optimizer, stream, config, start, progress):
        if step % 50 == 0:
            log.info("step %d loss %.4f", step, loss)
        if step % config.save_every == 0 or step == config.steps:
            _save(state_file, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
    return export(model, tokenizer, folder / "checkpoint", config)


def _steps(
    model: LlavaForConditionalGeneration, optimizer, stream: Stream, config: TrainConfig, start: int, progress: Progress
) -> Iterator[tuple[int, float]]:
    task = progress.add_task("language", total=config.steps, completed=start)
    smooth = math.nan
    for step in range(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, config) * group["share"]
        loss = language_loss(model, *stream.batch(step, step / config.steps))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        progress.update(task, advance=1, description=f"language loss {smooth:.3f}")
        yield step + 1, smooth


def export(model: LlavaForConditionalGeneration, tokenizer, folder: Path, config: TrainConfig) -> Path:
    """Write a Hugging Face folder in fp16 that AutoModelForImageTextToText and AutoProcessor load."""
    import json

    model.half().save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    (folder / "pocket_training.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    return folder
