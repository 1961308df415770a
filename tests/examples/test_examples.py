"""The examples run as they stand, in an empty folder, and say what they promise."""

import os
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {  # what each program prints, among other things
    "compare.py": ["16 bit", "2 layers low", "3 stored bits", "(n=24)"],
    "in_memory.py": ["packed:   PackedLinear", "restored: Linear", "reloaded: PackedLinear"],
    "own_samples.py": ["% of them in samples with images", "stored bits per weight"],
    "quantize.py": ["layer:tier", "stored bits per weight", "from_pretrained('packed')"],
}


def test_every_example_is_run() -> None:
    assert sorted(file.name for file in EXAMPLES.glob("*.py")) == sorted(SAID)
    assert [file.name for file in EXAMPLES.glob("*.ipynb")] == ["luq.ipynb"]


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    for text in SAID[name]:
        assert text in printed


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of it, in a kernel of its own."""
    checkout = str(EXAMPLES.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([checkout, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(EXAMPLES / "luq.ipynb", as_version=4)
    shown = [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    printed = ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            printed += output.get("text", "")
    assert "stored bits per weight of the linears" in printed
    assert "n = 24" in printed
    assert sum(shown) > 0, "the notebook shows what it said"
