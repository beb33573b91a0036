"""For the terminal tests: helper modules (tests_*.py), here and the server's tiny models that know their answers by heart."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
