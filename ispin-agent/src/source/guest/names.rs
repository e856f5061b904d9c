//! Names of locks and callers, from the kernel's symbol table.

use std::path::Path;

use anyhow::{Context, Result};

/// Where the kernel shows its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// An address this far behind a symbol does not belong to it: no function or lock table is that large.
const MAX_OFFSET: u64 = 1 << 20;

/// The kernel's symbols, sorted by address.
#[derive(Debug, Default)]
pub struct Names {
    symbols: Vec<(u64, Box<str>)>,
    /// End of the kernel image: what lies beyond is allocated at run time.
    end: Option<u64>,
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
        let mut symbols: Vec<(u64, Box<str>)> = vec![];
        for (line, number) in text.lines().zip(1..) {
            let mut fields = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (fields.next(), fields.next(), fields.next())
            else {
                anyhow::bail!("line {number}: expected an address, a kind and a name, found `{line}`");
            };
            let address = u64::from_str_radix(address, 16)
                .with_context(|| format!("line {number}: `{address}` is no address"))?;
            // Absolute symbols are sizes and offsets into per-CPU areas.
            if address != 0 && !kind.eq_ignore_ascii_case("a") {
                symbols.push((address, name.into()));
            }
        }
        symbols.sort_by_key(|&(address, _)| address);
        // Of several names of an address the first is kept: the table lists the plain one first.
        symbols.dedup_by_key(|&mut (address, _)| address);
        let end = symbols.iter().find(|(_, name)| &**name == "_end").map(|&(address, _)| address);
        Ok(Self { symbols, end })
    }

    /// Whether there are any: not where addresses are hidden from this user.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// `symbol+0x1c`, or the address itself where there is no symbol: a lock in allocated memory.
    pub fn of(&self, address: u64) -> String {
        let after = self.symbols.partition_point(|&(start, _)| start <= address);
        let symbol = after.checked_sub(1).map(|i| &self.symbols[i]);
        match symbol {
            Some((start, name)) if self.covers(*start, address, after) => match address - start {
                0 => name.to_string(),
                offset => format!("{name}+{offset:#x}"),
            },
            _ => format!("{address:#x}"),
        }
    }

    /// Whether the symbol at `start` reaches to `address`. The table has no sizes: a symbol ends at the next
    /// one, the last of the image at its end.
    fn covers(&self, start: u64, address: u64, after: usize) -> bool {
        let in_image_or_module = match self.end {
            Some(end) if start <= end => address < end,
            _ => after < self.symbols.len(),
        };
        in_image_or_module && address - start < MAX_OFFSET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
0000000000000000 A fixed_percpu_data
0000000000001000 A cpu_debug_store
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81001000 T schedule
ffffffff81001800 t helper
ffffffff82000000 D lock_table
ffffffff82000040 B tasklist_lock
ffffffff82400000 B _end
ffffffffc0000000 t module_init\t[mod]
ffffffffc0000100 t module_work\t[mod]
";

    #[test]
    fn names_and_offsets() {
        let names = Names::parse(TABLE).unwrap();
        assert_eq!(names.of(0xffff_ffff_8100_1000), "schedule");
        assert_eq!(names.of(0xffff_ffff_8100_101c), "schedule+0x1c");
        assert_eq!(names.of(0xffff_ffff_8100_0000), "_text");
        assert_eq!(names.of(0xffff_ffff_8200_0044), "tasklist_lock+0x4");
        assert_eq!(names.of(0xffff_ffff_c000_0010), "module_init+0x10");
    }

    #[test]
    fn allocated_memory_has_no_name() {
        let names = Names::parse(TABLE).unwrap();
        for address in [0xffff_8880_0123_4000, 0x40, 0x1004, 0xffff_ffff_8240_0000, 0xffff_ffff_9000_0000] {
            assert_eq!(names.of(address), format!("{address:#x}"));
        }
        // Behind the last symbol, and too far behind any.
        assert_eq!(names.of(0xffff_ffff_c000_0110), "0xffffffffc0000110");
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
