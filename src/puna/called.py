"""What a person types to start Puna: `./puna` in a checkout, `puna` where it is installed."""

from pathlib import Path

PUNA = "./puna" if (Path(__file__).parents[2] / "puna").is_file() else "puna"
