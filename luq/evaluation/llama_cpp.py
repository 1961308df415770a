"""A model in llama.cpp, and its lm-eval model: what runs on laptops answers the same questions.

`llama-cpp-python`, which is optional, brings llama.cpp's libraries: libllama, and libmtmd, which
sees images. Its own classes hide prompts and probabilities, so the libraries are called as they
are.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from numpy.typing import NDArray
from PIL import Image

from luq.errors import DataError, ModelError
from luq.evaluation.lm import StoredAnswers, UnaskableError
from luq.evaluation.predictions import IMAGE, TOP_FIRST, AnswerRow, PromptRow
from luq.models.asking import PLACEHOLDER, spelled_apart

EXTRA = "pip install 'luq[gguf]' (it compiles llama.cpp, which takes some minutes)"
# What the templates of LLaVA and of Qwen2.5-VL write for an image, where libmtmd has its marker.
IMAGE_TEXTS = ("<|vision_start|><|image_pad|><|vision_end|>", PLACEHOLDER)
TEXT_CHUNK = 0  # libmtmd's kind of a part of a prompt that is no image
ROOM = 1024  # tokens by which a context grows
LONGEST_PIECE = 64  # bytes of a token's text, mostly
ERROR_LEVEL = 4  # of a line that llama.cpp logs
Logs = NDArray[np.float64]


class Libraries(NamedTuple):
    """The modules that call libllama and libmtmd, and their version."""

    llama: Any
    mtmd: Any
    version: str


def libraries() -> Libraries:
    """The optional package's.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import llama_cpp
        from llama_cpp import llama_cpp as llama
        from llama_cpp import mtmd_cpp as mtmd
    except (ImportError, RuntimeError, OSError) as error:  # it loads its libraries
        raise ModelError(f"--gguf needs llama-cpp-python ({error}): {EXTRA}") from error
    return Libraries(llama, mtmd, str(llama_cpp.__version__))


class _Messages:
    """What llama.cpp logs: nothing is printed, and errors are kept."""

    def __init__(self, libraries: Libraries) -> None:
        self.errors: list[str] = []

        def take(level: int, text: bytes, _data: Any) -> None:
            if level >= ERROR_LEVEL:
                self.errors.append(text.decode("utf-8", "replace").strip())

        # kept: the libraries call it as long as they are loaded
        self.callback = libraries.llama.llama_log_callback(take)
        libraries.llama.llama_log_set(self.callback, None)
        libraries.mtmd.mtmd_log_set(self.callback, None)
        libraries.mtmd.mtmd_helper_log_set(self.callback, None)

    def reason(self) -> str:
        """What was logged last."""
        lines = [line for line in self.errors if line]
        return lines[-1] if lines else "it does not say why"


class LlamaCpp:
    """A language model and its vision tower in llama.cpp, which reads one prompt at a time.

    Args:
        model: the language model's file.
        mmproj: the tower's.

    Raises:
        ModelError: llama.cpp is not installed, or does not load a file.
    """

    def __init__(self, model: Path, mmproj: Path) -> None:
        self._libraries = libraries()
        self._llama = self._libraries.llama
        self._mtmd = self._libraries.mtmd
        self._messages = _Messages(self._libraries)
        self._context: Any = None
        self._context_size = 0
        self._llama.llama_backend_init()
        settings = self._llama.llama_model_default_params()
        settings.n_gpu_layers = -1 if self._llama.llama_supports_gpu_offload() else 0
        self._model = self._llama.llama_model_load_from_file(str(model).encode(), settings)
        if not self._model:
            raise ModelError(f"llama.cpp does not load {model} ({self._messages.reason()})")
        self._vocabulary = self._llama.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = self._llama.llama_vocab_n_tokens(self._vocabulary)
        self.longest: int = self._llama.llama_model_n_ctx_train(self._model)
        vision = self._mtmd.mtmd_context_params_default()
        vision.use_gpu = bool(self._llama.llama_supports_gpu_offload())
        vision.n_threads = torch.get_num_threads()
        vision.print_timings = False
        vision.warmup = False
        self._vision = self._mtmd.mtmd_init_from_file(str(mmproj).encode(), self._model, vision)
        if not self._vision:
            raise ModelError(f"llama.cpp does not load {mmproj} ({self._messages.reason()})")
        self.marker: str = self._mtmd.mtmd_default_marker().decode()

    @cached_property
    def template(self) -> str:
        """The chat template that stands in the file."""
        template = self._llama.llama_model_chat_template(self._model, None)
        if not template:
            raise ModelError("the GGUF file has no chat template: export it again")
        return str(template.decode())

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """Tokens that no text of a user may spell."""
        control = self._llama.LLAMA_TOKEN_ATTR_CONTROL
        tokens = {PLACEHOLDER, self.marker}
        for token in range(self.vocabulary_size):
            if self._llama.llama_vocab_get_attr(self._vocabulary, token) & control:
                tokens.add(self._text(token))
        return frozenset(tokens)

    def _text(self, token: int) -> str:
        text: bytes = self._llama.llama_vocab_get_text(self._vocabulary, token)
        return text.decode("utf-8", "replace")

    def _named_token(self, token: int) -> str:
        return "" if token < 0 else self._text(token)

    @cached_property
    def begin(self) -> str:
        """The token that begins a sequence, if the vocabulary has one."""
        return self._named_token(self._llama.llama_vocab_bos(self._vocabulary))

    @cached_property
    def end(self) -> str:
        """The token that ends a sequence, if the vocabulary has one."""
        return self._named_token(self._llama.llama_vocab_eos(self._vocabulary))

    def read(self, prompt: str, image: Image.Image, answer: int) -> PromptRow:
        """Read a prompt.

        Args:
            prompt: a chat, in which `marker` stands for the image.
            image: in RGB.
            answer: tokens that are written after it, at most.

        Raises:
            DataError: llama.cpp refuses the prompt, or it is longer than the model's context.
        """
        with self._chunks(prompt, image) as chunks:
            tokens = self._tokens(chunks)
            self._make_room(len(tokens), answer)
            position = self._llama.llama_pos(0)
            failed = self._mtmd.mtmd_helper_eval_chunks(
                self._vision,
                self._context,
                chunks,
                0,
                0,
                self._context_size,
                True,
                ctypes.byref(position),
            )
            if failed:
                raise DataError(f"llama.cpp cannot read the prompt ({self._messages.reason()})")
        logs = self._logs()
        top = np.argsort(-logs, kind="stable")[:TOP_FIRST]
        return {"id": 0, "tokens": tokens, "top": top.tolist(), "logs": logs[top].tolist()}

    def write(self, most: int, stops: list[str]) -> str:
        """The greedy answer to the prompt that was read last.

        Args:
            most: tokens.
            stops: texts at which it ends.
        """
        written: list[int] = []
        text = ""
        while len(written) < most:
            token = int(self._logits().argmax())
            if self._llama.llama_vocab_is_eog(self._vocabulary, token):
                break
            written.append(token)
            text = self._decoded(written)
            if any(stop in text for stop in stops):
                break
            token_array = (self._llama.llama_token * 1)(token)  # llama_token[1] of C
            batch = self._llama.llama_batch_get_one(token_array, 1)
            if self._llama.llama_decode(self._context, batch):
                raise DataError(f"llama.cpp stopped in an answer ({self._messages.reason()})")
        for stop in stops:
            text = text.split(stop)[0]
        return text

    def _decoded(self, tokens: list[int]) -> str:
        array = (self._llama.llama_token * len(tokens))(*tokens)
        buffer = ctypes.create_string_buffer(LONGEST_PIECE * len(tokens))
        size = -len(buffer) - 1
        while size < 0:  # minus the bytes that it needs
            buffer = ctypes.create_string_buffer(max(len(buffer), -size))
            size = self._llama.llama_detokenize(
                self._vocabulary, array, len(tokens), buffer, len(buffer), True, False
            )
        return buffer.raw[:size].decode("utf-8", "replace")

    def _logits(self) -> NDArray[np.float32]:
        """Of the next token [vocabulary]; they are overwritten by what is read next."""
        pointer = self._llama.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, (self.vocabulary_size,))

    def _logs(self) -> Logs:
        """Log-probabilities of the next token in nats [vocabulary]."""
        logits = self._logits().astype(np.float64)
        shifted = logits - logits.max()
        logs: Logs = shifted - np.log(np.exp(shifted).sum())
        return logs

    @contextmanager
    def _chunks(self, prompt: str, image: Image.Image) -> Iterator[Any]:
        """A prompt in parts: texts, and the image."""
        encoded = prompt.encode()
        text = self._mtmd.mtmd_input_text()
        text.text = encoded
        text.text_len = len(encoded)
        # a template may write the token that begins a sequence
        text.add_special = not (self.begin and prompt.startswith(self.begin))
        text.parse_special = True
        pixels = np.asarray(image, np.uint8).tobytes()
        array = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
        bitmap = self._mtmd.mtmd_bitmap_init(image.width, image.height, array)
        bitmaps = (self._mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        chunks = self._mtmd.mtmd_input_chunks_init()
        try:
            failed = self._mtmd.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), bitmaps, 1)
            if failed:
                raise DataError(f"llama.cpp refuses the prompt ({self._messages.reason()})")
            yield chunks
        finally:
            self._mtmd.mtmd_input_chunks_free(chunks)
            self._mtmd.mtmd_bitmap_free(bitmap)

    def _tokens(self, chunks: Any) -> list[int]:
        """The tokens of all parts; IMAGE for each piece of an image."""
        tokens: list[int] = []
        for place in range(self._mtmd.mtmd_input_chunks_size(chunks)):
            chunk = self._mtmd.mtmd_input_chunks_get(chunks, place)
            if self._mtmd.mtmd_input_chunk_get_type(chunk) == TEXT_CHUNK:
                count = ctypes.c_size_t()
                pointer = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
                tokens += pointer[: count.value]
            else:
                tokens += [IMAGE] * self._mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        return tokens

    def _make_room(self, prompt: int, answer: int) -> None:
        """An empty context for a prompt and its answer, of so many tokens.

        Raises:
            DataError: the model was made for fewer.
        """
        needed = prompt + answer
        if needed > self.longest:
            raise DataError(
                f"a prompt of {prompt} tokens is longer than the context allows "
                f"({self.longest - answer})"
            )
        if needed <= self._context_size:
            self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
            return
        if self._context:
            self._llama.llama_free(self._context)
        self._context_size = 0
        size = min(self.longest, -(-needed // ROOM) * ROOM)
        settings = self._llama.llama_context_default_params()
        settings.n_ctx = size
        settings.n_batch = size
        settings.n_ubatch = size  # an image's tokens see each other: they are read in one piece
        settings.n_threads = torch.get_num_threads()
        settings.n_threads_batch = torch.get_num_threads()
        self._context = self._llama.llama_init_from_model(self._model, settings)
        if not self._context:
            raise ModelError(
                f"llama.cpp makes no context of {size} tokens ({self._messages.reason()})"
            )
        self._context_size = size


class LlamaCppLM(StoredAnswers, LM):  # type: ignore[misc]  # lm-eval has no types
    """llama.cpp as lm-eval asks it: one question at a time."""

    MULTIMODAL = True
    batch_size = 1

    def __init__(self, llama: LlamaCpp, system_prompt: str) -> None:
        super().__init__()
        self.llama = llama
        self._system_prompt = system_prompt

    @property
    def system_prompt(self) -> str:
        """Before each question; empty for none."""
        return self._system_prompt

    @property
    def tokenizer_name(self) -> str:
        """A name for lm-eval's caches, which are not used."""
        return "gguf"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The file's own, whatever is asked for."""
        return self.llama.template

    def apply_chat_template(
        self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the file's template writes it, with llama.cpp's marker for the image."""
        from transformers.utils.chat_template_utils import render_jinja_template

        messages: list[dict[str, Any]] = []
        for message in chat_history:
            content: str = message["content"]
            parts: list[dict[str, str]] = []
            if content.startswith(PLACEHOLDER):
                parts.append({"type": "image"})
                content = content.removeprefix(PLACEHOLDER)
            text = spelled_apart(content, self.llama.special_tokens)
            parts.append({"type": "text", "text": text})
            messages.append({"role": message["role"], "content": parts})
        rendered: Any = render_jinja_template(
            [messages],
            chat_template=self.llama.template,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.llama.begin,
            eos_token=self.llama.end,
        )
        chat: str = rendered[0][0]
        for image_text in IMAGE_TEXTS:
            if image_text in chat:
                return chat.replace(image_text, self.llama.marker)
        return chat

    def prompt_length(self, request: Instance) -> int:
        """In characters: one question at a time, the order decides nothing."""
        return len(request.args[0])

    def answers_to(self, requests: list[Instance]) -> list[AnswerRow]:
        """Texts of one batch, with what the prompts were."""
        rows: list[AnswerRow] = []
        for position, request in enumerate(requests):
            chat, settings, visual = request.args
            most: int = settings["max_gen_toks"]
            try:
                prompt = self.llama.read(chat, visual["visual"][0], most)
                text = self.llama.write(most, [stop for stop in settings["until"] if stop])
            except DataError as error:
                raise UnaskableError({position: str(error)}) from error
            rows.append({"id": 0, "text": text, "prompt": prompt})
        return rows

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        """Not asked for: the built-in benchmarks have answers in words."""
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        """Likewise."""
        raise NotImplementedError
