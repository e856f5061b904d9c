"""The rule of docs/abi.md, applied to the events of one CPU after the other.

It was written from that page, apart from the program that it checks: plain dictionaries, one event at a time.
"""

from collections import OrderedDict, namedtuple

# The fields of an event, as the rule needs them.
FIELDS = ["lock", "ip", "ids", "tsc", "cap", "start", "off", "ticket", "lql", "ctx"]
Event = namedtuple("Event", FIELDS)

LEVEL = 3
TRYLOCK = 1 << 2
BLOCKED = 1 << 3
EXPIRED = 1 << 4

MAX_OPEN = 16
BUCKETS = 40

COUNTERS = [
    "takes", "acquires", "trylocks", "contended", "releases", "deferrals", "defer_cycles", "defer_spin_cycles",
    "wait_cycles", "spin_cycles", "hold_cycles", "lql_sum", "lql_max", "lhp", "lhp_preempted", "lwp", "lwp_preempted",
    "lwp_blocked", "unpaired_take", "unpaired_acquire", "unpaired_release", "unpaired_deferral", "overflowed",
    "unslotted", "expired",
]


def slice_of(event):
    """The quantum; 0 = none published."""
    return event.ids & 0xffffffff


def dispatch_of(event):
    """The stay on a pCPU; bit 0 only says whether it lasts."""
    return event.ids >> 33


def other_quantum(a, b):
    """Whether two events lie in different quanta, both of them known."""
    return slice_of(a) != 0 and slice_of(b) != 0 and slice_of(a) != slice_of(b)


def bucket(value):
    """Of a histogram: [2^i, 2^(i+1)); 0 counts as 1, and the last one has no end."""
    return min(max(value.bit_length() - 1, 0), BUCKETS - 1)


class Level:
    """One CPU at one context level."""

    def __init__(self):
        # lock -> [take, acquire or None], in the order of the takes.
        self.open = OrderedDict()
        # (lock, when it was refused first)
        self.refused = None


class Cpu:
    """What happened on one CPU."""

    def __init__(self):
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.hold = [0] * BUCKETS
        self.wait = [0] * BUCKETS
        self.acquires = {}
        self.callers = {}
        self.levels = [Level() for _ in range(LEVEL + 1)]

    def event(self, kind, event):
        """Takes in the next event."""
        level = self.levels[event.ctx & LEVEL]
        if kind == "ispin_take":
            self._take(level, event)
        elif kind == "ispin_acquire":
            self._acquire(level, event)
        elif kind == "ispin_release":
            self._release(level, event)
        elif kind == "ispin_incapable":
            self._incapable(level, event)
        else:
            raise ValueError(f"an event {kind}")

    def open(self):
        """How many episodes are open."""
        return sum(len(level.open) for level in self.levels)

    def _incapable(self, level, event):
        self.counts["deferrals"] += 1
        if level.refused is None:
            level.refused = (event.lock, event.tsc)
        elif level.refused[0] != event.lock:
            self.counts["unpaired_deferral"] += 1
            level.refused = (event.lock, event.tsc)

    def _take(self, level, event):
        if level.refused is not None and level.refused[0] == event.lock:
            deferred = max(event.tsc - level.refused[1], 0)
            self.counts["defer_cycles"] += deferred
            self.counts["defer_spin_cycles"] += max(deferred - event.off, 0)
            level.refused = None
        self._open(level, event)

    def _open(self, level, take):
        counts = self.counts
        counts["takes"] += 1
        counts["contended"] += take.lql > 0
        counts["lql_sum"] += take.lql
        counts["lql_max"] = max(counts["lql_max"], take.lql)
        counts["unslotted"] += slice_of(take) == 0
        counts["expired"] += take.ctx & EXPIRED != 0
        if take.lock in level.open:
            counts["unpaired_take"] += 1
            del level.open[take.lock]
        elif len(level.open) == MAX_OPEN:
            counts["overflowed"] += 1
            level.open.popitem(last=False)
        level.open[take.lock] = [take, None]

    def _lose_refusal(self, level, event):
        if level.refused is not None and level.refused[0] == event.lock:
            self.counts["unpaired_deferral"] += 1
            level.refused = None

    def _acquire(self, level, event):
        counts = self.counts
        counts["acquires"] += 1
        self.acquires[event.lock] = self.acquires.get(event.lock, 0) + 1
        self._lose_refusal(level, event)
        if event.ctx & TRYLOCK:
            counts["trylocks"] += 1
            self._open(level, event)
        episode = level.open.get(event.lock)
        caller = episode[0].ip if episode is not None and episode[1] is None else event.ip
        self.callers[caller] = self.callers.get(caller, 0) + 1
        if episode is None:
            counts["unpaired_acquire"] += 1
            return
        if episode[1] is not None:
            counts["unpaired_acquire"] += 1
            del level.open[event.lock]
            return
        episode[1] = event
        take = episode[0]
        waited = max(event.tsc - take.tsc, 0)
        counts["wait_cycles"] += waited
        counts["spin_cycles"] += max(waited - event.off, 0)
        self.wait[bucket(waited)] += 1
        if other_quantum(take, event):
            counts["lwp"] += 1
            counts["lwp_preempted"] += dispatch_of(take) != dispatch_of(event)
            counts["lwp_blocked"] += event.ctx & BLOCKED != 0

    def _release(self, level, event):
        counts = self.counts
        counts["releases"] += 1
        self._lose_refusal(level, event)
        episode = level.open.pop(event.lock, None)
        if episode is None or episode[1] is None:
            counts["unpaired_release"] += 1
            return
        acquire = episode[1]
        held = max(event.tsc - acquire.tsc, 0)
        counts["hold_cycles"] += held
        self.hold[bucket(held)] += 1
        if other_quantum(acquire, event):
            counts["lhp"] += 1
            counts["lhp_preempted"] += dispatch_of(acquire) != dispatch_of(event)
