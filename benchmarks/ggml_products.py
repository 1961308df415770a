"""Products of one linear as llama.cpp's library computes them, for benchmarks beside it.

Needs llama-cpp-python, whose shared libraries are called through ctypes. Weights are random and
quantized by llama.cpp itself; speed does not depend on them.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

ROOM = 1 << 20  # bytes of a context beside its tensors
F32 = 0


class InitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Ggml:
    """The libraries of an installed llama-cpp-python.

    Raises:
        ImportError: It is not installed, or its libraries cannot be loaded.
    """

    def __init__(self) -> None:
        import llama_cpp

        folder = Path(llama_cpp.__file__).parent / "lib"
        try:
            self.base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
            self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ImportError(f"llama-cpp-python without ggml's libraries: {error}") from error
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self.base.ggml_init.restype = pointer
        self.base.ggml_init.argtypes = [InitParams]
        self.base.ggml_new_tensor_2d.restype = pointer
        self.base.ggml_new_tensor_2d.argtypes = [pointer, ctypes.c_int, size, size]
        self.base.ggml_mul_mat.restype = pointer
        self.base.ggml_mul_mat.argtypes = [pointer] * 3
        self.base.ggml_new_graph.restype = pointer
        self.base.ggml_new_graph.argtypes = [pointer]
        self.base.ggml_build_forward_expand.argtypes = [pointer] * 2
        self.base.ggml_get_data.restype = pointer
        self.base.ggml_get_data.argtypes = [pointer]
        self.base.ggml_row_size.restype = ctypes.c_size_t
        self.base.ggml_row_size.argtypes = [ctypes.c_int, size]
        self.base.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.base.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            *[pointer] * 2,
            *[size] * 3,
            pointer,
        ]
        self.base.ggml_reset.argtypes = [pointer]
        self.cpu.ggml_cpu_init()
        self.cpu.ggml_graph_compute_with_ctx.argtypes = [pointer, pointer, ctypes.c_int]

    def product(self, kind: str, size: int, tokens: int, threads: int) -> Callable[[], None]:
        """A run of W x for a square linear, in a type such as q4_k.

        Args:
            kind: Name of the type.
            size: Rows and columns.
            tokens: Columns of x.
            threads: On which it runs.
        """
        from gguf import GGMLQuantizationType

        number = int(GGMLQuantizationType[kind.upper()])
        stored = self._stored(number, size)
        vectors = 3 * 4 * size * tokens  # x, y and what x becomes
        context = self.base.ggml_init(InitParams(ROOM + stored.nbytes + vectors, None, False))
        weight = self.base.ggml_new_tensor_2d(context, number, size, size)
        x = self.base.ggml_new_tensor_2d(context, F32, size, tokens)
        ctypes.memmove(self.base.ggml_get_data(weight), stored.ctypes.data, stored.nbytes)
        generator = np.random.default_rng(1)
        inputs = generator.standard_normal((tokens, size)).astype(np.float32)
        ctypes.memmove(self.base.ggml_get_data(x), inputs.ctypes.data, inputs.nbytes)
        output = self.base.ggml_mul_mat(context, weight, x)
        graph = self.base.ggml_new_graph(context)
        self.base.ggml_build_forward_expand(graph, output)

        # its work room is taken from a context of its own, which each run begins anew
        work = self.base.ggml_init(InitParams(ROOM + vectors, None, False))

        def run() -> None:
            self.base.ggml_reset(work)
            self.cpu.ggml_graph_compute_with_ctx(work, graph, threads)

        return run

    @cache  # noqa: B019  # one instance a benchmark
    def _stored(self, number: int, size: int) -> np.ndarray:
        """A random square weight in a type's blocks."""
        generator = np.random.default_rng(0)
        values = (0.02 * generator.standard_normal((size, size))).astype(np.float32)
        importance = np.ones(size, np.float32)
        stored = np.empty(size * self.base.ggml_row_size(number, size), np.uint8)
        pointers = (values.ctypes.data, stored.ctypes.data)
        self.base.ggml_quantize_chunk(number, *pointers, 0, size, size, importance.ctypes.data)
        return stored
