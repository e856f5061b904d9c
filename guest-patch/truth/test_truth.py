"""Tests of the comparison, over traces that are made here byte by byte.

    python3 -m unittest discover guest-patch/truth
"""

import contextlib
import io
import json
import os
import struct
import sys
import tarfile
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rule  # noqa: E402
import truth  # noqa: E402
from ring_buffer import Fields, Reader, Trace, TraceError, parse_layout  # noqa: E402

HEADER_PAGE = """\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
FORMAT = """name: {name}
ID: {number}
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:u64 lock;\toffset:8;\tsize:8;\tsigned:0;
\tfield:u64 ip;\toffset:16;\tsize:8;\tsigned:0;
\tfield:u64 ids;\toffset:24;\tsize:8;\tsigned:0;
\tfield:u64 tsc;\toffset:32;\tsize:8;\tsigned:0;
\tfield:s64 cap;\toffset:40;\tsize:8;\tsigned:1;
\tfield:u64 start;\toffset:48;\tsize:8;\tsigned:0;
\tfield:u64 off;\toffset:56;\tsize:8;\tsigned:0;
\tfield:u32 ticket;\toffset:64;\tsize:4;\tsigned:0;
\tfield:u32 lql;\toffset:68;\tsize:4;\tsigned:0;
\tfield:u32 ctx;\toffset:72;\tsize:4;\tsigned:0;

print fmt: "lock=%llx", REC->lock
"""
KINDS = {"ispin_acquire": 401, "ispin_incapable": 402, "ispin_release": 403, "ispin_take": 404}
LOCK, OTHER = 0xffff888001234000, 0xffffffff82000040
CALLER = 0xffffffff81100010


def ids(quantum, dispatch, running=True):
    """A pair of ids."""
    return (dispatch << 1 | running) << 32 | quantum


def event(kind, tsc, lock=LOCK, **fields):
    """An event; what is not said is as at a free lock in a quantum."""
    values = dict(ip=CALLER, ids=ids(7, 3), cap=1000, start=5, off=0, ticket=1, lql=0, ctx=0)
    values.update(fields, lock=lock, tsc=tsc)
    return "ispin_" + kind, rule.Event(**values)


def episode(tsc, lock=LOCK, **fields):
    """Take, acquire and release."""
    return [event("take", tsc, lock, **fields), event("acquire", tsc + 2, lock, **fields),
            event("release", tsc + 10, lock, **fields)]


def payload(kind, fields):
    """The data of an entry."""
    return struct.pack("<HBBiQQQQqQQIII", KINDS[kind], 0, 0, 1, *fields)


def entry(data, delta=1, length_word=False):
    """An entry with its header, in either of its two forms."""
    assert len(data) % 4 == 0
    if length_word:
        return struct.pack("<II", delta << 5, len(data) + 4) + data
    return struct.pack("<I", delta << 5 | len(data) // 4) + data


def time_extend(delta):
    return struct.pack("<II", (delta & (1 << 27) - 1) << 5 | 30, delta >> 27)


def time_stamp(at):
    return struct.pack("<II", (at & (1 << 27) - 1) << 5 | 31, at >> 27)


def discarded(data):
    return struct.pack("<II", 1 << 5 | 29, len(data)) + data[4:]


def page(entries, marks=0, missed=None):
    """A sub-buffer."""
    data = b"".join(entries)
    assert len(data) <= 4080
    stored = b"" if missed is None else struct.pack("<Q", missed)
    return (struct.pack("<QQ", 1000, len(data) | marks) + data + stored).ljust(4096, b"\xee")


def pages_of(events):
    """The sub-buffers that hold `events`."""
    entries = [entry(payload(kind, fields)) for kind, fields in events]
    return b"".join(page(entries[i:i + 50]) for i in range(0, len(entries), 50))


def archive(path, cpus, stats="entries: {entries}\noverrun: 0\ncommit overrun: 0\nbytes: 1\ndropped events: 0\n",
            entries=None):
    """Writes the archive of `cpus`: number -> sub-buffers."""
    def add(tar, name, data):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path, "w") as tar:
        add(tar, "events/header_page", HEADER_PAGE.encode())
        for name, number in KINDS.items():
            add(tar, f"events/ispinlock/{name}/format", FORMAT.format(name=name, number=number).encode())
        for cpu, data in cpus.items():
            count = (entries or {}).get(cpu)
            text = stats if count is not None else "overrun: 0\n"
            add(tar, f"per_cpu/cpu{cpu}/stats", text.format(entries=count).encode())
            # Parts may be of any size, and in any order in the archive.
            half = len(data) // 8192 * 4096
            add(tar, f"per_cpu/cpu{cpu}/trace_pipe_raw.00001", data[half:])
            add(tar, f"per_cpu/cpu{cpu}/trace_pipe_raw.00000", data[:half])
            add(tar, f"per_cpu/cpu{cpu}/stats.after", b"entries: 0\noverrun: 0\n")


def snapshot(cpus, rows=True):
    """What an agent would say that counted by the same rule: cpu number -> events."""
    vcpus, locks, callers = [], {}, {}
    hold, wait = [0] * 40, [0] * 40
    for number, events in cpus.items():
        cpu = rule.Cpu()
        for kind, fields in events:
            cpu.event(kind, fields)
        vcpus.append({"id": number, "counters": dict(cpu.counts)})
        hold = [a + b for a, b in zip(hold, cpu.hold)]
        wait = [a + b for a, b in zip(wait, cpu.wait)]
        for into, from_cpu in [(locks, cpu.acquires), (callers, cpu.callers)]:
            for key, n in from_cpu.items():
                into[key] = into.get(key, 0) + n
    table = lambda found: [{"name": f"name{key:x}", "key": key, "acquires": n} for key, n in found.items()]
    return {
        "seq": 3, "source": {"kind": "guest", "lock": "hvm", "csd": 16384},
        "vms": [{"vcpus": vcpus, "hold": {"buckets": hold}, "wait": {"buckets": wait}}],
        "locks": table(locks) if rows else [], "callers": table(callers) if rows else [],
        "losses": {"recursion_misses": 0, "table_overflowed": 0, "overflowed": 0},
    }


class Files(unittest.TestCase):
    """Tests that need files."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.trace = os.path.join(self.folder.name, "trace.tar")
        self.agent = os.path.join(self.folder.name, "agent.jsonl")

    def write_agent(self, *snapshots):
        with open(self.agent, "w", encoding="utf-8") as file:
            for one in snapshots:
                file.write(json.dumps(one) + "\n")

    def run_truth(self, *arguments):
        """Exit code and everything that was said."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = truth.main([self.trace, self.agent, *arguments])
        return code, said.getvalue()

    def read(self, data):
        """The events of CPU 0, and what was lost."""
        archive(self.trace, {0: data})
        trace = Trace(self.trace)
        reader = Reader(trace, rule.FIELDS)
        return list(reader.events(0)), trace.losses() + reader.losses()


class RingBuffer(Files):
    """The layout of sub-buffers and entries."""

    def test_every_kind_of_entry(self):
        events = [event("take", 1 << 40, cap=-5), event("acquire", 3), event("release", 4)]
        data = [payload(*one) for one in events]
        stranger = struct.pack("<HBBi", 9, 0, 0, 1)
        found, lost = self.read(page([
            time_extend(1 << 30), entry(data[0]), discarded(data[1]), time_stamp(1 << 50), entry(data[1], length_word=True),
            entry(stranger), entry(data[2]), struct.pack("<I", 29), b"\x55" * 40,
        ]))
        self.assertEqual([(kind, tuple(fields)) for kind, fields in found], [(k, tuple(f)) for k, f in events])
        self.assertEqual(lost, [])

    def test_many_sub_buffers_in_their_order(self):
        events = [one for i in range(200) for one in episode(100 * i)]
        found, _ = self.read(pages_of(events))
        self.assertEqual([fields[3] for _, fields in found], [fields.tsc for _, fields in events])

    def test_what_is_missing_is_told(self):
        data = [entry(payload(*event("take", 1)))]
        _, lost = self.read(page(data) + page(data, marks=1 << 31 | 1 << 30, missed=77) + page(data, marks=1 << 31))
        self.assertEqual(len(lost), 2)
        self.assertIn("77", lost[0])
        archive(self.trace, {0: page(data)}, stats="entries: {entries}\noverrun: 12\ndropped events: 3\n", entries={0: 2})
        trace = Trace(self.trace)
        reader = Reader(trace, rule.FIELDS)
        list(reader.events(0))
        self.assertEqual(len(trace.losses() + reader.losses()), 3)

    def test_what_cannot_be_is_an_error(self):
        whole = page([entry(payload(*event("take", 1)))])
        for data in [whole[:-96], struct.pack("<QQ", 1, 5000) + bytes(4080),
                     page([struct.pack("<I", 28) + bytes(40)]), page([struct.pack("<II", 0, 3)]), page([struct.pack("<I", 30)])]:
            with self.assertRaises(TraceError):
                self.read(data)
        with open(self.trace, "wb") as file:
            file.write(bytes(10240))
        with self.assertRaisesRegex(TraceError, "not completed"):
            Trace(self.trace)

    def test_fields_are_read_where_the_format_says(self):
        layout = parse_layout(FORMAT.format(name="x", number=1))
        self.assertEqual(layout["common_pid"], (4, 4, True))
        read = Fields(layout, ["ctx", "cap", "lock"], "x").reader(["ctx", "cap", "lock"])
        self.assertEqual(read(payload(*event("take", 1, cap=-9, ctx=5)), 0), (5, -9, LOCK))
        with self.assertRaisesRegex(TraceError, "nothere"):
            Fields(layout, ["nothere"], "x")


class Rule(unittest.TestCase):
    """The rule, by cases that were worked out by hand."""

    def counts(self, *events):
        cpu = rule.Cpu()
        for one in events:
            cpu.event(*one)
        self.cpu = cpu
        return {name: n for name, n in cpu.counts.items() if n}

    def test_a_free_lock(self):
        self.assertEqual(self.counts(*episode(100)), {
            "takes": 1, "acquires": 1, "releases": 1, "wait_cycles": 2, "spin_cycles": 2, "hold_cycles": 8})
        self.assertEqual((self.cpu.wait[1], self.cpu.hold[3], self.cpu.open()), (1, 1, 0))

    def test_a_waiter_is_preempted(self):
        counts = self.counts(event("take", 100, lql=2), event("acquire", 900, ids=ids(8, 4), off=500, ctx=8),
                             event("release", 950, ids=ids(8, 4)))
        self.assertEqual((counts["lwp"], counts["lwp_preempted"], counts["lwp_blocked"]), (1, 1, 1))
        self.assertEqual((counts["wait_cycles"], counts["spin_cycles"], counts["contended"]), (800, 300, 1))
        self.assertNotIn("lhp", counts)

    def test_a_holder_gets_a_new_quantum_and_stays(self):
        counts = self.counts(event("take", 1), event("acquire", 2), event("release", 3, ids=ids(8, 3)))
        self.assertEqual(counts["lhp"], 1)
        self.assertNotIn("lhp_preempted", counts)
        # Bit 0 of the dispatch is no part of its number.
        counts = self.counts(event("take", 1), event("acquire", 2), event("release", 3, ids=ids(8, 3, running=False)))
        self.assertNotIn("lhp_preempted", counts)

    def test_what_has_no_slot_is_not_judged(self):
        counts = self.counts(event("take", 1, ids=0), event("acquire", 2), event("release", 3, ids=0, ctx=0))
        self.assertEqual(counts["unslotted"], 1)
        self.assertNotIn("lwp", counts)
        self.assertNotIn("lhp", counts)

    def test_deferrals(self):
        counts = self.counts(event("incapable", 10), event("incapable", 20), event("take", 110, off=30),
                             event("incapable", 200, OTHER), event("incapable", 210), event("acquire", 220))
        self.assertEqual((counts["deferrals"], counts["defer_cycles"], counts["defer_spin_cycles"]), (4, 100, 70))
        self.assertEqual(counts["unpaired_deferral"], 2)

    def test_trylocks(self):
        counts = self.counts(event("acquire", 10, ctx=4 | 16, lql=3), event("release", 30))
        self.assertEqual(counts, {"takes": 1, "acquires": 1, "trylocks": 1, "releases": 1, "expired": 1, "contended": 1,
                                  "lql_sum": 3, "lql_max": 3, "hold_cycles": 20})

    def test_what_cannot_be_paired(self):
        self.assertEqual(self.counts(event("take", 1), event("take", 2))["unpaired_take"], 1)
        self.assertEqual(self.counts(event("acquire", 1), event("release", 2)),
                         {"acquires": 1, "releases": 1, "unpaired_acquire": 1, "unpaired_release": 1})
        counts = self.counts(*episode(1)[:2], event("acquire", 5), event("release", 6))
        self.assertEqual((counts["unpaired_acquire"], counts["unpaired_release"], self.cpu.open()), (1, 1, 0))
        self.assertEqual(self.counts(event("take", 1), event("release", 2))["unpaired_release"], 1)
        self.assertEqual(self.cpu.open(), 0)

    def reasons(self, *events):
        counts = self.counts(*events)
        return {name[4:]: n for name, n in counts.items() if name.startswith("psp_")}

    def test_reasons_of_waits(self):
        away = event("acquire", 900, ids=ids(8, 4), off=500)
        self.assertEqual(self.reasons(event("take", 100), away), {"long_wait": 1})
        self.assertEqual(self.reasons(event("take", 100), event("acquire", 900, ids=ids(8, 3))), {"renewal": 1})
        self.assertEqual(self.reasons(event("take", 100, cap=0), away), {"incapable": 1})
        self.assertEqual(self.reasons(event("take", 100, cap=0, ctx=32), away), {"nested": 1})
        self.assertEqual(self.reasons(event("take", 100, cap=-5, ctx=16), away), {"expired": 1})
        self.assertEqual(self.reasons(event("incapable", 50), event("take", 100, cap=-5), away), {"deferred": 1})
        self.assertEqual(self.reasons(event("take", 100, cap=rule.ENDLESS), away), {"early": 1})
        early = event("acquire", 900, ids=ids(8, 4), off=500, ctx=64)
        self.assertEqual(self.reasons(event("take", 100), early), {"early": 1})

    def test_reasons_of_holds(self):
        take, acquire = event("take", 100, cap=50, lql=1), event("acquire", 110)
        # With a csd of 10 the quantum was to end at 100 + 2 * 10 + 50.
        held = lambda left, **more: event("release", 900, **{**dict(ids=ids(8, 4), start=500, off=500 - left), **more})
        counts = lambda *events: self.reasons_with(10, *events)
        self.assertEqual(counts(take, acquire, held(169)), {"early": 1})
        self.assertEqual(counts(take, acquire, held(170)), {"long_hold": 1})
        self.assertEqual(counts(take, event("acquire", 165), held(174)), {"long_wait": 1})
        self.assertEqual(counts(take, acquire, held(170, ids=ids(9, 5))), {"unknown": 1})
        self.assertEqual(self.reasons_with(0, take, acquire, held(170)), {"unknown": 1})
        self.assertEqual(counts(take, acquire, held(170, ids=ids(8, 3))), {"renewal": 1})
        self.assertEqual(counts(event("take", 100, ids=0), acquire, held(170)), {"unslotted": 1})
        self.assertEqual(counts(event("acquire", 110, ctx=4), held(170)), {"trylock": 1})
        crossed = event("acquire", 110, ids=ids(8, 3))
        self.assertEqual(counts(take, crossed, held(170, ids=ids(9, 4))), {"renewal": 1, "followup": 1})

    def reasons_with(self, csd, *events):
        cpu = rule.Cpu(csd)
        for one in events:
            cpu.event(*one)
        return {name[4:]: n for name, n in cpu.counts.items() if n and name.startswith("psp_")}

    def test_what_became_of_deferrals(self):
        counts = self.counts(event("incapable", 10), event("take", 20, ids=ids(8, 4)))
        self.assertEqual((counts["deferred_takes"], counts["deferred_next"], counts["deferred_capable"]), (1, 1, 1))
        counts = self.counts(event("incapable", 10, ids=ids(0xffffffff, 3)), event("take", 20, ids=ids(1, 4), cap=0))
        self.assertEqual((counts["deferred_takes"], counts["deferred_next"]), (1, 1))
        self.assertNotIn("deferred_capable", counts)
        self.assertNotIn("deferred_next", self.counts(event("incapable", 10), event("take", 20, ids=ids(9, 4))))

    def test_levels_are_apart(self):
        counts = self.counts(event("take", 1), event("acquire", 2, ctx=2), event("acquire", 3))
        self.assertEqual(counts["unpaired_acquire"], 1)

    def test_the_oldest_has_to_go(self):
        takes = [event("take", i, LOCK + 64 * i) for i in range(17)]
        counts = self.counts(*takes, event("acquire", 50, LOCK), event("acquire", 51, LOCK + 64))
        self.assertEqual((counts["overflowed"], counts["unpaired_acquire"]), (1, 1))


class Comparison(Files):
    """The program as a whole."""

    def given(self, cpus, change=lambda snapshot: None):
        archive(self.trace, {cpu: pages_of(events) for cpu, events in cpus.items()},
                entries={cpu: len(events) for cpu, events in cpus.items()})
        told = snapshot(cpus)
        change(told)
        self.write_agent(dict(told, seq=1, vms=[]), told)

    def busy(self):
        return {
            0: [one for i in range(300) for one in episode(100 * i, LOCK + 64 * (i % 7))] + [event("incapable", 90000)],
            2: [one for i in range(100) for one in episode(100 * i, OTHER, ids=ids(1 + i, i))],
        }

    def test_the_same(self):
        self.given(self.busy())
        code, said = self.run_truth("--at-least", "400")
        self.assertEqual(code, 0, said)
        self.assertIn("The agent counted what", said)

    def test_the_order_of_tickets(self):
        def turns(tickets):
            """Two CPUs take turns in one lock."""
            events = {0: [], 1: []}
            for i, ticket in enumerate(tickets):
                events[i % 2] += episode(100 * i, LOCK, ticket=ticket)
            return events
        self.given(turns([65534, 65535, 0, 1, 2]))
        code, said = self.run_truth("--fifo")
        self.assertEqual(code, 0, said)
        self.assertIn("was acquired 5 times, 0 of them", said)
        self.given(turns([7, 9, 8, 10]))
        code, said = self.run_truth()
        self.assertEqual(code, 0, said)
        code, said = self.run_truth("--fifo")
        self.assertEqual(code, 1, said)
        self.assertIn("3 acquires", said)

    def test_a_single_count(self):
        def change(told):
            told["vms"][0]["vcpus"][1]["counters"]["lhp"] += 1
        self.given(self.busy(), change)
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("cpu2 lhp", said)
        self.assertRegex(said, r"lhp +1 +0 +\+1")

    def test_a_count_that_went_to_another_cpu(self):
        def change(told):
            told["vms"][0]["vcpus"][1]["counters"]["takes"] += 1
            told["vms"][0]["vcpus"][0]["counters"]["takes"] -= 1
        self.given(self.busy(), change)
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("0 totals and 2 counts of single CPUs differ", said)

    def test_a_cpu_of_which_the_agent_does_not_know(self):
        self.given(self.busy(), lambda told: told["vms"][0]["vcpus"].pop())
        self.assertEqual(self.run_truth()[0], 1)

    def test_a_bucket(self):
        def change(told):
            buckets = told["vms"][0]["hold"]["buckets"]
            buckets[3], buckets[4] = buckets[3] - 1, buckets[4] + 1
        self.given(self.busy(), change)
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("hold 2^3", said)

    def test_losses(self):
        def change(told):
            told["losses"]["recursion_misses"] = 2
        self.given(self.busy(), change)
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("recursion_misses 2", said)
        cpus = self.busy()
        archive(self.trace, {cpu: pages_of(events) for cpu, events in cpus.items()}, entries={0: 1, 2: 300})
        self.write_agent(snapshot(cpus))
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("told of 1 entries", said)

    def test_rows(self):
        def swap(told):
            told["locks"][0]["acquires"] += 1
            told["locks"][1]["acquires"] -= 1
        self.given(self.busy(), swap)
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("locks: the acquires of 2 of the top ones differ", said)

    def test_what_moved_to_all_others_must_be_there(self):
        def move(told, found):
            told["losses"]["table_overflowed"] = 5
            told["locks"][0]["acquires"] -= 10
            told["locks"].append({"name": "all others", "key": 0, "acquires": found})
        self.given(self.busy(), lambda told: move(told, 10))
        code, said = self.run_truth()
        self.assertEqual(code, 0, said)
        self.given(self.busy(), lambda told: move(told, 9))
        code, said = self.run_truth()
        self.assertEqual(code, 1)
        self.assertIn("all others", said)

    def test_nothing_is_no_agreement(self):
        self.given({0: []})
        self.assertEqual(self.run_truth()[0], 1)

    def test_files_that_cannot_be_compared(self):
        self.given(self.busy())
        told = snapshot(self.busy())
        for snapshots, why in [
            ([], "no snapshot"),
            ([dict(told, source={"kind": "threads"})], "threads"),
            ([told, dict(told, seq=4, source={"kind": "guest", "lock": "pv"})], "another session"),
        ]:
            self.write_agent(*snapshots)
            code, said = self.run_truth()
            self.assertEqual(code, 2)
            self.assertIn(why, said)
        os.remove(self.trace)
        self.write_agent(told)
        self.assertEqual(self.run_truth()[0], 2)


if __name__ == "__main__":
    unittest.main()
