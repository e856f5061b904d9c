//! Takes the DWARF out of an object; code, maps and BTF stay.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// The object without its `.debug_*` sections, their relocations and the symbols that only they used.
///
/// DWARF is nine tenths of an object, and neither the kernel nor the loader reads it.
pub fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the eBPF object is no ELF file that can be read")?;
    for section in builder.sections.iter_mut() {
        let name = section.name.to_string();
        if name.starts_with(".debug_") || name.starts_with(".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; the writer wants two.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut out = Vec::new();
    builder.write(&mut out).context("the eBPF object cannot be written without its DWARF")?;
    Ok(out)
}
