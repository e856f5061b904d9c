"""Reads what xentrace recorded of Xen's scheduler.

The layout of records is that of xen/include/public/trace.h: a header with event, number of extra words and whether a time
stamp follows; records of one pCPU come in windows, each behind a record that says of which pCPU it is.
"""

import struct
from collections import namedtuple

LOST_RECORDS = 0x0001f001
WRAP_BUFFER = 0x0001f002
CPU_CHANGE = 0x0001f003
RUNSTATE_CHANGE = 0x00021001
SWITCH_PREV = 0x0002800e
SWITCH_NEXT = 0x0002800f
CONTINUED = 0x00028011
# TRC_SCHED_CLASS_EVT(CSCHED, 10): credit keeps a vCPU only because of its rate limit.
CREDIT_RATELIMIT = 0x0002200a

RUNNING, RUNNABLE, BLOCKED, OFFLINE = range(4)

# What a vCPU was granted at `tsc`: `new` = it came to a pCPU, else it stayed; `quantum` = a new quantum, else the old one
# with another end; `length` in ns, None = no limit.
Grant = namedtuple("Grant", ["tsc", "new", "quantum", "length"])
# When a vCPU left its pCPU, and as what: RUNNABLE = it was preempted.
Leave = namedtuple("Leave", ["tsc", "state"])


class XentraceError(Exception):
    """The file cannot be read as xentrace's."""


class Vcpu:
    """What the scheduler did with a vCPU, in order."""

    def __init__(self):
        self.grants = []
        self.leaves = []


class Xentrace:
    """The scheduler's decisions, by (domain, vCPU)."""

    def __init__(self, path):
        self.vcpus = {}
        # Whose next CONTINUED is no new quantum.
        self.kept = set()
        self.lost = 0
        self.records = 0
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise XentraceError(f"{path}: {error}") from error
        if not data:
            raise XentraceError(f"{path}: empty")
        self._read(path, data)
        for vcpu in self.vcpus.values():
            # Windows of several pCPUs are not in the order of time.
            vcpu.grants.sort()
            vcpu.leaves.sort()

    def _read(self, path, data):
        at, words = 0, len(data) // 4
        memory = memoryview(data)[:words * 4].cast("I")
        window = None
        while at < words:
            header = memory[at]
            event, extra, timed = header & 0x0fffffff, header >> 28 & 7, header >> 31
            end = at + 1 + 2 * timed + extra
            if end > words:
                # xentrace was ended in the middle of a write.
                raise XentraceError(f"{path}: the last record, at byte {4 * at}, is cut off")
            if event == CPU_CHANGE:
                window = memory[at + 1]
            elif window is None:
                raise XentraceError(f"{path}: begins with an event {event:#x}, not with one that says of which pCPU it is")
            else:
                tsc = memory[at + 1] | memory[at + 2] << 32 if timed else None
                self._record(event, tsc, memory[end - extra:end])
            at = end

    def _record(self, event, tsc, words):
        self.records += 1
        if event == LOST_RECORDS:
            self.lost += words[0]
        elif event == SWITCH_NEXT:
            self._vcpu(words[0], words[1]).grants.append(Grant(tsc, True, True, signed(words[3])))
        elif event == CONTINUED:
            who = (words[0], words[1])
            self._vcpu(*who).grants.append(Grant(tsc, False, who not in self.kept, signed(words[3])))
            self.kept.discard(who)
        elif event == CREDIT_RATELIMIT:
            # One word: the vCPU in its low half, the domain in the other one.
            self.kept.add((words[0] >> 16, words[0] & 0xffff))
        elif event & ~0xff0 == RUNSTATE_CHANGE and event >> 8 & 3 == RUNNING:
            # One word: the vCPU in its low half, the domain in the other one.
            self._vcpu(words[0] >> 16, words[0] & 0xffff).leaves.append(Leave(tsc, event >> 4 & 3))

    def _vcpu(self, domain, vcpu):
        return self.vcpus.setdefault((domain, vcpu), Vcpu())


def signed(word):
    """The low half of a signed number of ns; None = no limit."""
    return None if word & 1 << 31 else word


def record(event, tsc, *words):
    """A record, as Xen writes it: for tests."""
    header = event | len(words) << 28 | (tsc is not None) << 31
    stamp = () if tsc is None else (tsc & 0xffffffff, tsc >> 32)
    return struct.pack(f"<{1 + len(stamp) + len(words)}I", header, *stamp, *words)
