"""Where the configs that ship with LUQ are."""

from pathlib import Path

HERE = Path(__file__).parent
INSTALLED = HERE / "conf"
# Beside the packages in a checkout, inside of this one in an installed wheel.
CONF = INSTALLED if INSTALLED.is_dir() else HERE.parent / "conf"
