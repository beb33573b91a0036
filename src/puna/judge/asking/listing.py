"""Which models an endpoint has, and which of them is asked.

Comes in: a wire, the name that was typed. Goes out: the model's name and context as the server says them. Must never happen: a server
that answers whatever it is called (llama.cpp's does) judged under another model's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna.errors import PunaError
from puna.judge.asking.wire import Refused, Wire

_SHOWN_MODELS = 10


@dataclass(frozen=True)
class Listed:
    """What the server's /models says of one model."""

    name: str
    context: int | None = None


def find_model(wire: Wire) -> Listed:
    """The model that the endpoint names, as /models lists it. Raises `PunaError` with the names there are where it is not listed.

    A server without /models is taken at the user's word.
    """
    asked, host = wire.endpoint.model, wire.endpoint.host
    try:
        rows = wire.get("/models").get("data")
    except Refused as refused:
        if refused.status not in (404, 405, 501) or not asked:
            raise
        return Listed(asked)
    listed = (
        {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
        if isinstance(rows, list)
        else {}
    )
    if not asked and len(listed) == 1:
        asked = next(iter(listed))
    if asked in listed:
        return Listed(asked, _context_of(listed[asked]))
    if asked and not listed:
        return Listed(asked)
    names = ", ".join(_short(name) for name in sorted(listed)[:_SHOWN_MODELS]) + (
        ", ..." if len(listed) > _SHOWN_MODELS else ""
    )
    what = f"has no model {_short(asked)!r}" if asked else "has several models" if listed else "names no model"
    raise PunaError(
        what, where=host, mend=f"write one of them behind a #: {names}" if listed else "write its name behind a #"
    )


def _context_of(row: Mapping[str, Any]) -> int | None:
    """A model's context in tokens by the names that servers give it; llama.cpp tells only what the model was trained with."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    told = [row.get("max_model_len"), row.get("context_length"), row.get("context_window"), (meta or {}).get("n_ctx")]
    return next((value for value in told if type(value) is int and value > 1), None)


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:79] + "…"
