//! An uncompressed kernel out of a compressed one (`Documentation/arch/x86/boot.rst` of Linux).

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Where the setup header begins, and its fields.
const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first version with a payload.
const WITH_PAYLOAD: u16 = 0x0208;
const SECTOR: usize = 512;

/// A way of compressing: how it begins, the program that undoes it, and whether the kernel's build puts the size of
/// the content behind it.
struct Compression {
    magic: &'static [u8],
    program: &'static [&'static str],
    package: &'static str,
    size_behind: bool,
}

const COMPRESSIONS: [Compression; 4] = [
    Compression {
        magic: b"\xfd7zXZ\0",
        program: &["xz", "-dc", "--single-stream"],
        package: "xz-utils",
        size_behind: true,
    },
    Compression {
        magic: b"\x28\xb5\x2f\xfd",
        program: &["zstd", "-dcq"],
        package: "zstd",
        size_behind: true,
    },
    Compression { magic: b"\x02\x21\x4c\x18", program: &["lz4", "-dcq"], package: "lz4", size_behind: true },
    Compression { magic: b"\x1f\x8b", program: &["gzip", "-dc"], package: "gzip", size_behind: false },
];

/// The ELF file within a bzImage.
pub fn extract(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    let compression = COMPRESSIONS.iter().find(|compression| payload.starts_with(compression.magic));
    let Some(compression) = compression else {
        bail!("the kernel is compressed in a way that is not known here")
    };
    let end = payload.len() - if compression.size_behind { 4 } else { 0 };
    let elf = run(compression, &payload[..end])?;
    ensure!(elf.starts_with(b"\x7fELF"), "what {} gives is no ELF file", compression.program[0]);
    Ok(elf)
}

/// The compressed kernel within a bzImage.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let bytes = |at: usize, len: usize| image.get(at..at + len).context("the image is cut off");
    let word = |at: usize| -> Result<usize> {
        let bytes = bytes(at, 4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    ensure!(bytes(HEADER_MAGIC, 4)? == b"HdrS", "this is no image of a kernel");
    let version = bytes(VERSION, 2)?;
    let version = u16::from_le_bytes([version[0], version[1]]);
    ensure!(version >= WITH_PAYLOAD, "the image is of an old format, {version:#x}");
    // 0 stands for 4, says the protocol.
    let sectors = match bytes(SETUP_SECTORS, 1)?[0] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let begin = (sectors + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    let len = word(PAYLOAD_LENGTH)?;
    ensure!(len > 4, "the image has no payload");
    bytes(begin, len)
}

fn run(compression: &Compression, input: &[u8]) -> Result<Vec<u8>> {
    let name = compression.program[0];
    let mut child = Command::new(name)
        .args(&compression.program[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {name} (Debian package {})", compression.package))?;
    let mut stdin = child.stdin.take().with_context(|| format!("{name} without input"))?;
    let output = std::thread::scope(|scope| {
        // Its output must be read while it is fed.
        let feeding = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        let fed = feeding.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
        output.and_then(|output| fed.map(|()| output))
    });
    let output = output.with_context(|| format!("unpacking the kernel with {name}"))?;
    ensure!(output.status.success(), "unpacking the kernel: {name} failed: {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image around a payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR + 16];
        image[SETUP_SECTORS] = 2;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x20fu16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows");
        image
    }

    fn compressed(program: &str, content: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(program);
        child.stdin.take().unwrap().write_all(content).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn the_kernel_comes_out_as_it_went_in() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let gzip = compressed("gzip", &elf);
        assert_eq!(extract(&image(&gzip)).unwrap(), elf);
        let mut xz = compressed("xz", &elf);
        xz.extend((elf.len() as u32).to_le_bytes());
        assert_eq!(extract(&image(&xz)).unwrap(), elf);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let refused = |image: &[u8]| format!("{:#}", extract(image).unwrap_err());
        assert!(refused(b"short").contains("cut off"));
        assert!(refused(&[0; 2000]).contains("no image of a kernel"));
        assert!(refused(&image(b"something else")).contains("not known here"));
        assert!(refused(&image(&compressed("gzip", b"no ELF"))).contains("no ELF file"));
        let whole = image(&compressed("gzip", b"\x7fELF"));
        assert!(refused(&whole[..whole.len() - 40]).contains("cut off"));
    }
}
