"""Packed models as GGUF files, for llama.cpp.

`forms` says which GGUF type holds a packed weight exactly, `language` and `vision` what the two
files hold and how llama.cpp calls it, `vocabulary` the tokenizer, and `folder` writes them.
"""
