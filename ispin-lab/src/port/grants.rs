//! Memory that one domain lets another one map, through Linux's two devices for it.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::ring::{Mapping, PAGE};

/// The domain that runs the tools.
const DOM0: u16 = 0;

/// `IOCTL_GNTALLOC_ALLOC_GREF` of `xen/gntalloc.h`.
const ALLOCATE: libc::Ioctl = request(5);
/// `IOCTL_GNTDEV_MAP_GRANT_REF` of `xen/gntdev.h`.
const MAP: libc::Ioctl = request(0);
/// `GNTALLOC_FLAG_WRITABLE`.
const WRITABLE: u16 = 1;

/// Both requests have an argument of 24 bytes: a head of 16, and the first of a list.
const fn request(number: libc::Ioctl) -> libc::Ioctl {
    24 << 16 | (b'G' as libc::Ioctl) << 8 | number
}

/// The argument of both requests: two fields of each size, and a list. In words of 32 bits, because the list's
/// length is known at run time only.
struct Argument(Vec<u64>);

impl Argument {
    fn new(head: u64, list_words: usize) -> Self {
        let mut words = vec![0; 2 + list_words.div_ceil(2).max(1)];
        words[0] = head;
        Self(words)
    }

    fn index(&self) -> u64 {
        self.0[1]
    }

    fn list(&self) -> impl Iterator<Item = u32> {
        self.0[2..].iter().flat_map(|&word| [word as u32, (word >> 32) as u32])
    }

    fn call(&mut self, device: RawFd, request: libc::Ioctl) -> std::io::Result<()> {
        // SAFETY: the kernel reads and writes the head and as many entries as the head says, which were allocated.
        match unsafe { libc::ioctl(device, request, self.0.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// Zeroed pages that dom0 may map, and the grants by which it finds them.
pub fn share_with_dom0(pages: usize) -> Result<(Mapping, Vec<u32>)> {
    let device = open("/dev/xen/gntalloc", "CONFIG_XEN_GRANT_DEV_ALLOC")?;
    let head = u64::from(DOM0) | u64::from(WRITABLE) << 16 | (pages as u64) << 32;
    let mut argument = Argument::new(head, pages);
    argument
        .call(device.as_raw_fd(), ALLOCATE)
        .with_context(|| format!("sharing {pages} pages with dom0"))?;
    let grants = argument.list().take(pages).collect();
    Ok((map(&device, pages, argument.index())?, grants))
}

/// Maps pages that domain `domain` shares with this one.
pub fn map_of(domain: u32, grants: &[u32]) -> Result<Mapping> {
    let device = open("/dev/xen/gntdev", "xen-gntdev.ko")?;
    let mut argument = Argument::new(grants.len() as u64, 2 * grants.len());
    for (word, grant) in argument.0[2..].iter_mut().zip(grants) {
        *word = u64::from(domain) | u64::from(*grant) << 32;
    }
    let what = || format!("mapping {} pages of domain {domain}", grants.len());
    argument.call(device.as_raw_fd(), MAP).with_context(what)?;
    map(&device, grants.len(), argument.index()).with_context(what)
}

fn open(path: &str, needs: &str) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(Path::new(path))
        .with_context(|| format!("opening {path} (the kernel needs {needs})"))
}

fn map(device: &File, pages: usize, index: u64) -> Result<Mapping> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let len = pages * PAGE;
    // SAFETY: a new mapping at a place that the kernel chooses; nothing refers to it yet.
    let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, device, index) }
        .context("mapping shared pages")?;
    let base = NonNull::new(base.cast()).context("mapping shared pages: at address 0")?;
    // SAFETY: the mapping is new, and this value alone will unmap it. It outlives the device's descriptor.
    Ok(unsafe { Mapping::new(base, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_kernel() {
        assert_eq!((ALLOCATE, MAP), (0x0018_4705, 0x0018_4700));
    }

    #[test]
    fn arguments_have_room_for_their_list() {
        let mut argument = Argument::new(3 << 32, 3);
        assert_eq!(argument.0.len(), 4);
        argument.0[2] = 7 | 8 << 32;
        argument.0[3] = 9;
        assert_eq!(argument.list().take(3).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(Argument::new(1, 0).0.len(), 3);
    }
}
