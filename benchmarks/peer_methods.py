"""Quantizers beside LUQ's for `peers.py`: called as they are published, none of their code is here.

Each changes the weights of a model in memory to what it would store, and counts the bytes of that:
codes, scales, zero points, masks and all. What is not installed, or not given by a path, says so in
a sentence.
"""

import ctypes
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from luq.api.loaded import LoadedModel
from luq.calibration.samples import CalibrationSet, inputs_of
from luq.models.decoder import linears_of
from luq.models.families import fused_groups
from luq.pocket.smollm2 import NAMES, as_rotated_by_halves
from luq.quantization.states import first_inputs, pass_through

GROUP = (
    64  # columns of a scale: 128 divides neither 576 nor 640, and not all of these can cut short
)
HALF_BITS = 16  # of a scale
BILLM_BLOCK = 128  # columns, as published
BILLM_NUMBERS = 8  # fp16, of a row in a block: mean and scale of two groups and of two signs
DAMPING = 0.01
BATCH_TOKENS = 2048
F16 = 1  # ggml's number of the type
GGUF_NAMES = {name: short for short, name in NAMES.items()}


class Subject(NamedTuple):
    """What is quantized, and on what."""

    model: LoadedModel
    texts: list[str]  # of calibration
    samples: CalibrationSet  # the same as tokens
    chosen: tuple[str, ...]  # names of the linears that are packed, within a layer

    def linears(self, layer: nn.Module) -> dict[str, nn.Linear]:
        """Those of a layer that are packed."""
        return {name: module for name, module in linears_of(layer).items() if name in self.chosen}

    def all_linears(self) -> dict[tuple[int, str], nn.Linear]:
        """Those of all layers, by layer and name."""
        modules: dict[tuple[int, str], nn.Linear] = {}
        for index, layer in enumerate(self.model.vlm.layers):
            for name, module in self.linears(layer).items():
                modules[index, name] = module
        return modules


class Made(NamedTuple):
    """What was stored."""

    stored_bytes: int
    note: str = ""


class Peer(Protocol):
    """A way to quantize."""

    def missing(self) -> str:
        """What it lacks, in a sentence; empty if it can run."""

    def quantize(self, subject: Subject) -> Made:
        """Put what it would store into the model."""


def installed(package: str) -> str:
    """A sentence if a package is not there."""
    return "" if find_spec(package) is not None else f"the package {package} is not installed"


def grid_bytes(rows: int, columns: int, bits: int, group: int, zero_bits: int) -> int:
    """Bytes of codes in groups along rows, each with a 16-bit scale and a zero point."""
    groups = rows * -(-columns // group)
    total_bits = rows * columns * bits + groups * (HALF_BITS + zero_bits)
    return -(-total_bits // 8)  # rounded up


def billm_bytes(rows: int, columns: int, block: int) -> int:
    """Bytes of BiLLM's codes, for which its authors published no format.

    A weight has a sign and a flag, which in salient columns is a second sign; a row has eight
    numbers in each block, and a column a flag.
    """
    numbers = rows * -(-columns // block) * BILLM_NUMBERS * HALF_BITS
    return -(-(2 * rows * columns + numbers + columns) // 8)


def types_note(types: Iterable[str]) -> str:
    """How many tensors have which type, the most frequent first."""
    counts = Counter(types).most_common()
    return ", ".join(f"{count} in {name}" for name, count in counts)


def gguf_name(layer: int, linear: str) -> str:
    """A linear's name in llama.cpp's files."""
    return f"blk.{layer}.{GGUF_NAMES[linear]}.weight"


@torch.no_grad()
def column_energies(subject: Subject) -> dict[tuple[int, str], Tensor]:
    """Mean square of each column of every linear's input in the 16-bit model: an imatrix."""
    sums: dict[tuple[int, str], Tensor] = {}
    handles: list[Any] = []
    for key, module in subject.all_linears().items():
        sums[key] = torch.zeros(module.in_features)

        def add(_module: nn.Module, inputs: tuple[Tensor, ...], total: Tensor = sums[key]) -> None:
            total += inputs[0].float().square().flatten(0, -2).sum(0)

        handles.append(module.register_forward_pre_hook(add))
    vlm = subject.model.vlm
    for batch in subject.samples.batches(BATCH_TOKENS):
        vlm.model.get_decoder()(**inputs_of(batch, vlm.device))
    for handle in handles:
        handle.remove()
    return {key: total / subject.samples.tokens for key, total in sums.items()}


@dataclass(frozen=True)
class LlamaCpp:
    """`llama-quantize` with an importance matrix, from a file of the same weights.

    Of all linears its usual mixture, with the types that it falls back to where rows are no
    multiples of 256; of chosen linears `--pure`, the one type.
    """

    kind: str
    file: Path | None

    def missing(self) -> str:
        if self.file is None:
            return "llama.cpp needs --gguf, a file of the same weights"
        return installed("llama_cpp") or installed("gguf")

    def quantize(self, subject: Subject) -> Made:
        energies = column_energies(subject)
        names = {gguf_name(*key): key for key in energies}
        is_pure = len(subject.chosen) < len(linears_of(subject.model.vlm.layers[0]))
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model.gguf"
            self._write(target, {name: energies[key] for name, key in names.items()}, is_pure)
            return self._read(target, subject, names)

    def _write(self, target: Path, importance: dict[str, Tensor], is_pure: bool) -> None:
        """Quantize the file."""
        from llama_cpp import llama_cpp as llama

        quiet = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(quiet, None)
        settings = llama.llama_model_quantize_default_params()
        settings.nthread = torch.get_num_threads()
        settings.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{self.kind}")
        settings.allow_requantize = True
        settings.token_embedding_type = F16
        settings.output_tensor_type = F16
        settings.pure = is_pure
        entries = (llama.llama_model_imatrix_data * (len(importance) + 1))()  # the last has no name
        vectors: list[np.ndarray] = []
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            vectors.append(np.ascontiguousarray(values.numpy(), np.float32))
            entry.name = name.encode()
            entry.data = vectors[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = len(vectors[-1])
        settings.imatrix = entries
        if llama.llama_model_quantize(
            str(self.file).encode(), str(target).encode(), ctypes.byref(settings)
        ):
            raise RuntimeError(f"llama.cpp does not quantize {self.file} to {self.kind}")

    def _read(self, file: Path, subject: Subject, names: dict[str, tuple[int, str]]) -> Made:
        """Take the linears of a file."""
        from gguf import GGUFReader, quants

        config = subject.model.vlm.model.config
        modules = subject.all_linears()
        stored_bytes = 0
        types: list[str] = []
        reader = GGUFReader(file)
        rotated = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        is_rotated = bytes(reader.fields["general.architecture"].parts[-1]) == b"llama"
        for tensor in reader.tensors:
            if tensor.name not in names:
                continue
            stored_bytes += int(tensor.n_bytes)
            types.append(tensor.tensor_type.name.lower())
            values = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type))
            module = tensor.name.split(".")[2]
            if is_rotated and module in rotated:
                values = as_rotated_by_halves(values, rotated[module])
            modules[names[tensor.name]].weight.data.copy_(values)
        if len(types) < len(names):
            raise RuntimeError(f"{file} holds {len(types)} of {len(names)} linears")
        return Made(stored_bytes, types_note(types))


@dataclass(frozen=True)
class Hqq:
    """Half-quadratic quantization, which reads no text."""

    bits: int

    def missing(self) -> str:
        return installed("hqq")

    def quantize(self, subject: Subject) -> Made:
        from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

        stored_bytes = 0
        for module in subject.all_linears().values():
            settings = BaseQuantizeConfig(nbits=self.bits, group_size=GROUP, axis=1)
            copy = nn.Linear(module.in_features, module.out_features, bias=False)
            copy.weight.data = module.weight.data.clone()
            packed = HQQLinear(copy, settings, compute_dtype=torch.float16, device="cpu")
            module.weight.data.copy_(packed.dequantize())
            for values in (packed.W_q, packed.meta["scale"], packed.meta["zero"]):
                stored_bytes += values.numel() * values.element_size()
        return Made(stored_bytes, f"groups of {GROUP}, no data")


@dataclass(frozen=True)
class AutoRound:
    """SignRound's tuning of roundings, block by block, as the package has it."""

    bits: int
    steps: int  # of a block; 200 is its default, 50 its light recipe

    def missing(self) -> str:
        return installed("auto_round")

    def quantize(self, subject: Subject) -> Made:
        from auto_round import AutoRound as Published

        vlm = subject.model.vlm
        model = vlm.model
        modules = subject.all_linears()
        lengths = {sample.tokens for sample in subject.samples.samples}
        packed_ids = {id(module) for module in modules.values()}
        left_out = {
            name: {"bits": HALF_BITS}
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and id(module) not in packed_ids
        }
        names = {id(module): name for name, module in model.named_modules()}
        with torch.enable_grad():
            tuned, _settings = Published(
                model,
                vlm.processor.tokenizer,
                bits=self.bits,
                group_size=GROUP,
                sym=False,
                iters=self.steps,
                nsamples=len(subject.samples.samples),
                seqlen=min(lengths),
                batch_size=4,
                dataset=[sample.input_ids[None] for sample in subject.samples.samples],
                layer_config=left_out,
                device_map="cpu",
                amp=False,  # else it leaves all of the model in bfloat16
                enable_torch_compile=False,
            ).quantize()
        if tuned.dtype != torch.float32:
            raise RuntimeError(f"AutoRound left the model in {tuned.dtype}")
        stored_bytes = 0
        for module in modules.values():
            weight = tuned.get_submodule(names[id(module)]).weight
            stored_bytes += grid_bytes(*weight.shape, self.bits, GROUP, self.bits)
            if module.weight is not weight:
                module.weight.data.copy_(weight)
        return Made(stored_bytes, f"groups of {GROUP}, {self.steps} steps a block")


@dataclass(frozen=True)
class Reference:
    """A reference code in a folder, whose classes quantize one linear for its inputs."""

    folder: Path | None

    def missing(self) -> str:
        if self.folder is None:
            return "it needs a path to its repository"
        return "" if self.folder.is_dir() else f"{self.folder} is no folder"

    def prepare(self) -> None:
        """Make its modules importable; its timers wait for a GPU, where there may be none."""
        sys.path.insert(0, str(self.folder))
        if not torch.cuda.is_available():
            torch.cuda.synchronize = lambda device=None: None

    def collector(self, module: nn.Linear) -> Any:
        """Its object that sees a linear's inputs (`add_batch`) and then quantizes it."""
        raise NotImplementedError

    def finish(self, collector: Any) -> None:
        """Quantize the linear."""
        raise NotImplementedError

    def bytes_of(self, module: nn.Linear) -> int:
        """What it would store."""
        raise NotImplementedError

    def groups(self, linears: Sequence[str]) -> list[tuple[str, ...]]:
        """Linears that are quantized for the same pass of the inputs."""
        return [tuple(linears)]

    @torch.no_grad()
    def quantize(self, subject: Subject) -> Made:
        """Layer by layer: each sees what the quantized ones before it give."""
        self.prepare()
        vlm = subject.model.vlm
        states = first_inputs(vlm, subject.samples)
        stored_bytes = 0
        for layer in vlm.layers:
            linears = subject.linears(layer)
            for names in self.groups(list(linears)):
                collectors = {name: self.collector(linears[name]) for name in names}
                handles: list[Any] = []
                for name, collector in collectors.items():

                    def add(
                        _module: nn.Module,
                        inputs: tuple[Tensor, ...],
                        output: Tensor,
                        collector: Any = collector,
                    ) -> None:
                        collector.add_batch(inputs[0].data, output.data)

                    handles.append(linears[name].register_forward_hook(add))
                for state in states:
                    state.output(layer)
                for handle in handles:
                    handle.remove()
                for name, collector in collectors.items():
                    with redirect_stdout(io.StringIO()):
                        self.finish(collector)
                    collector.free()
                    stored_bytes += self.bytes_of(linears[name])
            pass_through(layer, states)
        return Made(stored_bytes, self.note)

    @property
    def note(self) -> str:
        """Its settings, in words."""
        raise NotImplementedError


@dataclass(frozen=True)
class GptqReference(Reference):
    """GPTQ's reference code, with act-order, static groups and true-sequential passes."""

    bits: int

    def collector(self, module: nn.Linear) -> Any:
        from gptq import GPTQ
        from quant import Quantizer

        collector = GPTQ(module)
        collector.quantizer = Quantizer()
        collector.quantizer.configure(self.bits, perchannel=True, sym=False, mse=False)
        return collector

    def finish(self, collector: Any) -> None:
        collector.fasterquant(percdamp=DAMPING, groupsize=GROUP, actorder=True, static_groups=True)

    def bytes_of(self, module: nn.Linear) -> int:
        return grid_bytes(module.out_features, module.in_features, self.bits, GROUP, self.bits)

    def groups(self, linears: Sequence[str]) -> list[tuple[str, ...]]:
        return fused_groups(linears)

    @property
    def note(self) -> str:
        return f"groups of {GROUP}, act-order, static groups"


@dataclass(frozen=True)
class BillmReference(Reference):
    """BiLLM's released code, with the Hessian's saliency, as the paper."""

    def collector(self, module: nn.Linear) -> Any:
        with redirect_stdout(io.StringIO()):
            from bigptq import BRAGPTQ
            from binary import Binarization
        binary = Binarization(module.weight, method="braq", groupsize=BILLM_BLOCK)
        return BRAGPTQ(module, binary, salient_metric="hessian", disable_gptq=False)

    def finish(self, collector: Any) -> None:
        collector.fasterquant(percdamp=DAMPING, blocksize=BILLM_BLOCK)

    def bytes_of(self, module: nn.Linear) -> int:
        return billm_bytes(module.out_features, module.in_features, BILLM_BLOCK)

    @property
    def note(self) -> str:
        return f"blocks of {BILLM_BLOCK}; counted as billm_faithful stores it"
