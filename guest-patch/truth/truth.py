#!/usr/bin/env python3
"""Counts lock preemption from the kernel's own binary trace and compares it with what the agent counted.

    truth.py TRACE.tar SNAPSHOTS.jsonl

TRACE.tar is what `ispin-lab vm --trace` writes, SNAPSHOTS.jsonl what `--json` wrote in the same run. Both observers
were attached before the kernel let the first event through, so their counts must be equal, on each CPU and for each
lock. Exit code 0: they are; 1: they are not, or one of the two lost something; 2: a file cannot be read.

Shares no code with the agent: the rules are those of docs/abi.md, "The rule", told a second time.
"""

import json
import re
import struct
import sys
import tarfile
from collections import Counter, OrderedDict, defaultdict

OPEN_EPISODES = 16
TRYLOCK, BLOCKED, EXPIRED = 4, 8, 16
# What is counted per CPU.
NAMES = (
    "takes acquires trylocks contended releases deferrals lhp lhp_preempted lwp lwp_preempted lwp_blocked "
    "wait_cycles hold_cycles lql_sum lql_max unpaired_take unpaired_acquire unpaired_release unpaired_deferral "
    "overflowed unslotted expired"
).split()


class BadFile(Exception):
    """A file is not what it should be."""


# --- the ring buffer's format ---------------------------------------------------------------------------------------


def page_layout(text):
    """Offsets of the commit word and of the data in a sub-buffer, and its size."""
    field = r"field:[^;]*\b%s;\s*offset:(\d+);\s*size:(\d+);"
    commit, data = re.search(field % "commit", text), re.search(field % "data", text)
    if not commit or not data:
        raise BadFile("events/header_page names no commit and data")
    return int(commit[1]), int(commit[2]), int(data[1]), int(data[1]) + int(data[2])


class Format:
    """How the fields of an event lie in its record."""

    def __init__(self, text):
        self.name = re.search(r"^name: (\S+)", text, re.M)[1]
        self.number = int(re.search(r"^ID: (\d+)", text, re.M)[1])
        self.fields = {}
        line = r"field:([^;]*?)(\w+);\s*offset:(\d+);\s*size:(\d+);\s*signed:([01]);"
        for kind, name, offset, size, signed in re.findall(line, text):
            code = {1: "b", 2: "h", 4: "i", 8: "q"}[int(size)]
            self.fields[name] = (struct.Struct("<" + (code if signed == "1" else code.upper())), int(offset))

    def read(self, data, at, *names):
        return [self.fields[name][0].unpack_from(data, at + self.fields[name][1])[0] for name in names]


def records(data, layout, where):
    """Offset of each record in the sub-buffers of a CPU."""
    commit_at, commit_size, data_at, size = layout
    if len(data) % size:
        raise BadFile(f"{where}: {len(data)} bytes are no whole sub-buffers of {size}")
    for page in range(0, len(data), size):
        commit = int.from_bytes(data[page + commit_at : page + commit_at + commit_size], "little")
        if commit & (1 << 31):
            raise BadFile(f"{where}: the kernel lost events before offset {page}")
        at, end = page + data_at, page + data_at + (commit & 0xFFFFF)
        while at < end:
            (head,) = struct.unpack_from("<I", data, at)
            kind = head & 31
            if kind == 29:  # padding: the rest of the sub-buffer, or a record that was discarded
                if head >> 5 == 0:
                    break
                at += 4 + struct.unpack_from("<I", data, at + 4)[0]
            elif kind in (30, 31):  # time extend, absolute time stamp
                at += 8
            elif kind == 0:
                (length,) = struct.unpack_from("<I", data, at + 4)
                yield at + 8
                at += 4 + (length + 3 & ~3)
            else:
                yield at + 4
                at += 4 + kind * 4


# --- the rule -------------------------------------------------------------------------------------------------------


class Level:
    """What is open on one CPU at one context level."""

    def __init__(self):
        self.open = OrderedDict()
        self.deferred = 0


class Cpu:
    """What one CPU did, according to the trace."""

    def __init__(self, locks):
        self.count = Counter()
        self.levels = defaultdict(Level)
        self.locks = locks

    def add(self, kind, lock, ticket, lql, ids, tsc, ctx):
        level = self.levels[ctx & 3]
        getattr(self, kind)(level, lock, lql, ids, tsc, ctx)

    def opened(self, level, lock, lql, ids, tsc, ctx):
        self.count["takes"] += 1
        self.count["lql_sum"] += lql
        self.count["lql_max"] = max(self.count["lql_max"], lql)
        self.count["contended"] += lql > 0
        self.count["unslotted"] += ids & 0xFFFFFFFF == 0
        self.count["expired"] += bool(ctx & EXPIRED)
        if lock in level.open:
            self.count["unpaired_take"] += 1
            del level.open[lock]
        elif len(level.open) == OPEN_EPISODES:
            self.count["overflowed"] += 1
            level.open.popitem(last=False)
        level.open[lock] = {"take": (ids, tsc), "acquire": None}

    def no_take(self, level, lock):
        if lock == level.deferred:
            self.count["unpaired_deferral"] += 1
            level.deferred = 0

    def ispin_take(self, level, lock, lql, ids, tsc, ctx):
        if lock == level.deferred:
            level.deferred = 0
        self.opened(level, lock, lql, ids, tsc, ctx)

    def ispin_acquire(self, level, lock, lql, ids, tsc, ctx):
        self.count["acquires"] += 1
        self.locks[lock] += 1
        self.no_take(level, lock)
        if ctx & TRYLOCK:
            self.count["trylocks"] += 1
            self.opened(level, lock, lql, ids, tsc, ctx)
        episode = level.open.get(lock)
        if episode is None or episode["acquire"]:
            self.count["unpaired_acquire"] += 1
            level.open.pop(lock, None)
            return
        episode["acquire"] = (ids, tsc)
        self.count["wait_cycles"] += max(0, tsc - episode["take"][1])
        if self.crossed("lwp", episode["take"][0], ids) and ctx & BLOCKED:
            self.count["lwp_blocked"] += 1

    def ispin_release(self, level, lock, lql, ids, tsc, ctx):
        self.count["releases"] += 1
        self.no_take(level, lock)
        episode = level.open.pop(lock, None)
        if episode is None or not episode["acquire"]:
            self.count["unpaired_release"] += 1
            return
        self.count["hold_cycles"] += max(0, tsc - episode["acquire"][1])
        self.crossed("lhp", episode["acquire"][0], ids)

    def ispin_incapable(self, level, lock, lql, ids, tsc, ctx):
        self.count["deferrals"] += 1
        if level.deferred not in (0, lock):
            self.count["unpaired_deferral"] += 1
        level.deferred = lock

    def crossed(self, kind, before, after):
        """Counts a stretch that begins and ends in different quanta."""
        slices = before & 0xFFFFFFFF, after & 0xFFFFFFFF
        if 0 in slices or slices[0] == slices[1]:
            return False
        self.count[kind] += 1
        # Bit 0 of the dispatch number only tells that the vCPU runs.
        self.count[kind + "_preempted"] += before >> 33 != after >> 33
        return True


def from_trace(path):
    """Counts per CPU, acquires per lock, and how many events there were."""
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive.getmembers() if member.isfile()}
        text = lambda name: archive.extractfile(members[name]).read().decode()
        if "events/header_page" not in members:
            raise BadFile("no events/header_page in it")
        layout = page_layout(text("events/header_page"))
        formats = {}
        for name in members:
            if re.fullmatch(r"events/ispinlock/\w+/format", name):
                layout_of = Format(text(name))
                formats[layout_of.number] = layout_of
        for name in members:
            if re.fullmatch(r"per_cpu/cpu\d+/stats(\.after)?", name):
                lost = re.findall(r"^(overrun|commit overrun|dropped events): ([1-9]\d*)", text(name), re.M)
                if lost:
                    raise BadFile(f"{name}: the trace lost events: {lost}")
        cpus, locks, events = {}, Counter(), 0
        parts = defaultdict(list)
        for name in sorted(members):
            if part := re.fullmatch(r"per_cpu/cpu(\d+)/trace_pipe_raw(\.\d+)?", name):
                parts[int(part[1])].append(name)
        for number, names in parts.items():
            cpu = cpus[number] = Cpu(locks)
            for name in names:
                data = archive.extractfile(members[name]).read()
                for at in records(data, layout, name):
                    form = formats.get(struct.unpack_from("<H", data, at)[0])
                    if form is None:
                        raise BadFile(f"{name}: an event at {at} that is none of ispinlock's")
                    values = form.read(data, at, "lock", "ticket", "lql", "ids", "tsc", "ctx")
                    cpu.add(form.name, *values)
                    events += 1
        return {number: cpu.count for number, cpu in cpus.items()}, locks, events


# --- the agent ------------------------------------------------------------------------------------------------------


def from_agent(path):
    """Counts per CPU, acquires per lock, and losses, of the last snapshot."""
    last = None
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                last = json.loads(line)
            except ValueError as error:
                raise BadFile(f"line {number}: {error}") from error
    if last is None:
        raise BadFile("no snapshot in it")
    cpus = {vcpu["id"]: vcpu["counters"] for vm in last["vms"] for vcpu in vm["vcpus"]}
    locks = {row["key"]: row["acquires"] for row in last["locks"]}
    return cpus, locks, last["losses"]


def compare(trace, agent):
    """Lines of what differs, and of what both counted."""
    (cpus, locks, _), (agent_cpus, agent_locks, losses) = trace, agent
    differences, table = [], []
    for name in NAMES:
        total = max if name == "lql_max" else sum
        ours = total(count[name] for count in cpus.values())
        theirs = total(count[name] for count in agent_cpus.values())
        table.append(f"{name:18} {theirs:>16} {ours:>16} {theirs - ours:>12}")
        for cpu in sorted(cpus.keys() | agent_cpus.keys()):
            here = cpus.get(cpu, Counter())[name]
            there = agent_cpus.get(cpu, {}).get(name, 0)
            if here != there:
                differences.append(f"CPU {cpu}, {name}: agent {there}, trace {here}")
    for name in ("recursion_misses", "switches_dropped"):
        if losses[name]:
            differences.append(f"the agent lost events: {name} {losses[name]}")
    # Key 0 is what found the agent's table full; then a lock's row need not hold all of it.
    others = agent_locks.pop(0, 0)
    if others:
        some = {lock for lock, acquires in agent_locks.items() if acquires > locks[lock]}
        table.append(f"locks: {len(agent_locks)} have a row, {others} acquires found the table full, {len(some)} differ")
    else:
        some = {lock for lock in agent_locks.keys() | locks.keys() if agent_locks.get(lock, 0) != locks[lock]}
        table.append(f"locks: {len(locks)} with {sum(locks.values())} acquires, {len(some)} differ")
    differences += [f"lock {lock:#x}: agent {agent_locks.get(lock, 0)}, trace {locks[lock]}" for lock in sorted(some)]
    if sum(agent_locks.values()) + others != sum(locks.values()):
        differences.append(f"all locks together: agent {sum(agent_locks.values()) + others}, trace {sum(locks.values())}")
    return differences, table


def main(arguments):
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    read = []
    for path, reader in zip(arguments, (from_trace, from_agent)):
        try:
            read.append(reader(path))
        except (BadFile, OSError, tarfile.TarError, KeyError, TypeError) as error:
            print(f"truth.py: {path}: {error!r}" if isinstance(error, (KeyError, TypeError)) else f"truth.py: {path}: {error}",
                  file=sys.stderr)
            return 1 if "lost" in str(error) else 2
    differences, table = compare(*read)
    print(f"{read[0][2]} events\n{'':18} {'agent':>16} {'trace':>16} {'difference':>12}")
    print("\n".join(table))
    if differences:
        print(f"\n{len(differences)} differences:")
        print("\n".join(differences[:50]))
        return 1
    print("\nno difference")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
