"""The rules of the design that a machine can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from luq.allocation.orders import ORDERS as RANKINGS
from luq.allocation.plans import PLANS as PLAN_FUNCTIONS
from luq.config import TIERS
from luq.config.allocation import PLANS
from luq.config.evaluation import BENCHMARKS
from luq.config.order import ORDERS
from luq.evaluation.scorers import SCORERS
from luq.quantization.methods import QUANTIZERS
from luq.questions.prompts import OTHER_PROMPTS

ROOT = Path(__file__).parent.parent
PACKAGES = ("luq", "pipelines", "analysis", "hydra_plugins")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# Each may import those before it, and itself.
ORDER = [
    "luq.errors",
    "luq.escaping",
    "luq.config",
    "luq.store",
    "luq.plugins",
    "luq.models",
    "luq.questions",
    "luq.calibration",
    "luq.profiling",
    "luq.allocation",
    "luq.formats",
    "luq.quantization",
    "luq.evaluation",
    "luq.graph",
    "luq.tower",
    "luq.planning",
    "luq.export",
    "luq.progress",
    "luq.api",
    "luq.pocket",
    "pipelines",
    "analysis",
]
# Where a module of the project may be imported inside a function.
LATE = {
    "luq/plugins.py": "the registry of plug-ins",
    "luq/__init__.py": "waits for transformers",
    "pipelines/cli.py": "the table of commands",
    "pipelines/cli_pocket.py": "the table of commands",
    "hydra_plugins/luq_optuna.py": "Hydra imports every plug-in at every start",
    "pipelines/cluster.py": "its worker imports dask, which is optional",
    "pipelines/plan.py": "a projection needs torch, and what was made before does not",
    "pipelines/checkpoints.py": "needs torch, and its neighbours do not",
}
OPTIONAL = "luq.formats.kernels.gpu"  # imports triton, which is optional
MAX_LINES = 450
MAX_FUNCTION = 80
# What the analysis imports must be read without the libraries that models need.
HEAVY = ("torch", "transformers", "datasets", "lm_eval", "hydra", "wandb")


class Import(NamedTuple):
    """A module that a file imports, and whether it does so inside a function."""

    module: str
    is_late: bool


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[Import]:
    """All imports of a file but those for type checkers alone."""
    yield from _imports_in(parsed(path), is_late=False)


def _imports_in(node: ast.AST, is_late: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, is_late) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (Import(f"{node.module}.{alias.name}", is_late) for alias in node.names)
    inside = is_late or isinstance(node, ast.FunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _imports_in(child, inside)


def part_of(module: str) -> str | None:
    """The part of `ORDER` that a dotted name belongs to; None for other projects."""
    top, _, rest = module.partition(".")
    if top in ("pipelines", "analysis"):
        return top
    name = f"{top}.{rest.partition('.')[0]}"
    return name if name in ORDER else None


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_imports_run_one_way(path: Path) -> None:
    mine = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if mine is None:  # luq/__init__.py
        return
    for module, is_late in imports(path):
        other = part_of(module)
        may_look_up = is_late and ids(path) in LATE
        if other is not None and not may_look_up:
            assert ORDER.index(other) <= ORDER.index(mine), f"{ids(path)} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_no_late_import_hides_a_cycle(path: Path) -> None:
    """Own modules are imported late only where an artefact is made, and in the registries."""
    if ids(path) in LATE or path.name == "artefacts.py":
        return
    late = [module for module, is_late in imports(path) if is_late and part_of(module)]
    assert [module for module in late if not module.startswith(OPTIONAL)] == []


def test_no_two_modules_import_each_other() -> None:
    """Neither do longer rings."""
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in SOURCES}
    edges: dict[str, set[str]] = {}
    for name, file in names.items():
        early = [module for module, is_late in imports(file) if not is_late]
        targets = {module for module in early if module in names}
        targets |= {module.rpartition(".")[0] for module in early} & names.keys()
        edges[name] = targets - {name}
    finished: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in finished:
            for target in edges[name]:
                visit(target, [*way, name])
            finished.add(name)

    for name in edges:
        visit(name, [])


def test_nobody_but_the_registry_and_the_commands_knows_the_plug_in() -> None:
    allowed = {"luq/plugins.py", "pipelines/cli.py", "pipelines/cli_pocket.py"}
    for path in SOURCES:
        if "pocket" in path.parts or ids(path) in allowed:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Compare):
                constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                assert "pocket" not in constants, f"{ids(path)}:{node.lineno} asks for pocket"


def test_the_library_knows_no_hydra() -> None:
    for path in (file for file in SOURCES if ids(file).startswith("luq/")):
        tops = {module.partition(".")[0] for module, _ in imports(path)}
        assert not tops & {"hydra", "omegaconf", "pipelines", "analysis"}, ids(path)


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys, analysis.report, analysis.__main__, analysis.wandb_records; "
        f"loaded = [m for m in {HEAVY} if m in sys.modules]; sys.exit(str(loaded or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_wandb_is_imported_late() -> None:
    for path in SOURCES:
        early = {module for module, is_late in imports(path) if not is_late}
        assert not [module for module in early if module.startswith("wandb")], ids(path)


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_size_and_habits(path: Path) -> None:
    tree = parsed(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, "one noun per file"
    if tree.body and path.name != "__init__.py":
        assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length < MAX_FUNCTION, f"{node.name} is too long"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", "use the console or logging"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "no bare except"


def test_names_in_the_config_are_those_of_the_tables() -> None:
    assert set(ORDERS) == set(RANKINGS)
    assert set(PLANS) == set(PLAN_FUNCTIONS)
    assert set(BENCHMARKS) == set(SCORERS)
    assert set(TIERS.values()) == set(QUANTIZERS)


def test_every_benchmark_has_a_task() -> None:
    tasks = {file.stem for file in (ROOT / "luq" / "questions" / "tasks").glob("*.yaml")}
    other = {f"{name}_{key}" for key, prompts in OTHER_PROMPTS.items() for name in prompts}
    assert tasks - {"_shared"} == set(BENCHMARKS) | other


def test_conf_files_show_how_they_are_used() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "#" in text, f"{ids(path)} should say how it is used"
        yaml.safe_load(text)


def test_no_module_is_forgotten() -> None:
    for path in SOURCES:
        if path.name != "__main__.py":
            parts = path.relative_to(ROOT).with_suffix("").parts
            import_module(".".join(parts).removesuffix(".__init__"))


def _text_files_of_any_encoding(path: Path) -> Iterator[int]:
    """Lines that read or write a text in whatever encoding the locale has."""
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        if isinstance(function, ast.Name):
            name = function.id
        says_encoding = any(keyword.arg == "encoding" for keyword in node.keywords)
        mode = next((k.value for k in node.keywords if k.arg == "mode"), None)
        modes = [value for value in (*node.args, mode) if isinstance(value, ast.Constant)]
        is_binary = any(isinstance(m.value, str) and "b" in m.value for m in modes)
        is_text_file = name in ("read_text", "write_text") or (name == "open" and not is_binary)
        # Image.open(stream), os.open(path, flags), and tables of questions, which open(tools).
        is_other_open = isinstance(function, ast.Attribute) and name == "open" and bool(node.args)
        is_other_open = is_other_open and not isinstance(node.args[0], ast.Constant)
        if is_text_file and not says_encoding and not is_other_open:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_texts_are_in_utf_8_whatever_the_locale(path: Path) -> None:
    assert list(_text_files_of_any_encoding(path)) == []
