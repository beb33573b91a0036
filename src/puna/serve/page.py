"""The chat page's files: one HTML page, its style sheets, its scripts, its icon.

In: `/` and `/static/NAME`. Out: the bytes of a file that this package brought, with headers that let the page load, run and reach
nothing but this server. Must never happen: a path taken from a request is opened; the page runs a script that is not one of these files.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from puna.serve.errors import ApiError

router = APIRouter()

# Nothing is allowed but what is named. Trusted types go further than the list: the browser refuses to turn any text into markup or
# code at all, so that a mistake of ours in a script stays a picture of text.
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'", "base-uri 'none'",
        "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    )
)  # fmt: skip

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",  # kept by the browser, asked for again each time: 304 while nothing changed
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FIRST = "index.html"


@dataclass(frozen=True)
class _File:
    """One file of the page, as it is sent."""

    content: bytes
    kind: str
    tag: str
    """The entity tag (RFC 9110, section 8.8.3): a digest of the bytes."""


@cache
def _allowed() -> dict[str, _File]:
    """Every file of the page by its name, read once from the package. What is not in here does not exist."""
    found = {}
    for entry in files("puna.serve").joinpath("static").iterdir():
        kind = _TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind and entry.is_file():
            content = entry.read_bytes()
            found[entry.name] = _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    if _FIRST not in found:
        raise RuntimeError("the package lacks its chat page (src/puna/serve/static)")
    return found


@router.get("/", include_in_schema=False)
@router.head("/", include_in_schema=False)
def page(request: Request) -> Response:
    """The page itself."""
    return _sent(request, _allowed()[_FIRST])


@router.get("/static/{name}", include_in_schema=False)
@router.head("/static/{name}", include_in_schema=False)
def static_file(request: Request, name: str) -> Response:
    """One of the page's files; 404 for any other name."""
    one = _allowed().get(name)
    if one is None or name == _FIRST:  # the page has one address
        raise ApiError(404, "there is no such file of the page")
    return _sent(request, one)


def _sent(request: Request, one: _File) -> Response:
    headers = {**_HEADERS, "ETag": one.tag}
    asked = request.headers.get("if-none-match", "")
    if asked.strip() == "*" or one.tag in (tag.strip().removeprefix("W/") for tag in asked.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(one.content, 200, headers, one.kind)
