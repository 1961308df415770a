"""Packed models as Hugging Face folders.

`folder` writes them, `hf` lets plain `from_pretrained` load them, `card` is their README, and
`compressed_tensors` a layout that other programs read, and `dequantized` plain 16-bit weights.
"""
