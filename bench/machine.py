"""What the operating system tells of processes and of itself (Linux: ``/proc``)."""

from __future__ import annotations

import os
import platform
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return the process and all its living descendants."""
    pids, queue = [], [pid]
    while queue:
        current = queue.pop()
        pids.append(current)
        try:
            for children in Path(f"/proc/{current}/task").glob("*/children"):
                queue.extend(int(child) for child in children.read_text().split())
        except OSError:
            continue  # it has just ended
    return pids


def cpu(pids: list[int]) -> float:
    """Return the processor seconds the processes have used, with those of their ended and reaped children."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return total / TICK


def pss(pids: list[int]) -> int:
    """Return the proportional set size of the processes together: shared pages are counted once. In bytes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def describe() -> str:
    """One line on the machine."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory:.0f} GiB, {platform.system()} {platform.release()}"
