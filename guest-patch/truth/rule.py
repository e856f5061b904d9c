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
NESTED = 1 << 5
EARLY = 1 << 6

ENDLESS = (1 << 63) - 1

MAX_OPEN = 16
BUCKETS = 40

COUNTERS = [
    "takes", "acquires", "trylocks", "contended", "releases", "deferrals", "defer_cycles", "defer_spin_cycles",
    "wait_cycles", "spin_cycles", "hold_cycles", "lql_sum", "lql_max", "lhp", "lhp_preempted", "lwp", "lwp_preempted",
    "lwp_blocked", "unpaired_take", "unpaired_acquire", "unpaired_release", "unpaired_deferral", "overflowed",
    "unslotted", "expired", "deferred_takes", "deferred_next", "deferred_capable", "psp_renewal", "psp_unslotted",
    "psp_trylock", "psp_followup", "psp_expired", "psp_nested", "psp_deferred", "psp_incapable", "psp_early",
    "psp_long_hold", "psp_long_wait", "psp_unknown",
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


def reason_of_ticket(take, refused):
    """The reason of a PSP if it lies in the ticket, else None."""
    if take.ctx & EXPIRED:
        return "expired"
    if take.ctx & NESTED:
        return "nested"
    if take.cap <= 0:
        return "deferred" if refused else "incapable"
    return None


def reason_of_wait(take, acquire, refused):
    """Why a waiter lost its quantum."""
    if dispatch_of(take) == dispatch_of(acquire):
        return "renewal"
    if take.ctx & TRYLOCK:
        return "trylock"
    early = take.cap == ENDLESS or acquire.ctx & EARLY
    return reason_of_ticket(take, refused) or ("early" if early else "long_wait")


def reason_of_hold(take, acquire, release, refused, csd):
    """Why a holder lost its quantum."""
    if dispatch_of(acquire) == dispatch_of(release):
        return "renewal"
    if slice_of(take) == 0:
        return "unslotted"
    if take.ctx & TRYLOCK:
        return "trylock"
    if other_quantum(take, acquire):
        return "followup"
    in_ticket = reason_of_ticket(take, refused)
    if in_ticket:
        return in_ticket
    if take.cap == ENDLESS:
        return "early"
    if csd == 0 or dispatch_of(release) != (dispatch_of(acquire) + 1) % (1 << 31):
        return "unknown"
    left = max(release.start - release.off, 0)
    if left < take.tsc + (take.lql + 1) * csd + take.cap:
        return "early"
    return "long_hold" if left >= acquire.tsc + csd else "long_wait"


class Level:
    """One CPU at one context level."""

    def __init__(self):
        # lock -> [take, acquire or None, refused before], in the order of the takes.
        self.open = OrderedDict()
        # (lock, when it was refused first, quantum of that)
        self.refused = None


class Cpu:
    """What happened on one CPU."""

    def __init__(self, csd=0):
        self.csd = csd
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
            level.refused = (event.lock, event.tsc, slice_of(event))
        elif level.refused[0] != event.lock:
            self.counts["unpaired_deferral"] += 1
            level.refused = (event.lock, event.tsc, slice_of(event))

    def _take(self, level, event):
        refused = False
        if level.refused is not None and level.refused[0] == event.lock:
            deferred = max(event.tsc - level.refused[1], 0)
            self.counts["defer_cycles"] += deferred
            self.counts["defer_spin_cycles"] += max(deferred - event.off, 0)
            self.counts["deferred_takes"] += 1
            # After the last number comes 1.
            self.counts["deferred_next"] += slice_of(event) == level.refused[2] % 0xffffffff + 1
            self.counts["deferred_capable"] += event.cap > 0
            refused = True
            level.refused = None
        self._open(level, event, refused)

    def _open(self, level, take, refused):
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
        level.open[take.lock] = [take, None, refused]

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
            self._open(level, event, False)
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
            counts["psp_" + reason_of_wait(take, event, episode[2])] += 1

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
            counts["psp_" + reason_of_hold(episode[0], acquire, event, episode[2], self.csd)] += 1
