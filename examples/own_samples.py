"""Calibrate on samples of your own: python examples/own_samples.py"""

import json
from pathlib import Path

from PIL import Image

import luq

COLOURS = ["red", "green", "blue", "yellow", "black", "white", "gray", "orange"]

# As a list: an image is a path, the bytes of a file, or a PIL image. A sample may have several
# images, or none.
samples = []
for colour in COLOURS:
    samples.append({"image": Image.new("RGB", (64, 64), colour), "text": "What colour is this?"})
red_and_blue = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")]
samples.append({"images": red_and_blue, "text": "Which of the two is blue?"})
samples.append({"text": "Plain text counts as text: here are some words without any image."})

model = luq.load("pocket:pocket_llava")
profile = luq.profile(model, samples, tokens=128, seeds=1)
summary = profile.calibration
print(f"{summary.tokens} tokens, {100 * summary.alpha:.0f} % of them in samples with images")

# As JSON lines: paths are relative to the file. `luq run calibration.source=samples.jsonl` reads
# the same file.
lines = []
for colour in COLOURS:
    Image.new("RGB", (64, 64), colour).save(f"{colour}.png")
    lines.append(json.dumps({"image": f"{colour}.png", "text": "What colour is this?"}))
Path("samples.jsonl").write_text("\n".join(lines), encoding="utf-8")

packed = luq.quantize(model, "gptq4", "samples.jsonl")
print(f"{packed.memory().stored_bits:.2f} stored bits per weight")
