"""Where and in which precision to compute, decided by measuring this machine.

Comes in: a wish ("auto", "fp32", "bf16"). Goes out: a `Device`. Must never happen: a precision or a speed assumed from
a processor's name: bf16 is ten times faster than fp32 on one CPU and four times slower on the next.
"""

import contextlib
import ctypes
import functools
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from puna.errors import PunaError

# cuBLAS is deterministic only with a fixed workspace, and torch looks at this once, at its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_MEASURE = 512  # a matrix that fits a core's cache and still fills the units, for the choice between two precisions
_TURNS = 5
_BF16_MUST_GAIN = 1.2  # bf16 costs digits: it has to be clearly faster
# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_LARGE, _PAD = 2**31 - 1, 256 << 20


@dataclass(frozen=True)
class Device:
    """A place to compute. `dtype`: matrix products run in it; weights and optimiser state stay fp32. `reason`: why."""

    name: str
    device: torch.device
    threads: int
    dtype: torch.dtype
    reason: str

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context in which a forward pass runs in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def synchronize(self) -> None:
        """Wait until all work is done, so that a clock reads the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def matmul_peak(self) -> float:
        """The best rate of a large product in this precision, FLOP/s, measured once per process."""
        return matmul_peak(self.dtype, self.device.type)


def pick_device(precision: Literal["auto", "fp32", "bf16"] = "auto") -> Device:
    """CUDA where there is one, else the CPU; "auto" takes bf16 only where this machine is faster with it.

    On a CPU the choice is measured (about 0.6 s). Raises `PunaError` for another precision.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise PunaError(f"precision {precision!r} is not one of auto, fp32, bf16", where="train.precision")
    wished = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision)
    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = wished or (torch.bfloat16 if native else torch.float32)
        reason = "set by hand" if wished else f"the GPU {'has' if native else 'lacks'} bf16 units"
        return Device(torch.cuda.get_device_name(device), device, threads, dtype, reason)
    device, name = torch.device("cpu"), f"{_cpu_name()}, {threads} threads"
    if wished is not None:
        return Device(name, device, threads, wished, "set by hand")
    # In turns, best of each: another process that takes a core for a tenth of a second must not decide.
    turns = [[_rate(dtype, "cpu", _MEASURE, 0.05) for dtype in (torch.float32, torch.bfloat16)] for _ in range(_TURNS)]
    single, half = (max(rates) for rates in zip(*turns, strict=True))
    dtype = torch.bfloat16 if half > _BF16_MUST_GAIN * single else torch.float32
    faster, ratio = ("fp32", single / half) if single > half else ("bf16", half / single)
    return Device(
        name,
        device,
        threads,
        dtype,
        f"{faster} products ran {ratio:.1f} times as fast as {'bf16' if faster == 'fp32' else 'fp32'}",
    )


@functools.cache
def matmul_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """The best rate of square matrix products, FLOP/s, over two sizes; measured once per process (under a second)."""
    sizes = (4096, 8192) if device == "cuda" else (1024, 2048)
    return max(_rate(dtype, device, size, 0.3) for size in sizes)


def _rate(dtype: torch.dtype, device: str, size: int, seconds: float) -> float:
    """FLOP/s of the fastest of several size³ products: 2·size³ operations each."""
    a, b = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    with torch.no_grad():
        for _ in range(2):
            torch.mm(a, b)
        best, begin = float("inf"), time.perf_counter()
        while time.perf_counter() - begin < seconds:
            wait()
            start = time.perf_counter()
            torch.mm(a, b)
            wait()
            best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _cpu_name() -> str:
    """The processor's name as the system states it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def tune_allocator() -> str:
    """Keep freed memory instead of handing it back at every step; says what it did. 1.3 to 1.7 times on CPU.

    Large activations otherwise come from fresh pages, which the kernel zeroes again at every step. Only glibc has
    these switches; elsewhere nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return "allocator left as it is: not glibc"
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # glibc caps the threshold for mapped blocks at 32 MB in some versions; allowing no mapped block has the same effect.
    done = {
        "no mapped blocks": mallopt(_M_MMAP_THRESHOLD, _LARGE) or mallopt(_M_MMAP_MAX, 0),
        "no trimming": mallopt(_M_TRIM_THRESHOLD, _LARGE),
        "256 MB kept on top": mallopt(_M_TOP_PAD, _PAD),
    }
    kept = [what for what, worked in done.items() if worked]
    return f"allocator: {', '.join(kept) or 'glibc refused every setting'}"


@functools.cache
def can_compile() -> tuple[bool, str]:
    """Whether `torch.compile` works here, and why not. Tried once per process on a tiny function (seconds)."""
    if not torch.cuda.is_available() and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return False, "no C++ compiler was found"
    try:
        # A compiler alone is not enough: Python's headers may be missing, or a cache folder not writable.
        compiled = torch.compile(lambda x: torch.relu(x) + 1)
        good = torch.equal(compiled(torch.arange(-32.0, 32.0)), torch.relu(torch.arange(-32.0, 32.0)) + 1)
    except Exception as error:  # whatever the compiler's many layers raise, the answer is the same: no
        return False, f"torch.compile failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    return (True, "torch.compile works") if good else (False, "torch.compile computes wrong numbers here")
