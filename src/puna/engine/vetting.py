"""Whether a grammar can be compiled with bounded work: a program of its own, which can be stopped.

In: the grammar on standard input. Out: the library's complaint on standard output, empty where there is none. Must never happen: this takes
more than its seconds and memory.

The library intersects patterns without a bound of its own (twenty in one `allOf` never end), and what runs in a thread cannot be
stopped. So `constrain` asks here first. It imports nothing of Puna: it starts in a twentieth of a second.
"""

import resource
import subprocess
import sys
import threading
from typing import Any

SECONDS = 2  # of processor time
_MEMORY = 1 << 30  # bytes of address space
_PATIENCE = 30.0  # seconds by the clock: the machine may be busy
_TURNS = threading.BoundedSemaphore(2)  # grammars that are tried at the same time

# What one shape may use. A lexer's state takes 1 to 2 kB; fuel is steps of regex arithmetic: 50 a microsecond to build, 14 in a step.
LIMITS: dict[str, Any] = {
    "max_items_in_row": 20_000, "initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 100_000, "step_max_items": 50_000,
    "max_lexer_states": 20_000, "max_grammar_size": 100_000, "precompute_large_lexemes": False, "verbose_errors": False,
}  # fmt: skip


def complaint(grammar: str) -> str:
    """Why the grammar cannot be compiled within the bounds; "" where it can. For any thread; tens of milliseconds."""
    with _TURNS:
        try:
            # -I: neither the environment nor the working directory decides what is imported.
            done = subprocess.run([sys.executable, "-I", __file__], input=grammar.encode(), capture_output=True,
                                  timeout=_PATIENCE, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            return "it takes too long to compile"
    if done.returncode:
        return f"it takes more than {SECONDS} s or {_MEMORY >> 20} MB to compile"
    return done.stdout.decode("utf-8", "replace")


def _main() -> None:
    from llguidance import LLMatcher, LLParserLimits

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    refused, said = LLMatcher.validate_grammar_with_warnings(
        sys.stdin.buffer.read().decode(), limits=LLParserLimits(**LIMITS)
    )
    sys.stdout.buffer.write(said[0].encode() if refused else b"")


if __name__ == "__main__":
    _main()
