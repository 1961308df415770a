"""The rules of the design that a machine can check."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from luq import registry

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    f for folder in ("luq", "pipelines", "analysis") for f in (ROOT / folder).rglob("*.py")
)
LAYERS = [  # lower may not import higher
    {"errors"},
    {"registry", "keys"},
    {"config"},
    {"store", "scratch"},
    {"results"},
    {"models", "tracking"},
    {"calibration", "evaluation", "pocket", "allocation"},
    {"profiling"},
    {"quantization"},
    {"memory", "checkpoint"},
]
ALLOWED_UP = {  # what an edge against the order is for
    (
        "evaluation",
        "quantization",
    ),  # the harness asserts that the packed linears stand where they should
}
MAX_LINES, MAX_FUNCTION = 250, 80
FORBIDDEN = {
    "luq": {"hydra", "omegaconf", "pipelines", "analysis"},
    "analysis": {"torch", "transformers", "hydra", "omegaconf", "pipelines", "lm_eval"},
}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of everything a tree imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imports(parsed(path))
    tops = {name.split(".")[0] for name in names}
    assert not tops & FORBIDDEN.get(package, set())
    if package == "analysis":
        mine = {".".join(n.split(".")[:2]) for n in names if n.startswith("luq.") or n == "luq"}
        light = {
            "results",
            "keys",
            "errors",
            "store",
            "evaluation",
            "tracking",
            "config",
            "registry",
        }
        assert mine <= {"luq", *(f"luq.{name}" for name in light)}, mine


def test_a_report_needs_no_torch() -> None:
    heavy = "[m for m in ('torch', 'transformers', 'datasets', 'lm_eval', 'hydra', 'wandb') if m in sys.modules]"
    code = f"import sys, analysis.report, analysis.__main__, analysis.wandb_records; sys.exit(str({heavy} or '') or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def rank(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


@pytest.mark.parametrize("path", [p for p in SOURCES if ids(p).startswith("luq/")], ids=ids)
def test_inside_luq_imports_go_down(path: Path) -> None:
    mine = path.relative_to(ROOT / "luq").parts[0].removesuffix(".py")
    if mine == "__init__":
        return
    for name in imports(parsed(path)):
        parts = name.split(".")
        if parts[0] != "luq" or len(parts) < 2 or parts[1] == "__version__":
            continue
        other = parts[1]
        assert other == mine or rank(other) <= rank(mine) or (mine, other) in ALLOWED_UP, (
            f"{ids(path)} imports {name}"
        )


def test_wandb_is_imported_late() -> None:
    for path in SOURCES:
        first = [
            node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert "wandb" not in {name.split(".")[0] for node in first for name in imports(node)}, ids(
            path
        )


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_size_and_habits(path: Path) -> None:
    tree, text = parsed(path), path.read_text()
    assert len(text.splitlines()) <= MAX_LINES, "split the file: one noun per file"
    if text.strip() and path.name != "__init__.py":
        assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, f"{node.name} is too long"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", "use the console or logging"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "no bare except"


@pytest.mark.parametrize(
    ("table", "name"), [(t, n) for t, names in registry.TABLES.items() for n in names]
)
def test_registry_targets_load(table: str, name: str) -> None:
    assert registry.load(table, name) is not None


def test_every_benchmark_has_a_task() -> None:
    tasks = {p.stem for p in (ROOT / "luq" / "evaluation" / "tasks").glob("*.yaml")} - {"_shared"}
    assert tasks == set(registry.TABLES["benchmark"])


def test_conf_files_show_how_they_are_used() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        text = path.read_text()
        assert "#" in text, f"{ids(path)} should say how it is used"
        yaml.safe_load(text)


def test_no_module_is_forgotten() -> None:
    for path in SOURCES:
        if path.name != "__main__.py":
            import_module(
                ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            )
