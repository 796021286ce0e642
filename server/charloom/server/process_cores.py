"""How many cores this process may use: those that it may run on, and how much of them its control groups allow.

Decision 0028 says how workers follow from that.
"""

from __future__ import annotations

import math
import os
import sys

from charloom.server import control_group


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def core_quota() -> float | None:
    """Cores' worth of time that its control groups allow it, such as 0.5; None where they do not limit it."""
    quotas = [*map(_of_version_2, _texts("cpu.max"))]
    for folder, text in control_group.found("cpu", "cpu.cfs_quota_us"):
        try:
            quotas.append(_ratio(text, (folder / "cpu.cfs_period_us").read_text()))
        except OSError:
            continue
    return min((quota for quota in quotas if quota is not None), default=None)


def cores_worth() -> float:
    """Cores' worth of time that it gets at most."""
    quota = core_quota()
    return float(cores()) if quota is None else min(quota, float(cores()))


def default_workers() -> int:
    """Decoder calls at a time on a CPU: one for each whole core, at least one."""
    return max(1, math.floor(cores_worth()))


def _texts(file: str) -> list[str]:
    return [text for _, text in control_group.found("cpu", file)]


def _of_version_2(text: str) -> float | None:
    quota, _, period = text.partition(" ")
    return _ratio(quota, period)


def _ratio(quota: str, period: str) -> float | None:
    """Cores' worth; None where there is no quota (`max`, -1)."""
    quota, period = quota.strip(), period.strip()
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None
