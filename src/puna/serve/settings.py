"""Every limit of the server, with its reason.

In: what the command line gives. Out: `Settings`. Must never happen: a server that strangers reach without a key.
"""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from puna.errors import PunaError

KEY_VARIABLE = "PUNA_SERVE_KEY"
_SHORTEST_KEY = 16  # characters: of random ones, more than can be tried over a network
_LONGEST_KEY = 512


@dataclass(frozen=True)
class Settings:
    """How the server is reached and what a request may ask. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    """The address that it listens at. One that others reach needs a key."""
    port: int = 8000
    """0 takes a free one."""
    key: str | None = field(default=None, repr=False)
    """Who sends `Authorization: Bearer KEY` may ask. None: whoever reaches the address may."""
    names: tuple[str, ...] = ()
    """Further host names under which a server on loopback is asked (behind a proxy, say)."""
    body_bytes: int = 2 << 20
    """A body: about 700,000 Chinese characters, more than any context here; reading it takes milliseconds."""
    header_bytes: int = 16 << 10
    """All headers and the address line together: what common web servers allow."""
    headers: int = 64
    """Browsers send about 20."""
    json_depth: int = 64
    """Levels of a body's nesting. A JSON schema takes two for each level of its own."""
    json_values: int = 100_000
    """Values in a body: a prompt given as ids is one each. Bounds what refusing a wrong body costs."""
    receive_seconds: float = 30.0
    """For a request's headers and body to arrive: who sends a byte a minute does not keep a connection."""
    request_seconds: float = 600.0
    """For one request, its stream included."""
    idle_seconds: float = 30.0
    """How long a connection without a request stays open."""
    connections: int = 512
    """Open at once; half of the usual limit of open files."""
    waiting: int = 256
    """Replies that wait for their turn in a model's queue; beyond, 503 with Retry-After."""
    running: int = 64
    """Replies of a model that are made together."""
    lookup: bool = False
    """Guess what a greedy reply repeats of its text, and check the guesses in one pass: the same text, sooner where it copies."""
    cache_tokens: int | None = None
    """Tokens of a model's cache; None: what its running replies need at most, within a part of the memory."""
    models: int = 8
    """Models in memory at once, so that loading by name cannot fill it."""
    n: int = 16
    """Replies to one prompt."""
    prompts: int = 64
    """Prompts (or texts to embed) in one request."""
    messages: int = 2048
    """Messages of one conversation."""
    max_tokens: int = 1 << 20
    """The most that `max_tokens` may say; the model's context ends a reply before."""
    stops: int = 16
    """Stop texts. OpenAI takes 4, others more."""
    stop_characters: int = 256
    """Of one stop text: so much of a stream can be held back."""
    tools: int = 128
    """Tools of one request, as OpenAI has it."""
    responses: int = 1024
    """Responses (`/v1/responses`) that are kept, so that a conversation can go on from one by its id."""
    responses_bytes: int = 64 << 20
    """What they take together: 64 kB each on average, more than most contexts' text here."""
    responses_seconds: float = 3600.0
    """How long one is kept."""
    drain_seconds: float = 30.0
    """After SIGTERM, for what runs to end."""
    retry_seconds: int = 1
    """What Retry-After says when the queue is full."""
    results: Path = Path("results")
    """The store in which `puna lineage` keeps comparisons, by that verb's default: what `/about` shows of them."""
    log: bool = False
    """A line for each request on stderr: who, what route, status, seconds. Never a text or a key."""

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.key is None:
            raise PunaError(
                "others could reach the server at this address, and it has no key",
                where=f"--host {self.host}",
                mend=f"set {KEY_VARIABLE} or give --key-file, or leave out --host",
            )
        if self.key is not None:
            _check_key(self.key, self.host)

    @property
    def loopback(self) -> bool:
        """True where only this machine reaches the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches. A name other than `localhost` may lead anywhere: False."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_key(path: Path | None) -> str | None:
    """The key from a file (its one line) or, without one, from the environment. Raises `PunaError` where it is empty or not readable.

    Never from the command line: every user of a machine can list the others' command lines.
    """
    if path is None:
        key = os.environ.get(KEY_VARIABLE)
        if key is not None and not key.strip():
            raise PunaError("is set and empty", where=KEY_VARIABLE, mend="unset it, or put a key there")
        return key.strip() if key is not None else None
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LONGEST_KEY + 3)
    except OSError as error:
        raise PunaError(f"cannot read the key ({error.strerror})", where=str(path)) from None
    key = raw.decode("ascii", "replace").strip()
    if not key:
        raise PunaError("holds no key: the file is empty", where=str(path))
    return key


def _check_key(key: str, host: str) -> None:
    if not all("!" <= letter <= "~" for letter in key) or not 1 <= len(key) <= _LONGEST_KEY:
        raise PunaError(
            f"is 1 to {_LONGEST_KEY} visible ASCII characters without spaces, on one line", where="the server's key"
        )
    if not is_loopback(host) and len(key) < _SHORTEST_KEY:
        raise PunaError(
            f"is too short for an address that others reach: it needs {_SHORTEST_KEY} characters or more",
            where="the server's key",
            mend="make one with: openssl rand -hex 24",
        )
