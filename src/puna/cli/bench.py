"""`puna bench`: run one of the measurements of bench/."""

import subprocess
import sys
from pathlib import Path

from puna.errors import PunaError


def run_bench(what: str, arguments: list[str]) -> int:
    """Run bench/<what>.py with `arguments`; its exit code. Raises `PunaError` where there is none of that name."""
    folder = Path(__file__).resolve().parents[3] / "bench"
    if not folder.is_dir():
        raise PunaError("the benches stand in the repository, and this is an installed package", where="puna bench",
                        mend="run it from a checkout")  # fmt: skip
    known = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if what not in known:
        raise PunaError(f"there is no bench {what!r}", where="puna bench", mend=f"benches: {', '.join(known)}")
    return subprocess.run([sys.executable, str(folder / f"{what}.py"), *arguments], check=False).returncode
