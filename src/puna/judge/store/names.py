"""Names of models and tasks as names of folders, and ids of results.

Comes in: any text. Goes out: a name that every file system takes. Must never happen: a path outside the store, or two different
names that become one folder.
"""

import hashlib
import re
import unicodedata
import uuid

LOCAL = "local"  # the developer of a model of which none is known
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

_LONGEST = 48  # letters; at most four bytes each, so that the mark fits below the 255 bytes of a file name
_RESERVED = {"con", "prn", "aux", "nul", *(f"{stem}{digit}" for stem in ("com", "lpt") for digit in range(10))}


def safe_name(text: str) -> str:
    """`text` as the name of one folder: its letters and digits of any script, ``. _ -``; what was changed gets a mark.

    The mark is the start of the text's SHA-256, so different texts stay different.
    """
    plain = unicodedata.normalize("NFC", text)
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in plain)[:_LONGEST]
    plain = plain.strip(".-")
    if plain and plain == text and plain.split(".")[0].lower() not in _RESERVED:
        return plain
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{plain}-{mark}" if plain else mark


def result_id(digest: str) -> str:
    """The id of a result from a SHA-256 (hex): its first 128 bits in the form of a version 4 UUID."""
    return str(uuid.UUID(bytes=bytes.fromhex(digest)[:16], version=4))
