"""What a person types to start Puna."""

import os
import shlex
from pathlib import Path

PUNA = "./puna" if (Path(__file__).parents[2] / "puna").is_file() else "puna"  # in what others read: report, model card


def typed() -> str:
    """What this person typed, for hints in the terminal: right in whatever folder they stand."""
    return shlex.quote(os.environ.get("PUNA_STARTED_AS") or PUNA)
