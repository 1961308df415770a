"""Pack a vision-language model and save it: python examples/quantize.py [MODEL [FOLDER]]

MODEL is a folder or a hub id; without one it is the small model that ships with LUQ.
"""

import sys

import luq

path = sys.argv[1] if len(sys.argv) > 1 else "pocket:pocket_llava"
folder = sys.argv[2] if len(sys.argv) > 2 else "packed"

# What the model sees while it is measured and packed: half of the tokens from questions about
# images, half from plain text. For real models take source="hub" and text="wikitext".
calibration = luq.CalibrationConfig("mixed", alpha=0.5, tokens=1024, source="pocket", text="pocket")

model = luq.load(path)
profile = luq.profile(model, calibration, tokens=128, seeds=1)
plan = luq.plan(profile, k=model.layers // 2, low="gptq2", high="gptq4")
packed = luq.quantize(model, plan, calibration)
packed.save_pretrained(folder)

memory = packed.memory()
print("layer:tier", plan)
print(f"{memory.stored_bits:.2f} stored bits per weight, {memory.checkpoint_bytes:,} bytes in all")
print(f"from transformers, after import luq: from_pretrained({folder!r})")
