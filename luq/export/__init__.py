"""Packed models as Hugging Face folders: written by `save`, loaded by plain `from_pretrained` through `hf`."""
