"""GGUF files of packed models."""
