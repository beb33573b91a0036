"""What no training gives: uniform chance, and `xz -9e` on the same held-out text, alone and primed with training text.

Comes in: held-out and training texts. Goes out: bits per unit of held-out text. Must never happen: a compressor that is
given less than the model was (the window reaches back to the first byte), or a cost that does not add up to the file's.

xz reads the held-out documents as one text in the order of the corpus, so each may lean on those before it, which the
model, reading every document alone, may not: this favours xz. A unit's cost is what the file grows by when the unit is
added; the costs sum exactly to the file size (primed: the growth over the priming text's own file).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.judge.stats import Units

UNIFORM_BITS_PER_BYTE = 8.0  # log2(256)
MOST_BLOCKS = 64  # each costs a copied process
_WORKER = Path(__file__).with_name("xz_worker.py")
_LEAST_WINDOW = 64 << 20  # bytes: the preset's own


@dataclass(frozen=True)
class XzRun:
    """A compressor at work in a process of its own, beside whatever this process does."""

    process: subprocess.Popen[bytes]

    def bits(self) -> npt.NDArray[np.float64]:
        """Wait, and give the bits of each unit. Raises RuntimeError where the compressor failed."""
        answer, problems = self.process.communicate()
        if self.process.returncode != 0:
            raise RuntimeError(f"the compressor failed: {problems.decode(errors='replace').strip()[-500:]}")
        return 8.0 * np.diff(json.loads(answer))


@contextmanager
def start_xz(texts: Sequence[str], units: Units, primes: Sequence[Sequence[str]]) -> Iterator[list[XzRun]]:
    """One run for each list of priming texts (empty: unprimed). Leaving the block ends what still runs.

    `units` are contiguous in the order of `texts` (`documents.load` sees to it) and at most MOST_BLOCKS.
    """
    if np.any(np.diff(units.index) < 0) or units.count > MOST_BLOCKS:
        raise ValueError("units must be contiguous and few")
    encoded = [text.encode() for text in texts]
    lengths = units.sums([len(text) for text in encoded]).astype(int).tolist()
    runs: list[XzRun] = []
    with tempfile.TemporaryDirectory(prefix="puna-xz-") as folder:
        heldout, plan = Path(folder, "heldout"), Path(folder, "lengths")
        heldout.write_bytes(b"".join(encoded))
        plan.write_text(json.dumps(lengths))
        try:
            for number, prime in enumerate(primes):
                prime_path = Path(folder, f"prime{number}")
                with open(prime_path, "wb") as stream:
                    stream.writelines(text.encode() for text in prime)
                window = max(_LEAST_WINDOW, 1 << (prime_path.stat().st_size + heldout.stat().st_size).bit_length())
                # -I: neither the user's environment nor the working folder can change what the script imports.
                command = [sys.executable, "-I", str(_WORKER), str(prime_path), str(heldout), str(plan), str(window)]
                runs.append(XzRun(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)))
            yield runs
        finally:
            for run in runs:
                if run.process.poll() is None:
                    run.process.kill()
                with run.process:  # waits, and closes its pipes
                    pass
