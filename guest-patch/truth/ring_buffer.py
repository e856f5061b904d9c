"""Reads the kernel's own binary trace: an archive that `ispin-load trace-dump` made.

The archive holds, for every CPU, its sub-buffers as `per_cpu/cpuN/trace_pipe_raw` hands them out, and the kernel's
description of their layout. Nothing about the layout of pages and events is taken for granted but what the ring buffer's
own header says (include/linux/ring_buffer.h): the 4-byte event header with its five bits of type.
"""

import re
import struct
import tarfile

# Types of entries, the low five bits of their header.
DATA_MAX = 28
PADDING = 29
TIME_EXTEND = 30
TIME_STAMP = 31

# Marks in a sub-buffer's `commit` (kernel/trace/ring_buffer.c).
MISSED_EVENTS = 1 << 31
MISSED_STORED = 1 << 30
COMMIT_MASK = (1 << 27) - 1

u16 = struct.Struct("<H").unpack_from
u32 = struct.Struct("<I").unpack_from
u64 = struct.Struct("<Q").unpack_from

FIELD = re.compile(r"field:(?P<type>[^;]*?)\s*(?P<name>\w+)(\[[^]]*\])?;\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
                   r"(\s*signed:(?P<signed>\d+);)?")


class TraceError(Exception):
    """The archive cannot be read as a trace."""


class Fields:
    """Reads some fields of a fixed layout in one go."""

    CODES = {(1, False): "B", (1, True): "b", (2, False): "H", (2, True): "h",
             (4, False): "I", (4, True): "i", (8, False): "Q", (8, True): "q"}

    def __init__(self, layout, names, where):
        missing = [name for name in names if name not in layout]
        if missing:
            raise TraceError(f"{where}: no field {', '.join(missing)}")
        code, at, order = "<", 0, []
        for name in sorted(names, key=lambda name: layout[name][0]):
            offset, size, signed = layout[name]
            if offset < at or (size, signed) not in self.CODES:
                raise TraceError(f"{where}: field {name} (offset {offset}, size {size}) cannot be read")
            code += f"{offset - at}x{self.CODES[size, signed]}"
            at = offset + size
            order.append(name)
        self.struct = struct.Struct(code)
        self.order = order

    def reader(self, names):
        """A function (buffer, offset) -> tuple of the fields in the order of `names`."""
        unpack = self.struct.unpack_from
        if self.order == list(names):
            return unpack
        place = [self.order.index(name) for name in names]
        def read(buffer, offset):
            values = unpack(buffer, offset)
            return tuple(values[i] for i in place)
        return read


def parse_layout(text):
    """Fields of a `format` or `header_page` file: name -> (offset, size, signed)."""
    layout = {}
    for match in FIELD.finditer(text):
        layout[match["name"]] = (int(match["offset"]), int(match["size"]), match["signed"] == "1")
    return layout


class Trace:
    """What the archive holds."""

    def __init__(self, path):
        self.formats = {}
        self.stats = {}
        self.stats_after = {}
        self.header_page = None
        parts = {}
        try:
            with tarfile.open(path, mode="r:") as archive:
                for member in archive:
                    if member.isfile():
                        self._take_in(member.name, archive.extractfile(member).read(), parts)
        except (OSError, tarfile.TarError) as error:
            raise TraceError(f"{path}: {error}") from error
        if self.header_page is None:
            raise TraceError(f"{path}: no events/header_page: not an archive of `ispin-load trace-dump`, or one that "
                             "was not completed")
        self.pages = {cpu: [data for _, data in sorted(found)] for cpu, found in sorted(parts.items())}
        for cpu in self.stats:
            self.pages.setdefault(cpu, [])

    def _take_in(self, name, data, parts):
        if name == "events/header_page":
            self.header_page = data.decode()
        elif match := re.fullmatch(r"events/ispinlock/(\w+)/format", name):
            self.formats[match[1]] = data.decode()
        elif match := re.fullmatch(r"per_cpu/cpu(\d+)/trace_pipe_raw(?:\.(\d+))?", name):
            parts.setdefault(int(match[1]), []).append((int(match[2] or 0), data))
        elif match := re.fullmatch(r"per_cpu/cpu(\d+)/stats(\.after)?", name):
            stats = self.stats_after if match[2] else self.stats
            stats[int(match[1])] = parse_stats(data.decode())

    def losses(self):
        """Everything that the kernel says was lost, in words."""
        found = []
        for when, stats in [("", self.stats), (" while it was drained", self.stats_after)]:
            for cpu, values in sorted(stats.items()):
                for name in ["overrun", "commit overrun", "dropped events"]:
                    if values.get(name, 0) > 0:
                        found.append(f"cpu{cpu}: {name} {values[name]}{when}")
        return found


def parse_stats(text):
    """Numbers of a `stats` file: name -> number; what is no whole number is left out."""
    pairs = (line.rsplit(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): int(value) for name, value in pairs if value.strip().isdigit()}


class Reader:
    """Hands out the events of one CPU in order."""

    def __init__(self, trace, names):
        """`names`: the fields of an event that are wanted, in their order."""
        page = parse_layout(trace.header_page)
        self.page_header = Fields(page, ["timestamp", "commit"], "events/header_page").reader(["timestamp", "commit"])
        if "data" not in page:
            raise TraceError("events/header_page: no field data")
        self.data_at = page["data"][0]
        self.page_size = page["data"][0] + page["data"][1]
        self.kinds = {}
        for name, text in trace.formats.items():
            number = re.search(r"^ID:\s*(\d+)", text, re.MULTILINE)
            if number is None:
                raise TraceError(f"events/ispinlock/{name}/format: no ID")
            where = f"events/ispinlock/{name}/format"
            self.kinds[int(number[1])] = (name, Fields(parse_layout(text), names, where).reader(names))
        self.trace = trace
        # Facts about what was read.
        self.entries = {}
        self.strangers = {}
        self.missed = []

    def events(self, cpu):
        """Generates (kind, fields) of every event of system ispinlock on `cpu`."""
        entries = strangers = 0
        for part in self.trace.pages[cpu]:
            if len(part) % self.page_size:
                raise TraceError(f"cpu{cpu}: a part of {len(part)} bytes is not made of sub-buffers of {self.page_size}")
            for start in range(0, len(part), self.page_size):
                page = part[start:start + self.page_size]
                for data_at in self._page(cpu, page):
                    entries += 1
                    kind = self.kinds.get(u16(page, data_at)[0])
                    if kind is None:
                        strangers += 1
                        continue
                    yield kind[0], kind[1](page, data_at)
        self.entries[cpu] = entries
        self.strangers[cpu] = strangers

    def _page(self, cpu, page):
        """Generates where the data of each entry of a sub-buffer begin."""
        now, commit = self.page_header(page, 0)
        end = self.data_at + (commit & COMMIT_MASK)
        if end > len(page):
            raise TraceError(f"cpu{cpu}: a sub-buffer with {commit & COMMIT_MASK} bytes in {self.page_size}")
        if commit & MISSED_EVENTS:
            stored = commit & MISSED_STORED
            count = u64(page, end)[0] if stored else None
            self.missed.append((cpu, count))
        at = self.data_at
        while at < end:
            header = u32(page, at)[0]
            kind, delta = header & 31, header >> 5
            if kind == PADDING and delta == 0:
                # The rest is empty.
                return
            if kind > DATA_MAX or kind == 0:
                if at + 8 > end:
                    raise TraceError(f"cpu{cpu}: an entry is cut off at byte {at} of its sub-buffer")
                word = u32(page, at + 4)[0]
            if kind == TIME_EXTEND:
                now += delta + (word << 27)
                at += 8
            elif kind == TIME_STAMP:
                # The upper five bits are those of the time before it.
                now = (now & ~((1 << 59) - 1)) | (delta + (word << 27))
                at += 8
            elif kind == PADDING:
                # An entry that was discarded.
                now += delta
                at += word + 4
            else:
                now += delta
                length = kind * 4 if kind else word
                if length < 4 or at + 4 + length > end:
                    raise TraceError(f"cpu{cpu}: an entry of {length} bytes at byte {at} of its sub-buffer")
                yield at + 4 if kind else at + 8
                at += 4 + length

    def losses(self):
        """What is missing in what was read, in words. Only after all events were read."""
        found = [f"cpu{cpu}: {'some' if n is None else n} events are missing before a sub-buffer" for cpu, n in self.missed]
        for cpu, entries in sorted(self.entries.items()):
            told = self.trace.stats.get(cpu, {}).get("entries")
            if told is not None and told != entries:
                found.append(f"cpu{cpu}: the kernel told of {told} entries, the archive holds {entries}")
        return found
