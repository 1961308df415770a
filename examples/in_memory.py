"""Pack a model that you already hold, and have it back in 16 bit: python examples/in_memory.py"""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import luq

# Any folder or hub id; here the small model that ships with LUQ.
folder = Path(luq.__file__).parent / "pocket" / "weights" / "pocket_llava"
own = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
processor = AutoProcessor.from_pretrained(folder)

model = luq.load(own, processor)  # nothing is loaded again
packed = luq.quantize(model, "rtn4")  # round to nearest needs no calibration

linear = "model.language_model.layers.0.mlp.up_proj"
print("packed:  ", packed.model.get_submodule(linear))
packed.save_pretrained("packed-rtn4")

print("restored:", packed.restore().get_submodule(linear))
assert packed.restore() is own

reloaded = AutoModelForImageTextToText.from_pretrained("packed-rtn4")
print("reloaded:", reloaded.get_submodule(linear))
