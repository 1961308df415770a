"""Where the trained pocket models lie."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # one checkpoint folder per model
