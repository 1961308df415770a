"""How long a report over many records takes: `python benchmarks/report_time.py [--records 2000]`.

Prints seconds for the frames alone (load) and for all of `luq report`, and the size of the page.
The records are synthetic, in the shape that runs write; their answers are not there, so no
comparison is paired by question.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console

from analysis import frame, loading
from pipelines import runs_folder
from pipelines.units import human
from tests.analysis.synthetic import many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    count = parser.parse_args().records
    out = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        for record in many(count):
            runs_folder.write(outputs, record)
        begun = time.perf_counter()
        studies = frame.studies(loading.load(outputs, ["large"]))
        load_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        command = [sys.executable, "-m", "analysis", "large", "--outputs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        report_seconds = time.perf_counter() - begun
        if done.returncode:
            sys.exit(done.stderr)
        page = (outputs / "report" / "large" / "report.html").stat().st_size
        out.print(
            f"{count} records, {len(studies[0].plans)} plans: load {load_seconds:.2f} s, "
            f"report {report_seconds:.1f} s, page {human(page)}"
        )


if __name__ == "__main__":
    main()
