#!/usr/bin/env python3
"""Compares what agents and guests saw with what Xen's scheduler did, as xentrace recorded it.

    xen-patch/truth/switches.py XENTRACE AGENT.jsonl --guest g1=1:g1.tar --guest g2=2:g2.tar

AGENT.jsonl holds the snapshots of one run under Xen, XENTRACE the scheduler's records of it (xentrace -e 0x0002f000), and
a guest's trace the four events of its kernel. --guest says which domain a guest was, and where its trace is, if there is one.

Of every vCPU:
  - between two events, as many quanta and dispatches were published as the scheduler granted (needs the trace);
  - the published end of each quantum that an event tells of is the granted one (needs the trace);
  - a wait or hold lost its pCPU by the published numbers if and only if the scheduler switched the vCPU out in it, and the
    agent counted as many (needs the trace);
  - in each incident that the agent reported as a preemption, the scheduler switched the vCPU out.

Guests must read the pCPU's own TSC (PV or PVH with tsc_mode="native"): Xen's records are stamped with that.
Exit code: 0 no unexplained difference, 1 some, 2 unusable input.
"""

import argparse
import bisect
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "guest-patch", "truth")]

from ring_buffer import Reader, Trace, TraceError  # noqa: E402
from rule import ENDLESS, FIELDS, Cpu, Event, dispatch_of, other_quantum, slice_of  # noqa: E402
from xentrace import RUNNABLE, Xentrace, XentraceError  # noqa: E402

# Xen takes the time of a decision, and publishes it a little later than it records it; both in cycles at 1 GHz or more.
NEAR = 200_000


class Unusable(Exception):
    """The input cannot be compared."""


class Guest:
    """What is compared for one guest."""

    def __init__(self, text):
        name, _, rest = text.partition("=")
        domain, _, self.trace = rest.partition(":")
        if not name or not domain.isdigit():
            raise argparse.ArgumentTypeError(f"`{text}`: give NAME=DOMAIN or NAME=DOMAIN:TRACE.tar")
        self.name, self.domain = name, int(domain)


class Passages(Cpu):
    """The rule over one vCPU's events, which also keeps the ends of waits and holds."""

    def __init__(self, csd):
        super().__init__(csd)
        self.stretches = []

    def _acquire(self, level, event):
        before = level.open.get(event.lock)
        waiting = before is not None and before[1] is None
        super()._acquire(level, event)
        if waiting:
            self.stretches.append(("lwp", before[0], event))

    def _release(self, level, event):
        episode = level.open.get(event.lock)
        super()._release(level, event)
        if episode is not None and episode[1] is not None:
            self.stretches.append(("lhp", episode[1], event))


class Findings:
    """What was compared, and what differs."""

    def __init__(self):
        self.faults = []
        self.rows = []

    def fault(self, text):
        """An unexplained difference."""
        self.faults.append(text)


def snapshots_of(path):
    """All snapshots of a file."""
    found = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    raise Unusable(f"{path}:{number}: no snapshot: {error}") from error
    except OSError as error:
        raise Unusable(f"{path}: {error}") from error
    if not found:
        raise Unusable(f"{path}: no snapshot")
    return found


def between(times, start, end):
    """How many of the sorted `times` lie after `start` and before `end`."""
    return bisect.bisect_left(times, end) - bisect.bisect_right(times, start)


def compare_grants(where, events, vcpu, findings):
    """Numbers of quanta and dispatches against the scheduler's grants."""
    grants = [grant.tsc for grant in vcpu.grants if grant.quantum]
    arrivals = [grant.tsc for grant in vcpu.grants if grant.new]
    quanta = dispatches = 0
    seen = [event for _, event in events if slice_of(event)]
    for before, after in zip(seen, seen[1:]):
        if after.ids >> 33 == before.ids >> 33 and slice_of(after) == slice_of(before):
            continue
        published = (slice_of(after) - slice_of(before)) % (1 << 32), (dispatch_of(after) - dispatch_of(before)) % (1 << 31)
        granted = between(grants, before.tsc, after.tsc), between(arrivals, before.tsc, after.tsc)
        if published != granted:
            findings.fault(f"{where}: between {before.tsc} and {after.tsc} {published[0]} quanta and {published[1]} "
                           f"dispatches were published, {granted[0]} and {granted[1]} granted")
        quanta += granted[0]
        dispatches += granted[1]
    return quanta, dispatches


def compare_ends(where, events, vcpu, csd, cycles_per_ns, findings):
    """Published ends against granted ones; returns the largest distance."""
    times = [grant.tsc for grant in vcpu.grants]
    largest = looked_at = 0
    for kind, event in events:
        if kind not in ("ispin_take", "ispin_incapable") or not slice_of(event):
            continue
        at = bisect.bisect_right(times, event.tsc) - 1
        if at < 0:
            continue
        grant = vcpu.grants[at]
        if (event.cap == ENDLESS) != (grant.length is None):
            findings.fault(f"{where}: the quantum granted at {grant.tsc} has {'no' if grant.length is None else 'an'} end, "
                           f"the one published at {event.tsc} says otherwise")
            continue
        if grant.length is None:
            continue
        published = event.tsc + (event.lql + 1) * csd + event.cap
        distance = abs(published - (grant.tsc + grant.length * cycles_per_ns))
        looked_at += 1
        largest = max(largest, distance)
        if distance > NEAR:
            findings.fault(f"{where}: the quantum granted at {grant.tsc} ends at "
                           f"{grant.tsc + grant.length * cycles_per_ns:.0f}, published was {published}")
    return largest, looked_at


def compare_passages(where, events, vcpu, csd, findings):
    """Preempted waits and holds by the published numbers against the scheduler's switches. Returns how many of each."""
    leaves = [leave.tsc for leave in vcpu.leaves]
    cpu = Passages(csd)
    for kind, event in events:
        cpu.event(kind, event)
    counted = {"lhp": 0, "lwp": 0, "preempted": 0}
    for kind, start, end in cpu.stretches:
        if not slice_of(start) or not slice_of(end):
            continue
        published = dispatch_of(start) != dispatch_of(end)
        switched = between(leaves, start.tsc, end.tsc) > 0
        if published != switched:
            findings.fault(f"{where}: {kind} from {start.tsc} to {end.tsc}: the published numbers say "
                           f"{'left' if published else 'stayed'}, the scheduler {'left' if switched else 'stayed'}")
        if published and other_quantum(start, end):
            counted[kind] += 1
            first = vcpu.leaves[bisect.bisect_right(leaves, start.tsc)] if switched else None
            counted["preempted"] += first is not None and first.state == RUNNABLE
    return counted


def compare_incidents(where, incidents, vcpu, findings):
    """In each incident that is a preemption, the vCPU was switched out."""
    leaves = [leave.tsc for leave in vcpu.leaves]
    for incident in incidents:
        switched = between(leaves, incident["from"], incident["to"]) > 0
        if incident["preempted"] != switched:
            findings.fault(f"{where}: the agent's {incident['kind']} from {incident['from']} to {incident['to']} was "
                           f"{'' if incident['preempted'] else 'no '}preemption, by the scheduler it was "
                           f"{'one' if switched else 'none'}")
    return len(incidents)


def compare_guest(guest, xentrace, snapshots, options, findings):
    """Everything of one guest."""
    last = snapshots[-1]
    vms = [vm for vm in last["vms"] if vm["name"] == guest.name]
    if not vms:
        raise Unusable(f"the snapshots know no VM {guest.name}")
    csd = last["source"]["csd"]
    incidents = {}
    for snapshot in snapshots:
        for incident in snapshot["incidents"]:
            if incident["vm"] == guest.name:
                incidents.setdefault(incident["vcpu"], []).append(incident)
    events = {}
    if guest.trace:
        trace = Trace(guest.trace)
        reader = Reader(trace, FIELDS)
        for number in trace.pages:
            events[number] = [(kind, Event._make(fields)) for kind, fields in reader.events(number)]
        for what in trace.losses() + reader.losses():
            findings.fault(f"{guest.name}: the guest's trace has lost events: {what}")
    for counted in vms[0]["vcpus"]:
        number = counted["id"]
        where = f"{guest.name}/{number}"
        vcpu = xentrace.vcpus.get((guest.domain, number))
        if vcpu is None:
            findings.fault(f"{where}: the scheduler knows no vCPU {number} of domain {guest.domain}")
            continue
        row = [where, len(vcpu.grants), compare_incidents(where, incidents.get(number, []), vcpu, findings)]
        if number in events:
            quanta, dispatches = compare_grants(where, events[number], vcpu, findings)
            distance, looked_at = compare_ends(where, events[number], vcpu, csd, options.cycles_per_ns, findings)
            passages = compare_passages(where, events[number], vcpu, csd, findings)
            for kind in ("lhp", "lwp"):
                said = counted["counters"][f"{kind}_preempted"]
                if said != passages[kind]:
                    findings.fault(f"{where}: the agent counted {said} preempted {kind}, the guest's trace and the "
                                   f"scheduler have {passages[kind]}")
            row += [quanta, dispatches, passages["lhp"], passages["lwp"], passages["preempted"], looked_at, round(distance)]
        findings.rows.append(row)


HEAD = ["vCPU", "grants", "incidents", "quanta", "dispatches", "LHP", "LWP", "preempted", "ends", "off by"]


def print_table(rows):
    """The table of all vCPUs."""
    lines = [HEAD] + [[str(value) for value in row] + ["-"] * (len(HEAD) - len(row)) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths)))


def main(arguments):
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("xentrace", metavar="XENTRACE")
    parser.add_argument("agent", metavar="AGENT.jsonl")
    parser.add_argument("--guest", type=Guest, action="append", required=True, metavar="NAME=DOMAIN[:TRACE.tar]")
    parser.add_argument("--cycles-per-ns", type=float, default=1.0, metavar="N",
                        help="of the TSC (1, as while instructions are counted)")
    parser.add_argument("--most", type=int, default=20, metavar="N", help="show the first N differences (20)")
    options = parser.parse_args(arguments)
    findings = Findings()
    try:
        xentrace = Xentrace(options.xentrace)
        snapshots = snapshots_of(options.agent)
        for guest in options.guest:
            compare_guest(guest, xentrace, snapshots, options, findings)
    except (Unusable, TraceError, XentraceError) as error:
        print(f"switches: {error}", file=sys.stderr)
        return 2
    if xentrace.lost:
        findings.fault(f"xentrace lost {xentrace.lost} records: give it larger buffers (-S)")
    print_table(findings.rows)
    for fault in findings.faults[:options.most]:
        print(f"FAULT: {fault}")
    if len(findings.faults) > options.most:
        print(f"... and {len(findings.faults) - options.most} more")
    print(f"{len(findings.faults)} unexplained differences in {xentrace.records} records of the scheduler.")
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
