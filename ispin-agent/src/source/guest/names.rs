//! Names of locks and callers, from the kernel's symbol table.
//!
//! | address lies in | named |
//! |---|---|
//! | a function | `alloc_fd+0x5e`, a module's `worker+0x10 [mod]` |
//! | static data | `tasklist_lock`, `lock_table+0x40` |
//! | a CPU's copy of per-CPU data | `runqueues[2]`: the copy of CPU 2 |
//! | allocated memory | by who uses it: `alloc_fd@0xffff888003c0c0c0` |

use std::path::Path;

use anyhow::{Context, Result};

/// Where the kernel shows its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// An address this far behind a symbol does not belong to it: no function or lock table is that large.
const MAX_OFFSET: u64 = 1 << 20;

/// How far the last symbol of all is taken to reach.
const LAST: u64 = 64;

/// The kernel's symbols.
#[derive(Debug, Default)]
pub struct Names {
    /// Sorted by address.
    symbols: Vec<Symbol>,
    /// Per-CPU variables, sorted; their addresses are those in the original, of which every CPU has a copy.
    per_cpu: Vec<Symbol>,
    /// Where the original of the per-CPU variables begins and ends.
    original: (u64, u64),
    /// How far each CPU's copy is away from the original; empty if not known.
    distances: Vec<u64>,
    /// End of the kernel image: what lies beyond is a module, or allocated at run time.
    end: Option<u64>,
}

#[derive(Debug)]
struct Symbol {
    address: u64,
    name: Box<str>,
    module: Option<Box<str>>,
}

impl Names {
    /// Reads the kernel's table. Ordinary users, and root where `kernel.kptr_restrict` is 2, are shown zeros
    /// in place of addresses; then no address has a name.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the kernel's symbols from {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no symbol table", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut names = Self::default();
        let mut absolute = vec![];
        let mut original = (None, None);
        for (line, number) in text.lines().zip(1..) {
            let mut fields = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (fields.next(), fields.next(), fields.next())
            else {
                anyhow::bail!("line {number}: expected an address, a kind and a name, found `{line}`");
            };
            let address = u64::from_str_radix(address, 16)
                .with_context(|| format!("line {number}: `{address}` is no address"))?;
            let module = fields.next().map(|module| module.trim_matches(['[', ']']).into());
            let symbol = Symbol { address, name: name.into(), module };
            match name {
                "__per_cpu_start" => original.0 = Some(address),
                "__per_cpu_end" => original.1 = Some(address),
                // Absolute symbols are sizes and per-CPU variables, whose original may lie at 0.
                _ if kind.eq_ignore_ascii_case("a") => absolute.push(symbol),
                _ if address != 0 => names.symbols.push(symbol),
                _ => {}
            }
        }
        if let (Some(start), Some(end)) = original
            && start < end
        {
            names.original = (start, end);
            let inside = |symbol: &Symbol| (start..end).contains(&symbol.address);
            let (ordinary, per_cpu) =
                std::mem::take(&mut names.symbols).into_iter().partition(|s| !inside(s));
            names.symbols = ordinary;
            names.per_cpu = per_cpu;
            names.per_cpu.extend(absolute.into_iter().filter(inside));
            sort(&mut names.per_cpu);
        }
        sort(&mut names.symbols);
        names.end = names.address_of("_end");
        Ok(names)
    }

    /// Whether there are any: not where addresses are hidden from this user.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// Address of a symbol of the kernel image.
    pub fn address_of(&self, name: &str) -> Option<u64> {
        self.symbols.iter().find(|s| &*s.name == name && s.module.is_none()).map(|s| s.address)
    }

    /// Says how far each CPU's copy of the per-CPU variables is away from the original (`__per_cpu_offset`).
    pub fn set_distances(&mut self, distances: Vec<u64>) {
        self.distances = distances;
    }

    /// How far the copies are away, as it was set.
    pub fn distances(&self) -> &[u64] {
        &self.distances
    }

    /// The name of a place in code: `symbol+0x1c`, or the address itself where there is no symbol.
    pub fn of(&self, address: u64) -> String {
        self.symbol(address).unwrap_or_else(|| format!("{address:#x}"))
    }

    /// The name of a lock. One in allocated memory has none, so it is told by who uses it and where it is.
    pub fn of_lock(&self, lock: u64, caller: u64) -> String {
        if let Some(name) = self.symbol(lock).or_else(|| self.per_cpu(lock)) {
            return name;
        }
        match self.find(caller) {
            Some(function) => format!("{}@{lock:#x}", function.name),
            None => format!("{lock:#x}"),
        }
    }

    fn symbol(&self, address: u64) -> Option<String> {
        let symbol = self.find(address)?;
        let module = symbol.module.as_ref().map_or(String::new(), |module| format!(" [{module}]"));
        Some(format!("{}{}{module}", symbol.name, offset(address - symbol.address)))
    }

    fn per_cpu(&self, address: u64) -> Option<String> {
        let (start, end) = self.original;
        let in_copy = |distance: &u64| (start..end).contains(&address.wrapping_sub(*distance));
        let cpu = self.distances.iter().position(in_copy)?;
        let address = address.wrapping_sub(self.distances[cpu]);
        let symbol = last_before(&self.per_cpu, address)?;
        Some(format!("{}[{cpu}]{}", symbol.name, offset(address - symbol.address)))
    }

    /// The symbol that reaches to `address`. The table has no sizes: a symbol ends at the next one, the last of
    /// the image at its end.
    fn find(&self, address: u64) -> Option<&Symbol> {
        let symbol = last_before(&self.symbols, address)?;
        let reaches = match self.end {
            Some(end) if symbol.address <= end => address < end,
            // Nothing tells where the last symbol of the last module ends.
            _ => self.symbols.last().is_some_and(|last| address < last.address + LAST),
        };
        (reaches && address - symbol.address < MAX_OFFSET).then_some(symbol)
    }
}

fn sort(symbols: &mut Vec<Symbol>) {
    symbols.sort_by_key(|symbol| symbol.address);
    // Of several names of an address the first is kept: the table lists the plain one first.
    symbols.dedup_by_key(|symbol| symbol.address);
}

fn last_before(symbols: &[Symbol], address: u64) -> Option<&Symbol> {
    symbols.partition_point(|symbol| symbol.address <= address).checked_sub(1).map(|i| &symbols[i])
}

fn offset(offset: u64) -> String {
    if offset == 0 { String::new() } else { format!("+{offset:#x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
0000000000000000 A __per_cpu_start
0000000000000000 A fixed_percpu_data
0000000000001000 A cpu_debug_store
000000000002c9c0 A runqueues
0000000000034000 A __per_cpu_end
0000000000400000 A some_size
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81001000 T schedule
ffffffff81001800 t helper
ffffffff82000000 D lock_table
ffffffff82000040 B tasklist_lock
ffffffff82400000 B _end
ffffffffc0000000 t module_init\t[mod]
ffffffffc0000100 t module_work\t[mod]
ffffffffc0000200 t module_last\t[mod]
";

    #[test]
    fn names_and_offsets() {
        let names = Names::parse(TABLE).unwrap();
        assert_eq!(names.of(0xffff_ffff_8100_1000), "schedule");
        assert_eq!(names.of(0xffff_ffff_8100_101c), "schedule+0x1c");
        assert_eq!(names.of(0xffff_ffff_8100_0000), "_text");
        assert_eq!(names.of(0xffff_ffff_8200_0044), "tasklist_lock+0x4");
        assert_eq!(names.of(0xffff_ffff_c000_0010), "module_init+0x10 [mod]");
        assert_eq!(names.of_lock(0xffff_ffff_8200_0040, 0xffff_ffff_8100_1010), "tasklist_lock");
    }

    #[test]
    fn a_lock_in_allocated_memory_is_told_by_its_user_and_its_place() {
        let names = Names::parse(TABLE).unwrap();
        let of_lock = |lock| names.of_lock(lock, 0xffff_ffff_8100_101c);
        assert_eq!(of_lock(0xffff_8880_0123_4000), "schedule@0xffff888001234000");
        assert_eq!(names.of_lock(0xffff_8880_0123_4000, 0x99), "0xffff888001234000");
    }

    #[test]
    fn a_copy_of_per_cpu_data_is_told_by_variable_and_cpu() {
        let mut names = Names::parse(TABLE).unwrap();
        let rq = 0xffff_8880_3ec0_0000 + 0x2_c9c0;
        assert_eq!(names.of_lock(rq, 0), format!("{rq:#x}"));
        names.set_distances(vec![0xffff_8880_3ea0_0000, 0xffff_8880_3ec0_0000]);
        assert_eq!(names.of_lock(rq, 0), "runqueues[1]");
        assert_eq!(names.of_lock(rq + 0x40, 0), "runqueues[1]+0x40");
        assert_eq!(names.of_lock(0xffff_8880_3ea0_1008, 0), "cpu_debug_store[0]+0x8");
        // Behind the end of the copy lies what was allocated at run time.
        assert_eq!(names.of_lock(0xffff_8880_3ea3_4000, 0), "0xffff88803ea34000");
    }

    #[test]
    fn per_cpu_data_of_newer_kernels_lies_among_the_rest() {
        let table = TABLE.replace("0000000000000000 A __per_cpu", "ffffffff82300000 D __per_cpu");
        let table = table.replace("000000000002c9c0 A", "ffffffff8232c9c0 D");
        let table = table.replace("0000000000034000 A", "ffffffff82334000 D");
        let mut names = Names::parse(&table).unwrap();
        let distance = 0xffff_8880_3ec0_0000_u64.wrapping_sub(0xffff_ffff_8230_0000);
        names.set_distances(vec![0, distance]);
        assert_eq!(names.of_lock(0xffff_8880_3ec2_c9c4, 0), "runqueues[1]+0x4");
    }

    #[test]
    fn allocated_memory_has_no_name() {
        let names = Names::parse(TABLE).unwrap();
        for address in [0xffff_8880_0123_4000, 0x40, 0x1004, 0xffff_ffff_8240_0000, 0xffff_ffff_9000_0000] {
            assert_eq!(names.of(address), format!("{address:#x}"));
        }
        // Behind the last symbol, and too far behind any.
        assert_eq!(names.of(0xffff_ffff_c000_0210), "module_last+0x10 [mod]");
        assert_eq!(names.of(0xffff_ffff_c000_0240), "0xffffffffc0000240");
        assert_eq!(names.of(0xffff_ffff_8210_0041), "0xffffffff82100041");
    }

    #[test]
    fn hidden_addresses_give_no_names() {
        let names = Names::parse("0000000000000000 T schedule\n0000000000000000 D lock\n").unwrap();
        assert!(names.is_empty());
        assert_eq!(names.of(0xffff_ffff_8100_1000), "0xffffffff81001000");
    }

    #[test]
    fn other_files_are_errors() {
        let error = format!("{:#}", Names::parse("ffffffff81000000 T a\nnothing here\n").unwrap_err());
        assert!(error.contains("line 2"), "{error}");
        let error = format!("{:#}", Names::read(Path::new("/nonexistent/kallsyms")).unwrap_err());
        assert!(error.contains("/nonexistent/kallsyms"), "{error}");
    }

    #[test]
    fn this_kernels_table_is_read() {
        Names::read(Path::new(KALLSYMS)).unwrap();
    }
}
