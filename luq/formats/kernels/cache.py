"""The compiled C kernels on disk: made once per machine, and loaded only if nobody touched them.

A library is code that runs with the user's rights. So its folder and its file must be the user's
and closed to others' writing, and its bytes those that were compiled: their SHA-256 lies beside
it. What is damaged or somebody else's is compiled anew. Where there is no folder to keep it in, it
is compiled for this process alone.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from luq.store import durable

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("cpu.c")  # which includes the headers beside it
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC")
PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
COMPILER_SECONDS = 300  # after which a compiler that does not end is given up


def installed_compiler() -> list[str] | None:
    """The first C compiler that is installed, as words of a command: CC may hold options."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        try:
            words = shlex.split(command)
        except ValueError:  # a quote that does not end
            log.warning("CC=%s is no command: another compiler is looked for", command)
            continue
        if words and shutil.which(words[0]):
            return words
    return None


def open_library(compiler: list[str]) -> ctypes.CDLL:
    """The compiled kernels: from the user's cache, or compiled for this process alone.

    Args:
        compiler: Words of the command that compiles C.

    Raises:
        OSError: There is nowhere to compile to, or the system does not load the library.
        subprocess.SubprocessError: The compiler failed.
    """
    name = f"cpu-{_fingerprint(compiler)}.so"
    try:
        library = user_folder() / name
        if not _is_intact(library):
            _make(compiler, library)
        return _load(library)
    except OSError as error:
        log.warning(
            "no cache for compiled kernels, which are compiled for this process alone: %s", error
        )
    with tempfile.TemporaryDirectory(prefix="luq-") as scratch:
        library = Path(scratch) / name
        _compile(compiler, library)
        return _load(library)  # stays in memory when its file is gone


def user_folder() -> Path:
    """The user's folder for compiled kernels, made if it is missing.

    Raises:
        OSError: There is none, or it is somebody else's.
    """
    # by the XDG specification a path that is not absolute counts as none
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = _home() / ".cache"
    folder = caches / "luq"
    caches.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    status = folder.stat()
    if status.st_uid not in _trusted_users():
        raise PermissionError(f"{folder} belongs to user {status.st_uid}; set XDG_CACHE_HOME")
    if status.st_mode & OTHERS_WRITE:
        _take_back(folder)
    return folder


def _take_back(folder: Path) -> None:
    """Close a folder in which others could write, and drop the kernels that it holds."""
    folder.chmod(PRIVATE_FOLDER)
    log.warning("others could write in %s: it is private now, its kernels are made anew", folder)
    for path in folder.glob("cpu-*.so*"):
        path.unlink()


def _home() -> Path:
    try:
        home = Path(os.environ["HOME"]) if "HOME" in os.environ else Path.home()
    except RuntimeError as error:  # a user without an entry in the system's list
        raise FileNotFoundError("this user has no home folder; set XDG_CACHE_HOME") from error
    if not home.is_absolute():
        raise FileNotFoundError(f"HOME={home} is no absolute path; set XDG_CACHE_HOME")
    return home


def _trusted_users() -> tuple[int, int]:
    """Whose files are loaded: this user's, and the administrator's, who may do anything."""
    return (os.geteuid(), 0)


def _access_problem(status: os.stat_result) -> str:
    """Why somebody else could have written this file; empty if nobody could."""
    if status.st_uid not in _trusted_users():
        return f"belongs to user {status.st_uid}"
    if status.st_mode & OTHERS_WRITE:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _digest_file(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _is_intact(library: Path) -> bool:
    """Whether the user's own, whole library is there; what is not is said in the log.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        content = _read_own(library)
        digest = _read_own(_digest_file(library))
    except FileNotFoundError:
        return False  # never made, or killed between the two
    except PermissionError as error:
        log.warning("compiled kernels are not trusted and made anew: %s", error)
        return False
    if hashlib.sha256(content).hexdigest().encode() == digest:
        return True
    log.warning("compiled kernels are damaged and made anew: %s", library)
    return False


def _read_own(path: Path) -> bytes:
    """The bytes of a regular file that only this user can write.

    Raises:
        FileNotFoundError: There is none.
        PermissionError: It is a link, no file, or others could have written it.
    """
    # a named pipe must not block, and the file that is checked is the one that is read
    if path.is_symlink():
        raise PermissionError(f"{path} is a link")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        problem = _access_problem(status)
        if not stat.S_ISREG(status.st_mode):
            problem = "is no file"
        if problem:
            raise PermissionError(f"{path} {problem}")
        return file.read()


def _make(compiler: list[str], library: Path) -> None:
    """Compile into the cache. The library and its digest appear only when they are on the disk."""
    folder = library.parent
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled = Path(scratch) / library.name
        digest = _digest_file(compiled)
        _compile(compiler, compiled)
        digest.write_text(hashlib.sha256(compiled.read_bytes()).hexdigest(), encoding="ascii")
        for path in (compiled, digest):
            path.chmod(PRIVATE_FILE)
            durable.sync(path)
        durable.sync(Path(scratch))
        os.replace(compiled, library)
        os.replace(digest, _digest_file(library))
    durable.sync(folder)


def _load(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library), mode=os.RTLD_NOW)


def _fingerprint(compiler: list[str]) -> str:
    """Of all that decides the compiled bytes: a home folder may be shared by several machines."""
    processor = platform.processor()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith(("flags", "Features")):
            processor = line
            break
    sources = [SOURCE, *sorted(Path(__file__).parent.glob("*.h"))]
    texts = [source.read_text(encoding="utf-8") for source in sources]
    identity = f"{texts}{FLAGS}{compiler}{processor}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _compile(compiler: list[str], library: Path) -> None:
    """Compile cpu.c into `library`, in a folder that is the process's own."""
    compiled = library.with_suffix(".o")
    # linked without OpenMP's library: torch's copy is loaded already, and two would fight over the
    # cores
    headers = f"-I{Path(__file__).parent}"
    compile_arguments = [*FLAGS, headers, "-c", str(SOURCE), "-o", str(compiled)]
    link_arguments = ["-shared", str(compiled), "-o", str(library)]
    for arguments in (compile_arguments, link_arguments):
        subprocess.run(
            [*compiler, *arguments],
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMPILER_SECONDS,
        )
