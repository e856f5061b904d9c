//! Offsets of kernel structure members, from the kernel's BTF.
//!
//! Rust eBPF has no CO-RE relocations, so the loader looks offsets up and hands them to the programs as
//! constants. The one well-kept BTF reader for Rust is LGPL; the little that is needed here (structure
//! members by path) is read directly. Layout: Linux, Documentation/bpf/btf.rst.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// Where the kernel shows its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Names another BTF file, for these programs and for COMMAND.
pub const BTF_VARIABLE: &str = "ISPIN_BTF";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Parsed type information.
pub struct KernelBtf {
    data: Vec<u8>,
    /// Byte offset of each type, by type id; id 0 is void.
    types: Vec<usize>,
    strings: usize,
}

struct Member {
    type_id: u32,
    bit_offset: u32,
}

impl KernelBtf {
    /// Reads BTF from `path`, usually [`KERNEL_BTF`].
    pub fn read(path: &Path) -> Result<Self> {
        let data = std::fs::read(path).with_context(|| {
            format!(
                "cannot read kernel type information from {}: the kernel needs CONFIG_DEBUG_INFO_BTF=y",
                path.display()
            )
        })?;
        Self::parse(data).with_context(|| format!("{} is not BTF that this program can read", path.display()))
    }

    fn parse(data: Vec<u8>) -> Result<Self> {
        let magic = data.get(..2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        if magic != Some(MAGIC) {
            bail!("no BTF magic at its start");
        }
        let mut btf = Self { data, types: vec![0], strings: 0 };
        let header_len = btf.u32(4)? as usize;
        let at = |offset: u32| header_len + offset as usize;
        let (types_at, types_len) = (at(btf.u32(8)?), btf.u32(12)? as usize);
        btf.strings = at(btf.u32(16)?);
        let mut offset = types_at;
        while offset < types_at + types_len {
            btf.types.push(offset);
            let info = btf.u32(offset + 4)?;
            let (kind, vlen) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            offset += 12
                + match kind {
                    1 | 14 | 17 => 4,             // int, var, decl tag
                    3 => 12,                      // array
                    4 | 5 | 15 | 19 => vlen * 12, // struct, union, datasec, enum64
                    6 | 13 => vlen * 8,           // enum, func proto
                    2 | 7..=12 | 16 | 18 => 0,    // pointers, qualifiers, func, float, type tag
                    other => bail!("unknown BTF kind {other}"),
                };
        }
        Ok(btf)
    }

    /// Byte offset of `path` (members joined by dots, through embedded structures) in `structure`.
    pub fn offset_of(&self, structure: &str, path: &str) -> Result<u32> {
        let mut at = self.find_struct(structure)?;
        let mut bits = 0;
        for name in path.split('.') {
            let member = self
                .find_member(at, name)?
                .ok_or_else(|| anyhow!("this kernel's struct {structure} has no member `{path}`"))?;
            bits += member.bit_offset;
            at = self.type_at(self.skip_qualifiers(member.type_id)?)?;
        }
        Ok(bits / 8)
    }

    fn find_struct(&self, name: &str) -> Result<usize> {
        for &at in &self.types[1..] {
            if self.kind(at)? == KIND_STRUCT && self.string(self.u32(at)?) == name.as_bytes() {
                return Ok(at);
            }
        }
        bail!("this kernel's BTF has no struct {name}")
    }

    /// Looks through unnamed inner structures and unions too.
    fn find_member(&self, at: usize, name: &str) -> Result<Option<Member>> {
        let info = self.u32(at + 4)?;
        for i in 0..(info & 0xffff) as usize {
            let m = at + 12 + i * 12;
            let (name_at, type_id, offset) = (self.u32(m)?, self.u32(m + 4)?, self.u32(m + 8)?);
            // With the kind flag set, the upper 8 bits hold a bit field's size.
            let bit_offset = if info >> 31 == 1 { offset & 0xff_ffff } else { offset };
            let member_name = self.string(name_at);
            if member_name == name.as_bytes() {
                return Ok(Some(Member { type_id, bit_offset }));
            }
            if member_name.is_empty() {
                let inner = self.type_at(self.skip_qualifiers(type_id)?)?;
                if matches!(self.kind(inner)?, KIND_STRUCT | KIND_UNION)
                    && let Some(found) = self.find_member(inner, name)?
                {
                    return Ok(Some(Member { bit_offset: bit_offset + found.bit_offset, ..found }));
                }
            }
        }
        Ok(None)
    }

    /// Through typedef, volatile, const, restrict and type tag.
    fn skip_qualifiers(&self, mut id: u32) -> Result<u32> {
        for _ in 0..32 {
            let at = self.type_at(id)?;
            if !matches!(self.kind(at)?, 8..=11 | 18) {
                return Ok(id);
            }
            id = self.u32(at + 8)?;
        }
        bail!("BTF type {id} is a chain of qualifiers without an end")
    }

    fn type_at(&self, id: u32) -> Result<usize> {
        match self.types.get(id as usize) {
            Some(&at) if id != 0 => Ok(at),
            _ => bail!("BTF refers to type {id}, which does not exist"),
        }
    }

    fn kind(&self, at: usize) -> Result<u32> {
        Ok(self.u32(at + 4)? >> 24 & 0x1f)
    }

    fn string(&self, offset: u32) -> &[u8] {
        let bytes = self.data.get(self.strings + offset as usize..).unwrap_or_default();
        bytes.split(|&b| b == 0).next().unwrap_or_default()
    }

    fn u32(&self, at: usize) -> Result<u32> {
        match self.data.get(at..at + 4) {
            Some(b) => Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            None => bail!("BTF ends at byte {}, but byte {at} is referred to", self.data.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_and_cut_data_are_errors() {
        assert!(KernelBtf::parse(b"\x7fELF".to_vec()).is_err());
        assert!(KernelBtf::parse(vec![]).is_err());
        let mut header = vec![0x9f, 0xeb, 1, 0];
        for word in [24u32, 0, 1000, 1000, 10] {
            header.extend(word.to_le_bytes());
        }
        let error = KernelBtf::parse(header).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("ends at byte"), "{error}");
    }
}
