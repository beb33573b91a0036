"""How much memory there is: the machine's, or the container's where that is less. Imports nothing heavy."""

import os
from pathlib import Path

_CGROUPS = (  # the limit and the use of this process's container, by the two generations of Linux's control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def total_memory() -> int:
    """Bytes of memory in all."""
    limit, _ = _container()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total if limit is None else min(total, limit)


def free_memory() -> int:
    """Bytes of memory that a new process can have, by the kernel's own estimate; half of all where it gives none."""
    limit, used = _container()
    free = _available()
    return free if limit is None else max(0, min(free, limit - used))


def _available() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass  # not Linux: there is no such file, and the total serves
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _container() -> tuple[int | None, int]:
    """The container's limit (None where there is none) and what it uses now. Its caches count as used: a cautious figure."""
    for limit, used in _CGROUPS:
        try:
            bound = Path(limit).read_text().strip()
            if bound != "max":
                return int(bound), int(Path(used).read_text())
        except (OSError, ValueError):
            continue  # no such generation here
    return None, 0
