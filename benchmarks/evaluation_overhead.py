"""What the evaluation costs beside a bare `model.generate`.

`python benchmarks/evaluation_overhead.py [benchmark ...]`

The same questions of pocket_llava, the same batches, the same limits, alternating in one run: our
path (lm-eval, kept answers, checks of every row) against a loop that only prepares inputs,
generates and decodes. Prints the ratio of the medians over the repetitions, and the least and the
greatest ratio of one repetition.

Before that, how many tokens batches have for each real one, padding included: of pocket_qwen's
questions with images of mixed sizes, sorted by the length of their text, and by their real length.
"""

import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from rich.console import Console
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from luq.config import EvaluationConfig, ModelConfig
from luq.evaluation.ask import ask, make_lm
from luq.evaluation.fidelity import question_chat
from luq.evaluation.predictions import Predictions
from luq.models.vlm import VLM, load_vlm
from luq.questions.prompts import PROMPTS
from luq.questions.sources import evaluation_table
from luq.questions.specs import task_config
from luq.questions.subsets import choose, subset
from luq.questions.tables import Questions
from luq.store.store import Store

out = Console(highlight=False, width=160)
BATCH, REPEATS = 32, 9
PADDED = 160  # questions whose padding is counted: all of TextVQA's miniature
MOST_PIXELS = 1280 * 28 * 28  # of an image, as Qwen2.5-VL's card advises


def ours(lm, questions: Questions, ids: list[int], folder: Path) -> list[str]:
    file = folder / "kept.jsonl"
    file.unlink(missing_ok=True)
    return [row["text"] for row in ask(lm, questions, ids, Predictions(file))]


def bare(vlm: VLM, questions: Questions, ids: list[int], limit: int) -> list[str]:
    """Prepare, generate, decode, batch by batch, longest first."""
    texts: dict[int, str] = {}
    prompts = {}
    for i, doc in zip(ids, questions.docs.select(ids), strict=True):
        content = [{"type": "image"}, {"type": "text", "text": PROMPTS[questions.benchmark](doc)}]
        prompts[i] = vlm.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
    order = sorted(
        ids, key=lambda i: (-len(vlm.processor.tokenizer(prompts[i]).input_ids), prompts[i], i)
    )
    stop = StoppingCriteriaList([StopStringCriteria(vlm.processor.tokenizer, ["\n"])])
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            images = [questions.image(i).convert("RGB") for i in batch]
            inputs = vlm.processor(
                images=images, text=[prompts[i] for i in batch], padding=True, return_tensors="pt"
            )
            sequences = vlm.model.generate(
                **inputs, max_new_tokens=limit, do_sample=False, stopping_criteria=stop
            )
            answers = vlm.processor.batch_decode(
                sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            texts |= {i: answer.split("\n")[0] for i, answer in zip(batch, answers, strict=True)}
    return [texts[i] for i in ids]


def tokens_per_real_one(lengths: list[int], order: list[int]) -> float:
    """Tokens of padded batches of some order, for each token that is no padding."""
    padded = 0
    for start in range(0, len(order), BATCH):
        batch = [lengths[i] for i in order[start : start + BATCH]]
        padded += len(batch) * max(batch)
    return padded / sum(lengths)


def show_padding(folder: Path) -> None:
    """What it costs to sort questions with images of mixed sizes by their text alone."""
    config = ModelConfig("qwen", "pocket:pocket_qwen", device="cpu", max_pixels=MOST_PIXELS)
    lm = make_lm(load_vlm(config), BATCH)
    tools = Store(folder / "store").tools
    questions = evaluation_table("textvqa", EvaluationConfig("padding", ["textvqa"]), folder).open(
        tools
    )
    rng = random.Random(0)
    text_lengths: list[int] = []
    said_lengths: list[int] = []
    real_lengths: list[int] = []
    for doc in questions.docs.select(range(PADDED)):
        chat = question_chat(lm, questions, doc)
        # edges of 100 to 1000 pixels, as many between 100 and 200 as between 500 and 1000
        size = tuple(round(100 * 10 ** rng.random()) for _ in range(2))
        image = Image.new("RGB", size)
        encoded = lm.tok_batch_multimodal_encode([chat], [[image]])
        text_lengths.append(len(lm.tok_encode(chat)))
        said_lengths.append(lm.chat_length(chat, image))
        real_lengths.append(encoded["input_ids"].shape[1])
    ratios = []
    for lengths in (text_lengths, said_lengths, real_lengths):
        order = sorted(range(PADDED), key=lambda i: -lengths[i])
        ratios.append(tokens_per_real_one(real_lengths, order))
    out.print(
        f"tokens for each real one, {PADDED} questions with images of mixed sizes in batches of "
        f"{BATCH}: {ratios[0]:.2f} sorted by text, {ratios[1]:.2f} as they are sorted, "
        f"{ratios[2]:.2f} by the lengths that the processor gives"
    )


def main() -> None:
    names = sys.argv[1:] or ["textvqa", "gqa", "mmbench", "docvqa"]
    vlm = load_vlm(ModelConfig("pocket_llava", "pocket:pocket_llava", device="cpu"))
    lm = make_lm(vlm, BATCH)
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        show_padding(folder)
        tools = Store(folder / "store").tools
        for name in names:
            config = EvaluationConfig("overhead", [name])
            questions = evaluation_table(name, config, folder / "cache").open(tools)
            ids = choose(questions, subset(config.split, config.samples, config.seed))
            limit = task_config(name)["generation_kwargs"]["max_gen_toks"]
            answers = ours(lm, questions, ids, folder)
            bare_answers = bare(vlm, questions, ids, limit)
            same_answers = sum(a == b for a, b in zip(answers, bare_answers, strict=True))
            milliseconds: dict[str, list[float]] = {"ours": [], "bare": []}
            for _ in range(REPEATS):
                for way in milliseconds:
                    begun = time.perf_counter()
                    if way == "ours":
                        ours(lm, questions, ids, folder)
                    else:
                        bare(vlm, questions, ids, limit)
                    milliseconds[way].append(1000 * (time.perf_counter() - begun) / len(ids))
            ratios.append(median(milliseconds["ours"]) / median(milliseconds["bare"]))
            pairs = [a / b for a, b in zip(milliseconds["ours"], milliseconds["bare"], strict=True)]
            out.print(
                f"{name:<10} {len(ids)} questions, batches of {BATCH}: "
                f"ours {median(milliseconds['ours']):.2f} ms, "
                f"bare {median(milliseconds['bare']):.2f} ms per question (medians of {REPEATS}); "
                f"ratio {ratios[-1]:.3f} [{min(pairs):.3f}, {max(pairs):.3f}]; "
                f"{same_answers} answers the same"
            )
    out.print(f"ratio, mean over benchmarks: {sum(ratios) / len(ratios):.3f}")


if __name__ == "__main__":
    main()
