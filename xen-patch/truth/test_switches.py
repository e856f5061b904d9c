"""Tests of the comparison with Xen's scheduler, over records that are made here.

    python3 -m unittest discover xen-patch/truth
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "guest-patch", "truth")]

import switches  # noqa: E402
import xentrace  # noqa: E402
from test_truth import archive, event, ids, pages_of  # noqa: E402

CSD = 100
NS = 1_000_000


def windows(*records):
    """Records of one pCPU, as xentrace writes them."""
    body = b"".join(records)
    return xentrace.record(xentrace.CPU_CHANGE, None, 1, len(body)) + body


def granted(tsc, vcpu=0, new=True, length=30 * NS, domain=1):
    """The scheduler grants a quantum."""
    kind = xentrace.SWITCH_NEXT if new else xentrace.CONTINUED
    return xentrace.record(kind, tsc, domain, vcpu, 0, length & 0xffffffff)


def left(tsc, vcpu=0, state=xentrace.RUNNABLE, domain=1):
    """A vCPU leaves its pCPU."""
    kind = xentrace.RUNSTATE_CHANGE | xentrace.RUNNING << 8 | state << 4
    return xentrace.record(kind, tsc, domain << 16 | vcpu)


def ends_at(end, tsc, lql=0):
    """lock_cap of a take in a quantum that ends then."""
    return end - tsc - (lql + 1) * CSD


class Comparison(unittest.TestCase):
    """One guest with one vCPU, preempted once while it waits and once while it holds."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = lambda name: os.path.join(folder.name, name)
        self.trace, self.agent, self.guest = path("xentrace.bin"), path("agent.jsonl"), path("g1.tar")
        self.records = [granted(1 * NS), left(31 * NS), granted(61 * NS), left(91 * NS), granted(121 * NS),
                        granted(151 * NS, new=False)]
        self.events = [
            event("take", 30 * NS, lql=1, ids=ids(1, 1), cap=ends_at(31 * NS, 30 * NS, 1)),
            event("acquire", 62 * NS, ids=ids(2, 2), off=30 * NS),
            event("release", 63 * NS, ids=ids(2, 2)),
            event("take", 90 * NS, ids=ids(2, 2), cap=ends_at(91 * NS, 90 * NS)),
            event("acquire", 90 * NS + 5, ids=ids(2, 2)),
            event("release", 122 * NS, ids=ids(3, 3), off=30 * NS),
            event("take", 152 * NS, ids=ids(4, 3), cap=ends_at(181 * NS, 152 * NS)),
        ]
        self.counters = {"lhp_preempted": 1, "lwp_preempted": 1}
        incident = {"vm": "g1", "vcpu": 0, "preempted": True}
        self.incidents = [dict(incident, kind="lwp", **{"from": 30 * NS, "to": 62 * NS}),
                          dict(incident, kind="lhp", **{"from": 90 * NS + 5, "to": 122 * NS})]

    def run_switches(self, *arguments):
        """Exit code and everything that was said."""
        with open(self.trace, "wb") as file:
            file.write(windows(*self.records))
        archive(self.guest, {0: pages_of(self.events)}, entries={0: len(self.events)})
        vm = {"name": "g1", "vcpus": [{"id": 0, "counters": self.counters}]}
        with open(self.agent, "w", encoding="utf-8") as file:
            print(json.dumps({"source": {"csd": CSD}, "vms": [vm], "incidents": self.incidents}), file=file)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            arguments = arguments or ["--guest", f"g1=1:{self.guest}"]
            code = switches.main([self.trace, self.agent, *arguments])
        return code, said.getvalue()

    def fails(self, *words):
        """The comparison fails, and says these words."""
        code, said = self.run_switches()
        self.assertEqual(code, 1, said)
        for word in words:
            self.assertIn(word, said)

    def test_the_same(self):
        code, said = self.run_switches()
        self.assertEqual(code, 0, said)
        row = next(line.split() for line in said.splitlines() if line.split()[0] == "g1/0")
        self.assertEqual(row, ["g1/0", "4", "2", "3", "2", "1", "1", "2", "3", "0"])

    def test_without_the_guests_trace(self):
        self.assertEqual(self.run_switches("--guest", "g1=1")[0], 0)
        self.incidents[0]["to"] = 30 * NS + 10
        code, said = self.run_switches("--guest", "g1=1")
        self.assertEqual(code, 1)
        self.assertIn("by the scheduler it was none", said)

    def test_a_renewal_that_was_not_granted(self):
        del self.records[-1]
        self.fails("1 quanta and 0 dispatches were published, 0 and 0 granted")

    def test_what_only_the_rate_limit_forces_is_no_quantum(self):
        kept = xentrace.record(xentrace.CREDIT_RATELIMIT, 10 * NS, 1 << 16, 9)
        self.records[1:1] = [kept, granted(10 * NS, new=False, length=21 * NS)]
        self.records[0] = granted(1 * NS, length=99 * NS)
        self.assertEqual(self.run_switches()[0], 0)
        del self.records[1]
        # Without that record it would be a renewal.
        self.records[3:3] = [granted(61 * NS + 5, new=False)]
        self.fails("published")

    def test_a_switch_that_was_not_published(self):
        self.records[2:2] = [granted(40 * NS), left(41 * NS)]
        self.fails("1 quanta and 1 dispatches were published, 2 and 2 granted")

    def test_a_preemption_that_the_scheduler_knows_nothing_of(self):
        del self.records[3]
        self.fails("the published numbers say left, the scheduler stayed")

    def test_an_end_that_is_not_the_granted_one(self):
        self.events[0] = event("take", 30 * NS, lql=1, ids=ids(1, 1), cap=ends_at(32 * NS, 30 * NS, 1))
        self.fails("published was 32000000")

    def test_a_quantum_without_end(self):
        self.events[0] = event("take", 30 * NS, lql=1, ids=ids(1, 1), cap=(1 << 63) - 1)
        self.fails("says otherwise")
        self.records[0] = granted(1 * NS, length=-1)
        self.assertEqual(self.run_switches()[0], 0)

    def test_an_agent_that_counted_more(self):
        self.counters["lhp_preempted"] = 2
        self.fails("the agent counted 2 preempted lhp")

    def test_lost_records(self):
        self.records.append(xentrace.record(xentrace.LOST_RECORDS, 200 * NS, 17, 0, 0, 0))
        self.fails("lost 17 records")

    def test_unusable_files(self):
        with open(self.trace, "wb") as file:
            file.write(granted(1))
        with self.assertRaisesRegex(xentrace.XentraceError, "begins with an event"):
            xentrace.Xentrace(self.trace)
        with open(self.trace, "wb") as file:
            file.write(windows(*self.records)[:-4])
        with self.assertRaisesRegex(xentrace.XentraceError, "cut off"):
            xentrace.Xentrace(self.trace)
        self.assertEqual(self.run_switches("--guest", "g2=1")[0], 2)


if __name__ == "__main__":
    unittest.main()
