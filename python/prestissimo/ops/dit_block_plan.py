# SPDX-License-Identifier: Apache-2.0
"""Where the intermediate results of `dit_block` lie on the CPU: one piece of memory for each thread, planned once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Any

from .registration import new_empty

KEPT_BYTES = 256 << 20  # a thread keeps a plan's memory up to this size
KEPT_PLANS = 8


class Plan:
    """Where the intermediate results of one size lie: views of one piece of memory, those that never live together
    over one another."""

    def __init__(self, memory: Any, like: Any, B: int, T: int, H: int, Hk: int, D: int, F: int) -> None:
        M, C, N = B * T, H * D, (H + 2 * Hk) * D
        self.size = 0
        self.memory, self.like = memory, like
        self.y, self.y_rows = self._both(B, T, C)
        self.branch, self.branch_rows = self._both(B, T, C)
        self.after_self, _ = self._both(B, T, C)
        self.after_cross, _ = self._both(B, T, C)
        start = self.size
        self.qkv, self.qkv_rows = self._both(B, T, N)
        self.q, self.k = self._view(B, T, H, D), self._view(B, T, Hk, D)
        self.attended, self.attended_rows = self._both(B, T, H, D)
        ends = [self.size]
        self.size = start
        self.cross_q, self.cross_q_rows = self._both(B, T, H, D)
        self.cross_q_normed = self._view(B, T, H, D)
        self.cross_attended, self.cross_attended_rows = self._both(B, T, H, D)
        ends.append(self.size)
        self.size = start
        self.expanded, self.gated = self._view(M, 2 * F), self._view(M, F)
        self.size = max(*ends, self.size)
        if memory is not None:
            self.ones = new_empty(like, (B, C))  # its own: other plans write into the memory
            self.ones[...] = 1
            self.v = self.qkv[:, :, (H + Hk) * D :].reshape(B, T, Hk, D)

    def _view(self, *shape: int) -> Any:
        begin, item = self.size, self.like.dtype.itemsize
        end = begin + math.prod(shape) * item
        self.size = -(-end // 64) * 64
        if self.memory is None:
            return None
        return self.memory[begin:end].view(self.like.dtype).reshape(shape)

    def _both(self, B: int, T: int, *rest: int) -> tuple[Any, Any]:
        """[B, T, *rest], and the same as [B·T, the product of the rest]."""
        whole = self._view(B, T, *rest)
        return whole, None if whole is None else whole.reshape(B * T, math.prod(rest))


class Plans(threading.local):
    """Of each thread: the memory that all its plans share, and the plans, the least recently used one first."""

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}
        self.plans: OrderedDict[Any, Plan] = OrderedDict()


plans = Plans()


def plan_for(x: Any, H: int, Hk: int, F: int) -> Plan:
    B, T, C = x.shape
    kind = "numpy" if is_numpy(x) else "torch"
    key = (kind, x.dtype, B, T, C, H, Hk, F)
    plan = plans.plans.get(key)
    if plan is not None:
        plans.plans.move_to_end(key)
        return plan
    sizes = (B, T, H, Hk, C // H, F)
    like = new_empty(x, (0,))
    bytes_ = Plan(None, like, *sizes).size
    if bytes_ > KEPT_BYTES:
        return Plan(new_empty(x, (bytes_,), "uint8"), like, *sizes)
    kept = plans.memory.get(kind)
    if kept is None or kept.shape[0] < bytes_:
        plans.plans = OrderedDict((k, p) for k, p in plans.plans.items() if k[0] != kind)
        kept = plans.memory[kind] = new_empty(x, (bytes_,), "uint8")
    while len(plans.plans) >= KEPT_PLANS:
        plans.plans.popitem(last=False)
    plan = plans.plans[key] = Plan(kept, like, *sizes)
    return plan


def is_numpy(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "numpy"
