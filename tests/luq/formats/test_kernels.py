"""Compiled kernels against torch: the same weights bit for bit, products the same to rounding."""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from luq.formats import cpu_kernel, kernels
from luq.formats.base import PackedWeight
from luq.formats.cpu_kernel import CpuKernel
from luq.formats.integer import IntegerWeight
from luq.formats.kernels import cache, cpu, searches
from luq.formats.linear import PackedLinear, round_activations
from luq.formats.row_column import RowColumnWeight
from luq.formats.trellis import COMPUTED, TrellisWeight, all_numbers
from luq.quantization import lloyd
from tests.luq.formats.weights import (
    GENERATOR,
    binaries,
    coded,
    integers,
    row_columns,
    ternaries,
)

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(c) for c in ("cc", "gcc", "clang")), reason="no C compiler on this machine"
)


# rows, columns, groups, symmetric, and columns of a group where the last one is shorter
INTEGERS = [
    (128, 128, 1, False),
    (70, 384, 24, True),
    (33, 4096, 32, False),
    (1, 48, 3, False),
    (33, 576, 5, False, 128),
    (7, 192, 2, True, 128),
    (5, 1536, 24, False, 64),
    (3, 3420, 27, False, 128),
    (9, 130, 2, True, 128),
    (5, 100, 1, False),
    (3, 40, 5, False),
    (5, 48, 2, False),
    (3, 64, 3, True, 24),
    (11, 77, 4, False, 24),
    (1, 5, 2, True, 3),
]
# rows, columns, block, share of salient columns
BINARIES = [
    (128, 128, 128, 0.1),
    (70, 384, 128, 0.3),
    (9, 1040, 64, 0.02),
    (64, 256, 128, 0.0),
    (16, 128, 128, 1.0),
    (40, 336, 128, 0.5),
    (33, 576, 128, 0.1),
    (9, 192, 128, 0.2),
    (11, 3420, 128, 0.05),
    (9, 130, 128, 0.5),
    (13, 100, 100, 0.2),
    (21, 77, 24, 0.3),
    (8, 200, 72, 0.2),
]
CASES: dict[str, PackedWeight] = {
    f"{bits} bit, {case}": integers(*case[:2], bits, *case[2:])
    for bits in (2, 3, 4, 8)
    for case in INTEGERS
}


TERNARIES = [
    (128, 128, 1),
    (7, 13, 1),
    (33, 384, 12),
    (5, 4096, 32),
    (33, 576, 5, 128),
    (3, 3420, 27, 128),
    (9, 130, 2, 128),
    (11, 77, 4, 24),
    (1, 5, 2, 3),
]
ROW_COLUMNS = [
    (128, 128, 128, 0.06),
    (9, 13, 13, 0.3),
    (20, 384, 128, 0.1),
    (16, 128, 64, 0.0),
    (33, 576, 128, 0.06),
    (3, 3420, 128, 0.06),
    (9, 130, 128, 0.5),
    (21, 77, 24, 0.3),
    (1, 5, 3, 0.5),
]
CODED = [
    (128, 128, 2),
    (70, 384, 3),
    (33, 100, 1),
    (5, 13, 4),
    (48, 1040, 2),
    (33, 100, 1.25),
    (20, 48, 1.5),
    (3, 1040, 1.75),
    (18, 40, 2.75),
    (17, 16, 3.25, 16),
    (17, 16, 1, 5),
]  # rows, columns, bits, window
CODED_OVERLAPPING = [
    (33, 100, 1),
    (5, 13, 4),
    (40, 570, 2),
    (133, 16, 1.25),
    (1, 96, 3),
    (96, 128, 2.75),
    (70, 63, 1.5, 16),
]
CODED_BY_TABLE = [(33, 100, 1), (5, 13, 4), (17, 48, 2, 16)]
CASES |= {f"trellis, {case}": coded(*case) for case in CODED}
CASES |= {f"trellis, overlapping, {case}": coded(*case, rotation=2) for case in CODED_OVERLAPPING}
CASES |= {f"trellis of version 1, {case}": coded(*case, code=None) for case in CODED_BY_TABLE}
CASES |= {f"ternary, {case}": ternaries(*case) for case in TERNARIES}
CASES |= {f"row and column, {case}": row_columns(*case) for case in ROW_COLUMNS}
CASES |= {f"binary, {case}": binaries(*case) for case in BINARIES}
CASES |= {f"binary, numbers of 8 bits, {case}": binaries(*case, twice=True) for case in BINARIES}


def kernel_of(weight: PackedWeight) -> CpuKernel:
    """The compiled kernel, which must be there."""
    kernel = weight.cpu_kernel()
    assert kernel is not None
    return kernel


def relative_error(found: torch.Tensor, x: torch.Tensor, weight: PackedWeight) -> float:
    """The largest error of x W^T, relative to the sizes of its terms.

    Those of integers are codes up to 2^bits, before the zero point is subtracted.
    """
    dense = weight.dequantize().double()
    size = x.double().abs() @ dense.abs().T
    if isinstance(weight, TrellisWeight):  # the input is rotated: its terms are other ones
        size = size + (x.double().norm(dim=-1, keepdim=True) @ dense.norm(dim=1)[None])
    if isinstance(weight, IntegerWeight):
        by_group = weight.buffers["scales"].double()
        scales = by_group.repeat_interleave(weight.group_size, 1)[:, : weight.shape[1]]
        size = size + x.double().abs() @ (scales * 2 ** len(weight.buffers["codes"])).T
    return float(((found.double() - x.double() @ dense.T).abs() / size.clamp_min(1e-30)).max())


@needs_compiler
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unpacked_weights_are_torchs_bit_for_bit(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernel, "TILE", 5000)  # several tiles of rows
    assert torch.equal(kernel_of(CASES[name]).unpack(dtype), CASES[name].dequantize(dtype))


@needs_compiler
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 1), (2, 2)], ids=str)
def test_products_are_torchs_to_rounding(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernel, "TILE", 0)
    weight = CASES[name]
    x = torch.randn(*shape, weight.shape[1], generator=GENERATOR)
    found = kernels.linear(x, weight)
    assert found is not None
    assert relative_error(found, x, weight) < 2e-6


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_products_of_many_tokens_are_torchs_to_rounding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernel, "TILE", 0)
    weight = CASES[name]
    x = torch.randn(3, 7, weight.shape[1], generator=GENERATOR)
    found = kernels.linear(x, weight)
    assert found is not None
    assert found.shape == (3, 7, weight.shape[0])
    assert relative_error(found, x, weight) < 2e-6


def has_eight_bits(weight: PackedWeight) -> bool:
    return weight.eight_bit_inputs(torch.ones(1, weight.shape[1])) is not None


EIGHT_BITS = [name for name, weight in CASES.items() if has_eight_bits(weight)]


@needs_compiler
@pytest.mark.parametrize("name", EIGHT_BITS)
def test_products_in_eight_bits_are_those_of_rounded_inputs(name: str) -> None:
    weight = CASES[name]
    for tokens in (1, 2, 5, 17, 40):
        x = torch.randn(tokens, weight.shape[1], generator=GENERATOR)
        found = kernel_of(weight).eight_bits(x)
        if found is None:  # not compiled for this processor
            assert isinstance(weight, TrellisWeight)
            return
        seen = weight.eight_bit_inputs(x)
        assert seen is not None
        assert relative_error(found, seen, weight) < 1e-3  # a tie may be rounded the other way
        assert 0 < float((seen - x).norm() / x.norm()) < 0.02


@needs_compiler
def test_eight_bits_are_a_choice() -> None:
    weight = CASES["4 bit, (128, 128, 1, False)"]
    model = nn.ModuleDict({"packed": PackedLinear(weight, "gptq4"), "plain": nn.Linear(2, 2)})
    x = torch.randn(2, 128, generator=GENERATOR)
    exact = model["packed"](x)
    round_activations(model)
    rounded = model["packed"](x)
    seen = weight.eight_bit_inputs(x)
    assert seen is not None
    assert relative_error(rounded, seen, weight) < 1e-5 < relative_error(rounded, x, weight)
    round_activations(model, is_on=False)
    assert torch.equal(model["packed"](x), exact)


@needs_compiler
def test_inputs_without_a_size_or_end_in_eight_bits() -> None:
    weight = CASES["4 bit, (70, 384, 24, True)"]
    kernel = kernel_of(weight)
    assert torch.equal(kernel.eight_bits(torch.zeros(1, 384)), torch.zeros(1, 70))
    for number in (torch.nan, torch.inf, -torch.inf):
        x = torch.ones(1, 384)
        x[0, 7] = number
        for tokens in (1, 20):
            assert kernel.eight_bits(x.repeat(tokens, 1)).isnan().all()


OTHER_PROCESSORS = """
import sys, torch
from luq.formats.kernels import cache
cache.FLAGS = ("-O1", sys.argv[1], *cache.FLAGS[2:])
from tests.luq.formats.test_kernels import CASES, GENERATOR, kernel_of, relative_error
for name, weight in CASES.items():
    kernel = kernel_of(weight)
    assert torch.equal(kernel.unpack(torch.float32), weight.dequantize()), name
    for tokens in (1, 5):
        x = torch.randn(tokens, weight.shape[1], generator=GENERATOR)
        assert relative_error(kernel.linear(x), x, weight) < 2e-6, name
        rounded = kernel.eight_bits(x)
        if rounded is not None:
            assert relative_error(rounded, weight.eight_bit_inputs(x), weight) < 1e-3, name
print("the same")
"""


@needs_compiler
@pytest.mark.parametrize("flag", ["-march=haswell", "-march=x86-64"])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
def test_kernels_of_other_processors(flag: str, tmp_path: Path) -> None:
    """With AVX2, and with vectors that the compiler makes."""
    if flag.endswith("haswell") and not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSORS, flag],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_tokens_of_16_bit_types(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernel, "TILE", 0)
    weight = CASES["4 bit, (128, 128, 1, False)"]
    x = torch.randn(17, 128, generator=GENERATOR).to(dtype)
    found = kernels.linear(x, weight)
    assert found is not None
    assert found.dtype == dtype
    assert relative_error(found, x, weight) < 1e-2


def test_products_are_in_a_type_in_which_the_processor_multiplies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product_type = kernels._product_type.__wrapped__
    half = torch.float16
    for answer, expected in ((True, half), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda a=answer: a)
        assert product_type(half) == expected
        assert product_type(torch.float32) == torch.float32
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert product_type(half) == torch.float32


@needs_compiler
def test_no_tokens_have_no_answers() -> None:
    linear = PackedLinear(CASES["4 bit, (128, 128, 1, False)"], "gptq4")
    assert linear(torch.zeros(0, 128)).shape == (0, 128)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cache", [False, True])
def test_a_packed_linear_answers_the_same_by_either_way(dtype: torch.dtype, cache: bool) -> None:
    weight, bias = (
        CASES["3 bit, (33, 4096, 32, False)"],
        torch.randn(33, generator=GENERATOR).to(dtype),
    )
    linear = PackedLinear(weight, "gptq3", bias, cache=cache)
    x = torch.randn(kernel_of(weight).few_tokens + 1, 4096, generator=GENERATOR).to(dtype)
    whole, single = linear(x), linear(x[:1])
    assert single.dtype == whole.dtype == dtype
    assert relative_error((single - bias).float(), x[:1], weight) < (
        1e-2 if dtype == torch.bfloat16 else 1e-5
    )
    expected = torch.nn.functional.linear(x, weight.dequantize(dtype), bias)
    assert torch.allclose(expected.float(), whole.float(), rtol=1e-2, atol=1e-2)
    assert (linear._weight is not None) == cache


def test_without_a_compiler_torch_does_it(tmp_path) -> None:
    """A broken compiler, or kernels turned off: the same answers, and a line that says why."""
    (tmp_path / "cc").write_text("#!/bin/sh\necho no such header >&2; exit 1\n")
    (tmp_path / "cc").chmod(0o755)
    code = (
        "import torch, logging; logging.basicConfig()\n"
        "from tests.luq.formats.test_kernels import CASES\n"
        "from luq.formats.linear import PackedLinear; from luq.formats import kernels\n"
        "w = CASES['4 bit, (128, 128, 1, False)']; x = torch.ones(1, 128)\n"
        "assert kernels.cpu.library() is None and kernels.linear(x, w) is None\n"
        "assert torch.equal(PackedLinear(w, 'a')(x), torch.nn.functional.linear(x, w.dequantize()))"
    )
    off, broken = (
        {"LUQ_KERNELS": "0"},
        {"CC": str(tmp_path / "cc"), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    for extra, said in ((off, ""), (broken, "no such header")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **extra},
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
    assert not list((tmp_path / "cache" / "luq").iterdir())


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user who has no compiled kernels yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(cache, "FLAGS", ("-O0", "-fopenmp", "-fPIC"))  # compiles at once
    return tmp_path / "caches" / "luq"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The libraries that were compiled, in order."""
    compile_library, libraries = cache._compile, []

    def counted(compiler: list[str], library: Path) -> None:
        libraries.append(library)
        compile_library(compiler, library)

    monkeypatch.setattr(cache, "_compile", counted)
    return libraries


def open_again() -> None:
    """What a process does that uses the kernels for the first time."""
    assert cache.open_library(["cc"]).luq_ternary


def only_library(folder: Path) -> Path:
    [library] = folder.glob("*.so")
    return library


needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to another user"
)
STRANGER = 54321  # a user without an entry in the system's list


@needs_compiler
def test_the_cache_is_private_and_compiled_once(
    cache_folder: Path, compilations: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    previous = os.umask(0)
    try:
        open_again()
        open_again()
    finally:
        os.umask(previous)
    assert len(compilations) == 1
    assert cache_folder.stat().st_mode & 0o777 == 0o700
    library = only_library(cache_folder)
    digest = cache_folder / f"{library.name}.sha256"
    assert set(cache_folder.iterdir()) == {library, digest}
    assert {path.stat().st_mode & 0o777 for path in (library, digest)} == {0o600}
    assert digest.read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    assert not caplog.records


def put(library: Path, content: bytes) -> None:
    """A new file of these bytes: the old one is in this process's memory."""
    library.unlink()
    library.write_bytes(content)
    library.chmod(0o600)


def truncate(library: Path) -> None:
    content = library.read_bytes()
    put(library, content[: len(content) // 2])


def flip_a_bit(library: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    put(library, bytes(content))


def empty_digest(library: Path) -> None:
    library.with_name(f"{library.name}.sha256").write_text("")


def no_digest(library: Path) -> None:
    library.with_name(f"{library.name}.sha256").unlink()


def writable_by_the_group(library: Path) -> None:
    library.chmod(0o660)


def digest_writable_by_all(library: Path) -> None:
    library.with_name(f"{library.name}.sha256").chmod(0o666)


def folder_writable_by_all(library: Path) -> None:
    library.parent.chmod(0o777)


def link_elsewhere(library: Path) -> None:
    library.rename(library.parent.parent / "elsewhere.so")
    library.symlink_to(library.parent.parent / "elsewhere.so")


def pipe(library: Path) -> None:
    library.unlink()
    os.mkfifo(library)


def give_library_away(library: Path) -> None:
    os.chown(library, STRANGER, STRANGER)


def give_digest_away(library: Path) -> None:
    os.chown(library.with_name(f"{library.name}.sha256"), STRANGER, STRANGER)


@needs_compiler
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (truncate, "damaged"),
        (flip_a_bit, "damaged"),
        (empty_digest, "damaged"),
        (no_digest, ""),
        (writable_by_the_group, "mode 0660"),
        (digest_writable_by_all, "mode 0666"),
        (folder_writable_by_all, "others could write"),
        (link_elsewhere, "is a link"),
        (pipe, "is no file"),
        pytest.param(give_library_away, f"user {STRANGER}", marks=needs_root),
        pytest.param(give_digest_away, f"user {STRANGER}", marks=needs_root),
    ],
)
def test_a_library_that_cannot_be_trusted_is_made_anew(
    change: Callable[[Path], None],
    line: str,
    cache_folder: Path,
    compilations: list[Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_again()
    change(only_library(cache_folder))
    open_again()
    assert len(compilations) == 2
    assert [line in record.getMessage() for record in caplog.records] == [True] * bool(line)
    library = only_library(cache_folder)
    assert library.lstat().st_mode == stat.S_IFREG | 0o600
    assert library.stat().st_uid == os.geteuid()
    assert cache_folder.stat().st_mode & 0o777 == 0o700
    open_again()
    assert len(compilations) == 2


@needs_compiler
@needs_root
def test_nothing_is_loaded_from_the_folder_of_another_user(
    cache_folder: Path, compilations: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    open_again()
    os.chown(cache_folder, STRANGER, STRANGER)
    open_again()
    assert cache_folder not in compilations[1].parents
    assert not compilations[1].parent.exists()
    assert [f"user {STRANGER}" in record.getMessage() for record in caplog.records] == [True]


@needs_compiler
def test_what_is_killed_before_it_is_on_the_disk_leaves_no_library(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files and their folder are on the disk before they get their names."""
    steps: list[str] = []
    synchronize, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(kind)
        synchronize(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        steps.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    open_again()
    assert steps == ["file", "file", "folder", "name", "name", "folder"]


@needs_compiler
def test_without_a_folder_that_can_be_written_kernels_are_the_process_own(
    tmp_path: Path,
    cache_folder: Path,
    compilations: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "caches"))
    open_again()
    [library] = compilations
    assert not library.parent.exists()
    assert len(caplog.records) == 1
    assert "this process alone" in caplog.text


@needs_compiler
@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_kernels_are_the_process_own(
    home: str | None,
    tmp_path: Path,
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    open_again()
    assert not list(tmp_path.iterdir())
    assert len(caplog.records) == 1
    assert "set XDG_CACHE_HOME" in caplog.text


@needs_compiler
@needs_root
def test_a_user_that_the_system_does_not_know_has_kernels_too(tmp_path: Path) -> None:
    """As containers start programs: no home, no entry in the list of users, read-only folders."""
    code = (
        "import os, logging; logging.basicConfig()\n"
        "from luq.formats.kernels import cpu\n"
        f"os.setgid({STRANGER}); os.setuid({STRANGER})\n"
        "assert cpu.library() is not None"
    )
    (tmp_path / "read-only").mkdir(mode=0o555)
    without_home = {name: text for name, text in os.environ.items() if name != "HOME"}
    without_home.pop("XDG_CACHE_HOME", None)
    read_only = {**without_home, "XDG_CACHE_HOME": str(tmp_path / "read-only")}
    for environment in (without_home, read_only):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("WARNING") == 1
        assert "this process alone" in done.stderr


def test_with_nowhere_to_write_torch_does_it(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(cache.tempfile, "TemporaryDirectory", nowhere)
    assert cpu.library.__wrapped__() is None
    assert "torch unpacks" in caplog.records[-1].getMessage()


@needs_compiler
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cc -g0", ["cc", "-g0"]),
        ("'cc' -w", ["cc", "-w"]),
        ("no-such-compiler", ["cc"]),
        ("'", ["cc"]),
        ("", ["cc"]),
    ],
)
def test_cc_may_hold_options(
    command: str, words: list[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    if shutil.which("cc"):
        assert cache.installed_compiler() == words
    assert cpu.library.__wrapped__() is not None
    assert only_library(cache_folder)


def test_without_any_compiler_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert cpu.library.__wrapped__() is None
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "no C compiler" in record.getMessage()


SANITIZED = """
import torch
from luq.formats.kernels import cpu, searches
from luq.formats.trellis import all_numbers
from tests.luq.formats.test_kernels import CASES, GENERATOR
assert cpu.library() is not None
for weight in CASES.values():
    x = torch.randn(3, weight.shape[1], generator=GENERATOR)
    kernel = weight.cpu_kernel()
    kernel.linear(x)
    for dtype in (torch.float32, torch.float16):
        kernel.unpack(dtype)
        kernel.tiled(x, dtype)
    for tokens in (1, 2, 5, 33):
        kernel.eight_bits(torch.randn(tokens, weight.shape[1], generator=GENERATOR))
for rows, columns in ((1, 2), (5, 7), (3, 33), (2, 128), (1, searches.WIDEST_BLOCK)):
    target = torch.randn(rows, columns, generator=GENERATOR)
    assert searches.billm_errors(target, min(49, columns - 1)) is not None
    for tried in (1, 9):
        thresholds = target.abs().flatten().quantile(torch.linspace(0, 1, tried))
        assert searches.billm_errors(target, thresholds) is not None
    ordered, order = searches.sorted_rows(target)
    assert searches.nearest_of_four(target[0], torch.zeros(4, columns)) is not None
    for paired in (True, False):
        start = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.double)
        assert searches.four_levels(ordered, order, torch.ones(columns), start, paired, 3) is not None
for bits, window in ((1.0, 5), (1.0, 9), (2.0, 6), (3.0, 7), (4.0, 8), (4.0, 12), (1.25, 6), (3.5, 8)):
    for sequences, length in ((1, 1), (3, 13), (5, 40)):
        values = torch.randn(sequences, length, generator=GENERATOR)
        states = torch.randint(0, 1 << window, (sequences,), generator=GENERATOR)
        assert searches.trellis(values, all_numbers(window), states, bits, window) is not None
print("all kernels ran")
"""


def sanitizers() -> list[str]:
    """The compiler's run-time libraries that find bad addresses and undefined behaviour."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        command = ["gcc", f"-print-file-name={name}"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        libraries.append(answer.stdout.strip())
    return [library for library in libraries if Path(library).is_absolute()]


@pytest.fixture(scope="module")
def sanitized_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiling takes longer than running: these tests share a cache."""
    return tmp_path_factory.mktemp("sanitized")


def run_sanitized(caches: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python whose C kernels are compiled with gcc's sanitizers; skip where it has none."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine")
    libraries = sanitizers()
    if len(libraries) < 2:
        pytest.skip("gcc has no address and undefined-behaviour sanitizers here")
    flags = "-g -fsanitize=address,undefined -fno-sanitize-recover=all"
    # gcc takes half a minute to optimize what its sanitizers add; they see as much without
    code = f"from luq.formats.kernels import cache\ncache.FLAGS = ('-O1', *cache.FLAGS[1:])\n{code}"
    environment = {
        **os.environ,
        "CC": f"gcc {flags}",
        "XDG_CACHE_HOME": str(caches),
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory until it ends
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


def test_the_kernels_stay_within_their_buffers(sanitized_cache: Path) -> None:
    """Every C function over odd shapes, under AddressSanitizer and UBSan."""
    done = run_sanitized(sanitized_cache, SANITIZED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all kernels ran" in done.stdout


MUTATED = """
from tests.luq.formats.fuzz import campaign
outcomes = campaign(1, 3000)
assert outcomes["answered"] > 150, outcomes
print("mutated weights stayed within their buffers")
"""


def test_mutated_weights_stay_within_their_buffers(sanitized_cache: Path) -> None:
    """What is not refused of a stranger's weights reads no foreign memory."""
    done = run_sanitized(sanitized_cache, MUTATED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mutated weights stayed" in done.stdout


OVERRUN = """
import torch
from luq.formats.kernels import cpu
kernels = cpu.library()
values, errors = torch.zeros(1, 8), torch.zeros(1, 3, dtype=torch.double)
# 9 columns, where there are 8
pointers = [cpu.address(values), cpu.address(errors)]
kernels.luq_billm_salient(*pointers, *cpu.longs(1, 9, 3))
"""


def test_the_sanitizer_would_see_a_read_beyond_a_buffer(sanitized_cache: Path) -> None:
    done = run_sanitized(sanitized_cache, OVERRUN)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


INTERPRETED = """
import torch
from luq.formats.kernels import gpu, searches
from luq.formats.trellis import all_numbers
from tests.luq.formats.test_kernels import CASES, GENERATOR, GPU, relative_error
for name, weight in CASES.items():
    x = torch.randn(2, weight.shape[1], generator=GENERATOR)
    found = weight.gpu_linear(x)
    if name not in GPU:
        assert found is None, name
        continue
    assert found is not None, name
    error = relative_error(found, x, weight)
    assert error < 2e-6, (name, error)
for bits, window in ((1.0, 6), (2.0, 6), (2.0, 8), (3.0, 7), (4.0, 8), (1.25, 6), (1.5, 7), (2.75, 8)):
    values = torch.randn(3, 12, generator=GENERATOR)
    states = torch.randint(0, 1 << window, (3,), generator=GENERATOR, dtype=torch.int32)
    found = gpu.search(values, all_numbers(window), states, bits, window)
    wanted = searches.viterbi(values, all_numbers(window), states, bits, window)
    assert torch.equal(found, wanted), (bits, window)
print("same")
"""


def test_triton_kernels_in_the_interpreter() -> None:
    """The GPU's kernels, run by Triton's interpreter, against `dequantize`."""
    pytest.importorskip("triton", reason="the optional package triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "same" in done.stdout


def test_a_kernel_that_fails_or_errs_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "TRUSTED", {})
    right, asked = torch.arange(8.0), []

    def answer(kind: str, found: object) -> torch.Tensor | None:
        def run() -> torch.Tensor | None:
            asked.append(kind)
            if isinstance(found, Exception):
                raise found
            return found

        return kernels.checked((kind,), run, lambda: right)

    for _ in range(2):
        assert answer("good", right) is right
        assert answer("wrong", right + 1) is None
        assert answer("broken", RuntimeError("no such instruction")) is None
        assert answer("unknown", None) is None
    assert asked == ["good", "wrong", "broken", "unknown", "good", "unknown"]
    assert "no such instruction" in caplog.text
    assert "gives other numbers" in caplog.text


@needs_compiler
def test_inputs_that_are_not_finite_say_nothing_about_a_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "TRUSTED", {})
    weight = CASES["4 bit, (128, 128, 1, False)"]
    assert kernels.linear(torch.full((1, 128), torch.nan), weight) is None
    assert not caplog.records
    assert kernels.linear(torch.ones(1, 128), weight) is not None


# C function -> a weight that it reads
FUNCTIONS = {
    "luq_integer_matvec": "2 bit, (70, 384, 24, True)",
    "luq_integer_unpack": "3 bit, (70, 384, 24, True)",
    "luq_binary_matvec": "binary, (9, 192, 128, 0.2)",
    "luq_binary_unpack": "binary, (9, 192, 128, 0.2)",
    "luq_ternary": "ternary, (7, 13, 1)",
    "luq_integer_eight": "2 bit, (70, 384, 24, True)",
    "luq_ternary_eight": "ternary, (7, 13, 1)",
    "luq_row_column": "row and column, (9, 13, 13, 0.3)",
    "luq_trellis_matvec": "trellis, (33, 100, 1)",
    "luq_trellis_unpack": "trellis, (33, 100, 1)",
    "luq_trellis_turn": "trellis, (33, 100, 1)",
    "luq_trellis_turn_back": "trellis, (33, 100, 1)",
    "luq_trellis_straighten": "trellis, (33, 100, 1)",
    "luq_trellis_eight": "trellis, (33, 100, 1)",
}


@pytest.fixture
def miscompiled(
    cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Make a C function do nothing, as a compiler that errs could."""

    def spoil(function: str) -> None:
        text = cache.SOURCE.read_text(encoding="utf-8")
        text = f"#define {function} dropped\n{text}\n#undef {function}\n"
        source = tmp_path / "cpu.c"
        source.write_text(f"{text}int {function}() {{ return 0; }}\n", encoding="utf-8")
        monkeypatch.setattr(cache, "SOURCE", source)

    monkeypatch.setattr(kernels, "TRUSTED", {})
    monkeypatch.setattr(torch, "empty", torch.zeros)  # memory may hold the right answer by chance
    cpu.library.cache_clear()
    yield spoil
    cpu.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_c_kernel_that_errs_is_left_for_torch_with_one_line(
    function: str, miscompiled: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    weight = CASES[FUNCTIONS[function]]
    miscompiled(function)
    x = torch.randn(1, weight.shape[1], generator=GENERATOR)
    seen = weight.eight_bit_inputs(x)
    for _ in range(2):
        product = kernels.linear(x, weight)
        assert product is None or relative_error(product, x, weight) < 2e-6
        assert torch.equal(kernels.unpack(weight, torch.float32), weight.dequantize())
        rounded = kernels.linear(x, weight, in_eight_bits=True)
        # exact where there is no such code, or none that is trusted
        inputs = [x] if seen is None else [x, seen]
        assert rounded is None or min(relative_error(rounded, i, weight) for i in inputs) < 1e-3
    assert caplog.records
    assert {"gives other numbers" in record.getMessage() for record in caplog.records} == {True}
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records)


@needs_compiler
@pytest.mark.parametrize(
    "function",
    [
        "luq_trellis_encode",
        "luq_billm_salient",
        "luq_billm_split",
        "luq_four_levels",
        "luq_sort_rows",
        "luq_nearest_of_four",
        "",
    ],
)
def test_a_c_search_that_errs_is_left_for_torch_with_one_line(
    function: str, miscompiled: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    if function:
        miscompiled(function)
    values = torch.randn(3, 20, generator=GENERATOR)
    states = torch.zeros(3, dtype=torch.int32)
    for _ in range(2):
        path = searches.trellis(values, all_numbers(8), states, 2.0, 8)
        errors = searches.billm_errors(values, 5)
        compiled = cpu.library()
        assert compiled is not None
        assert lloyd._compiled_agrees(compiled) == (function != "luq_four_levels")
        compares = function not in ("luq_sort_rows", "luq_nearest_of_four")
        assert (searches.sorted_rows(values) is not None) == compares
        found = searches.nearest_of_four(values[0], values[:1].expand(4, -1).contiguous())
        assert (found is not None) == compares
        assert (path is None) == (function == "luq_trellis_encode")
        assert (errors is None) == function.startswith("luq_billm")
    assert len(caplog.records) == bool(function)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from luq.formats.kernels import gpu, triton_kernels
SIZES = "rows columns size groups plane zero_plane count block blocks length strips tiles"
STORED = dict(
    signs="*u8", flags="*u8", residual="*u8", salient="*u8", rank="*i32",
    codes="*i32", zeros="*u8", y="*fp32",
) | dict.fromkeys(SIZES.split(), "i32")
SEARCH = dict(
    values="*fp32", numbers="*fp32", states="*i32", path="*i32", choices="*u8"
)
HALVES = dict(x="*fp16", scales="*fp16")
CODED = dict(x="*fp32", codes="*u8", scales="*fp16", y="*fp32")
TILES = dict(WINDOW=12, TILE=16, TILES=gpu.TILES, SPLIT=gpu.SPLIT)
WIDE = dict(BLOCK=16, WIDTH=64)
cases = [
    (triton_kernels.binary, dict(x="*bf16", scales="*fp32"), WIDE),
    (triton_kernels.ternary, HALVES | dict(codes="*u8"), WIDE),
]
for bits in (2, 3, 4, 8):
    constants = dict(ASYMMETRIC=True, BLOCK=16, WORDS=8, BITS=bits)
    cases.append((triton_kernels.integer, HALVES, constants))
for quarters in (4, 5, 8, 12, 16):
    cases.append((triton_kernels.trellis, CODED, TILES | dict(QUARTERS=quarters)))
    period = 4 if quarters % 4 else 1
    constants = dict(QUARTERS=quarters, PERIOD=period, WINDOW=12)
    cases.append((triton_kernels.viterbi, SEARCH, constants))
for kernel, types, constants in cases:
    signature = {}
    for name in kernel.arg_names:
        signature[name] = "constexpr" if name in constants else (STORED | types)[name]
    for capability in (80, 90):
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(ASTSource(kernel, signature, constants), target=target)
        assert len(compiled.asm["cubin"]) > 1000
print("compiled")
"""


def test_triton_kernels_compile_for_gpus() -> None:
    """For an A100 and an H100, with Triton's own assembler: no GPU is needed for that."""
    pytest.importorskip("triton", reason="the optional package triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "compiled" in done.stdout


def has_gpu_kernel(weight: PackedWeight) -> bool:
    """Not integers in groups or rows that are no whole words, signs of rows and columns, tables."""
    if isinstance(weight, TrellisWeight):
        return weight.code == COMPUTED
    if isinstance(weight, IntegerWeight):
        return weight.group_size % 32 == 0 and weight.shape[1] % 32 == 0
    return not isinstance(weight, RowColumnWeight)


GPU = [name for name, weight in CASES.items() if has_gpu_kernel(weight)]


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [1.0, 1.25, 2.0, 3.0, 4.0])
def test_the_search_of_trellis_codes_on_a_gpu(bits: float) -> None:
    values = torch.randn(40, 272, generator=GENERATOR).to("cuda")
    states = torch.arange(40, dtype=torch.int32, device="cuda")
    assert searches._gpu_agrees(bits, 12, values.device)
    numbers = all_numbers(12)
    found = searches.trellis(values, numbers, states, bits, 12)
    assert found is not None
    costs = []
    for path in (found, searches.viterbi(values, numbers, states, bits, 12)):
        costs.append((values.cpu() - numbers[path.cpu()]).square().sum(1))
    assert torch.allclose(*costs, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_kernels_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    weight = CASES[name].to("cuda")
    x = torch.randn(2, weight.shape[1], generator=GENERATOR).to("cuda", dtype)
    found = weight.gpu_linear(x)
    assert found is not None
    assert found.dtype == dtype
    assert relative_error(found, x, weight) < (2e-6 if dtype == torch.float32 else 1e-2)


def test_products_of_16_bit_types_may_differ_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TRUSTED", {})
    for dtype, trusted in ((torch.float32, False), (torch.float16, True)):
        expected = torch.ones(8, dtype=dtype)
        answer = kernels.checked((dtype,), lambda e=expected: e * 1.005, lambda e=expected: e)
        assert (answer is not None) == trusted
