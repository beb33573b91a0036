"""The text of PDF files, by PDFium, in a process that a hostile file may kill.

Comes in: the path of a PDF. Goes out: its pages' text, or a count of why there is none. Must never happen: a crash, a hang or
a leak of the C++ library in the process that reads everything else.

pypdfium2 rather than pypdf: it knows the Chinese, Japanese and Korean encodings of fonts.
What pure Python would spare (memory errors of C++) the process of its own does.
"""

import json
import subprocess
import sys
from pathlib import Path

from puna.corpus.tally import Tally
from puna.errors import PunaError

FILE_LIMIT = 512 << 20  # bytes
PAGE_LIMIT = 10_000
CHARACTER_LIMIT = 64_000_000
CPU_SECONDS = 120
MEMORY_LIMIT = 4 << 30  # bytes of address space
_CHILD = Path(__file__).with_name("pdf_child.py")


def text_of(path: Path, tally: Tally) -> str | None:
    """The pages' text, one after the other; None (counted) for a PDF that is encrypted, damaged, too large or only pictures.

    Raises PunaError where pypdfium2 is not installed.
    """
    if path.stat().st_size > FILE_LIMIT:
        tally.skipped[f"PDF over {FILE_LIMIT >> 20} MiB"] += 1
        return None
    limits = (MEMORY_LIMIT, CPU_SECONDS, PAGE_LIMIT, CHARACTER_LIMIT)
    command = [sys.executable, "-I", str(_CHILD), str(path.absolute()), *map(str, limits)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        if b"No module named 'pypdfium2'" in done.stderr:
            raise PunaError("reading PDF needs pypdfium2", where=str(path), mend="pip install pypdfium2")
        tally.skipped["PDF that ends its reader (memory, time or a crash)"] += 1
        return None
    found = json.loads(done.stdout)
    if found["error"]:
        tally.skipped[f"PDF: {found['error']}"] += 1
        return None
    if found["lost"]:
        tally.skipped["PDF: page that is damaged"] += found["lost"]
    text = "\n\n".join(page.strip() for page in found["pages"] if page.strip())
    if not text:
        tally.skipped["PDF: pages without text (scanned?)"] += 1
        return None
    return text
