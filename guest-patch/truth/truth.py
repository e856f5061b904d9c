#!/usr/bin/env python3
"""Compares what ispin-agent counted with what the kernel's own trace of the same run says.

    truth.py TRACE.tar AGENT.jsonl

TRACE.tar is an archive of `ispin-load trace-dump`, AGENT.jsonl what `ispin-agent run --source guest --json` wrote. Both
observers must have seen the same events: attach both while the kernel's gate is closed
(/sys/module/ispinlock/parameters/events), open it, run the load, close it, and then end both.

Exit code: 0 no difference; 1 a difference, or something was lost; 2 the files cannot be compared.
"""

import argparse
import json
import sys

from ring_buffer import Reader, Trace, TraceError
from rule import COUNTERS, FIELDS, Cpu, Event

LEVEL_COUNTS = ["takes", "acquires", "trylocks", "releases", "deferrals", "lhp", "lhp_preempted", "lwp", "lwp_preempted",
                "lwp_blocked"]
# Losses of the agent after which its counts cannot be those of the trace, and what they mean.
FATAL = {
    "recursion_misses": "events that the kernel did not hand to a program",
}


class Unusable(Exception):
    """The files cannot be compared."""


def last_snapshot(path):
    """The last snapshot of the agent's file. All of it must be one session."""
    last = None
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    now = json.loads(line)
                except ValueError as error:
                    raise Unusable(f"{path}:{number}: no snapshot: {error}") from error
                if last is not None and (now["source"] != last["source"] or now["seq"] <= last["seq"]):
                    raise Unusable(f"{path}:{number}: another session begins here (the lock was set up in another way): "
                                   "its totals do not contain what was counted before")
                last = now
    except (OSError, KeyError, TypeError) as error:
        raise Unusable(f"{path}: {error!r}") from error
    if last is None:
        raise Unusable(f"{path}: no snapshot")
    if last["source"]["kind"] != "guest":
        raise Unusable(f"{path}: snapshots of the source {last['source']['kind']}, not of a guest")
    if len(last["vms"]) != 1:
        raise Unusable(f"{path}: {len(last['vms'])} VMs")
    return last


def apply_rule(trace, csd):
    """The events of every CPU through the rule, with the lock's csd. Returns the CPUs and what is missing in the trace."""
    reader = Reader(trace, FIELDS)
    if not reader.kinds:
        raise Unusable("the archive describes no event of system ispinlock")
    cpus = {}
    for number in trace.pages:
        cpu = Cpu(csd)
        for kind, fields in reader.events(number):
            cpu.event(kind, Event._make(fields))
        cpus[number] = cpu
    strangers = sum(reader.strangers.values())
    return cpus, trace.losses() + reader.losses(), strangers


TICKETS = 1 << 16


def order(trace):
    """Of the lock with most acquires: its address, its acquires, and those that came out of the tickets' order.

    The clocks of the CPUs must agree: in a run that counts instructions they do. A lock that is set up anew begins with
    ticket 0 again, so the busiest one must be a lock that stays."""
    reader = Reader(trace, FIELDS)
    events = [Event._make(fields) for number in trace.pages for kind, fields in reader.events(number) if kind == "ispin_acquire"]
    counts = {}
    for event in events:
        counts[event.lock] = counts.get(event.lock, 0) + 1
    if not counts:
        return 0, 0, 0
    lock = max(counts, key=counts.get)
    tickets = [event.ticket for event in sorted((e for e in events if e.lock == lock), key=lambda e: e.tsc)]
    wrong = sum((after - before) % TICKETS != 1 for before, after in zip(tickets, tickets[1:]))
    return lock, len(tickets), wrong


class Table:
    """Lines of what was compared."""

    def __init__(self):
        self.lines = []
        self.differences = 0

    def compare(self, name, agent, trace):
        """A line; returns whether both are the same."""
        self.differences += agent != trace
        self.lines.append((name, agent, trace, agent - trace))
        return agent == trace

    def print(self, title):
        """Prints all lines."""
        names = max((len(line[0]) for line in self.lines), default=0)
        print(f"{title:{max(names, len(title))}} {'agent':>20} {'trace':>20} {'difference':>12}")
        for name, agent, trace, difference in self.lines:
            mark = "" if difference == 0 else "   <--"
            print(f"{name:{max(names, len(title))}} {agent:>20} {trace:>20} {difference:>+12}{mark}")
        print()


def compare_counts(snapshot, cpus):
    """Every counter of all CPUs together, and the most important ones of each CPU."""
    vcpus = {vcpu["id"]: vcpu["counters"] for vcpu in snapshot["vms"][0]["vcpus"]}
    zero = dict.fromkeys(COUNTERS, 0)
    join = lambda name: max if name == "lql_max" else sum
    total = Table()
    for name in COUNTERS:
        agent = join(name)([counters[name] for counters in vcpus.values()] or [0])
        trace = join(name)([cpu.counts[name] for cpu in cpus.values()] or [0])
        total.compare(name, agent, trace)
    for what in ["hold", "wait"]:
        buckets = snapshot["vms"][0][what]["buckets"]
        for i in range(max(len(buckets), max((len(getattr(cpu, what)) for cpu in cpus.values()), default=0))):
            agent = buckets[i] if i < len(buckets) else 0
            trace = sum(getattr(cpu, what)[i] for cpu in cpus.values())
            if agent or trace:
                total.compare(f"{what} 2^{i}", agent, trace)
    each = Table()
    for number in sorted(vcpus.keys() | cpus.keys()):
        agent = vcpus.get(number, zero)
        trace = cpus[number].counts if number in cpus else zero
        for name in COUNTERS:
            if name in LEVEL_COUNTS and (agent[name] or trace[name]) or agent[name] != trace[name]:
                each.compare(f"cpu{number} {name}", agent[name], trace[name])
    return total, each


def compare_rows(rows, cpus, attribute, top, evicted):
    """Acquires per lock or caller. Returns the table of the top ones, and faults in words."""
    trace = {}
    for cpu in cpus.values():
        for key, n in getattr(cpu, attribute).items():
            trace[key] = trace.get(key, 0) + n
    agent = {row["key"]: row["acquires"] for row in rows if row["key"] != 0}
    names = {row["key"]: row["name"] for row in rows}
    others = sum(row["acquires"] for row in rows if row["key"] == 0)
    table, faults = Table(), []
    for key, n in sorted(trace.items(), key=lambda item: (-item[1], item[0]))[:top]:
        if key in agent:
            same = table.compare(f"{names[key]} ({key:#x})", agent[key], n)
            # What lost its row for a while has the rest of its totals among all others.
            if not same and 0 < agent[key] < n and evicted:
                table.differences -= 1
    for key, n in agent.items():
        if n > trace.get(key, 0):
            faults.append(f"{names[key]} ({key:#x}): the agent counted {n} acquires, the trace has {trace.get(key, 0)}")
    moved = sum(n - agent.get(key, 0) for key, n in trace.items())
    if moved != others:
        faults.append(f"all others: the agent counted {others} acquires; what the trace has on top of the agent's rows "
                      f"is {moved}")
    return table, faults


def main(arguments):
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", metavar="TRACE.tar")
    parser.add_argument("agent", metavar="AGENT.jsonl")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="compare the N busiest locks and callers (20)")
    parser.add_argument("--at-least", type=int, default=1, metavar="N",
                        help="fail if the trace has fewer than N acquires: a comparison of nothing shows nothing (1)")
    parser.add_argument("--fifo", action="store_true",
                        help="fail if the busiest lock was acquired in another order than that of its tickets")
    options = parser.parse_args(arguments)
    try:
        snapshot = last_snapshot(options.agent)
        cpus, lost, strangers = apply_rule(Trace(options.trace), snapshot["source"]["csd"])
        faults = compare(options, snapshot, cpus, lost)
        lock, acquires, wrong = order(Trace(options.trace))
        print(f"The busiest lock, {lock:#x}, was acquired {acquires} times, {wrong} of them out of the tickets' order.")
        if options.fifo and wrong:
            faults.append(f"{wrong} acquires of {lock:#x} out of the tickets' order")
    except (Unusable, TraceError) as error:
        print(f"truth: {error}", file=sys.stderr)
        return 2
    if strangers:
        print(f"The trace also has {strangers} entries of other events.")
    still = sum(cpu.open() for cpu in cpus.values())
    if still:
        print(f"At the end of the trace {still} episodes are open; neither side judges them.")
    for fault in faults:
        print(f"FAULT: {fault}")
    print("The agent and the kernel's trace differ." if faults else "The agent counted what the kernel's trace says.")
    return 1 if faults else 0


def compare(options, snapshot, cpus, lost):
    """Compares and prints everything; returns the faults in words."""
    faults = [f"the trace has lost events: {what}" for what in lost]
    for name, meaning in FATAL.items():
        if snapshot["losses"][name]:
            faults.append(f"the agent has lost events: {name} {snapshot['losses'][name]} ({meaning})")
    acquires = sum(cpu.counts["acquires"] for cpu in cpus.values())
    if acquires < options.at_least:
        faults.append(f"the trace has {acquires} acquires, fewer than {options.at_least}")

    total, each = compare_counts(snapshot, cpus)
    total.print("all CPUs")
    each.print("each CPU")
    if total.differences + each.differences:
        faults.append(f"{total.differences} totals and {each.differences} counts of single CPUs differ")
    evicted = snapshot["losses"]["table_overflowed"]
    for what, attribute in [("locks", "acquires"), ("callers", "callers")]:
        table, wrong = compare_rows(snapshot[what], cpus, attribute, options.top, evicted)
        table.print(f"acquires of the top {what}")
        faults.extend(f"{what}: {fault}" for fault in wrong)
        if table.differences:
            faults.append(f"{what}: the acquires of {table.differences} of the top ones differ")
    if evicted:
        print(f"The agent's tables were full: {evicted} times a row had to go. What such a lock or caller lacks above is "
              "among all others, to the digit, or a fault says otherwise.\n")
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
