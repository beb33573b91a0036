"""The text of one PDF file, in a process of its own. `puna.corpus.pdf` runs this file; it imports nothing of Puna's.

Comes in: the path of a PDF, bytes of memory, seconds of processor time, pages and characters at most. Goes out, on stdout: one
JSON object {"error": reason or "", "pages": [text], "lost": pages that could not be read}. Must never happen: a hostile file
that takes more than its process.
"""

import json
import resource
import sys
from typing import Any

_PASSWORD = 4  # FPDF_ERR_PASSWORD


def _read(path: str, page_limit: int, character_limit: int) -> dict[str, Any]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        encrypted = getattr(error, "err_code", None) == _PASSWORD or "password" in str(error).lower()
        return {"error": "encrypted" if encrypted else "damaged", "pages": [], "lost": 0}
    pages: list[str] = []
    lost = characters = 0
    if len(document) > page_limit:
        return {"error": f"over {page_limit:,} pages", "pages": [], "lost": 0}
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage().get_text_range()
        except pypdfium2.PdfiumError:
            lost += 1
            continue
        # Half of a pair of UTF-16 is what a broken font table gives.
        text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode()
        characters += len(text)
        if characters > character_limit:
            return {"error": f"over {character_limit:,} characters", "pages": [], "lost": 0}
        pages.append(text)
        page.close()
    return {"error": "", "pages": pages, "lost": lost}


if __name__ == "__main__":
    memory, seconds, page_limit, character_limit = map(int, sys.argv[2:])
    if sys.platform == "linux":  # macOS does not enforce it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    json.dump(_read(sys.argv[1], page_limit, character_limit), sys.stdout)
