//! The small store in dom0 in which domains find each other, through the kernel's device.
//!
//! One question, one answer: no transactions and no watches, for nothing here needs them.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

const DEVICE: &str = "/dev/xen/xenbus";
/// `xsd_sockmsg_type` of `xen/io/xs_wire.h`.
const READ: u32 = 2;
const WRITE: u32 = 11;
const ERROR: u32 = 16;
/// Longest payload that the store accepts.
const MOST: usize = 4096;

/// A connection to the store.
pub struct Store<Stream = File> {
    stream: Stream,
}

impl Store {
    /// Connects.
    pub fn open() -> Result<Self> {
        let stream = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .with_context(|| format!("opening {DEVICE} (the kernel needs CONFIG_XEN)"))?;
        Ok(Self { stream })
    }
}

impl<Stream: Read + Write> Store<Stream> {
    /// What is at `path`; `None` = nothing.
    pub fn read(&mut self, path: &str) -> Result<Option<String>> {
        let payload = [path.as_bytes(), b"\0"].concat();
        match self.ask(READ, &payload).with_context(|| format!("reading {path} from the Xen store"))? {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(error) if error == "ENOENT" => Ok(None),
            Err(error) => bail!("reading {path} from the Xen store: {error}"),
        }
    }

    /// Puts `value` at `path`. A path without a leading slash is below this domain's own place.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        let payload = [path.as_bytes(), b"\0", value.as_bytes()].concat();
        match self.ask(WRITE, &payload).with_context(|| format!("writing {path} to the Xen store"))? {
            Ok(_) => Ok(()),
            Err(error) => bail!("writing {path} to the Xen store: {error}"),
        }
    }

    /// The answer, or the name of the error that the store gave.
    fn ask(&mut self, kind: u32, payload: &[u8]) -> Result<Result<Vec<u8>, String>> {
        ensure!(payload.len() <= MOST, "{} bytes are too many", payload.len());
        // Kind, request, transaction, length.
        let head = [kind, 0, 0, payload.len() as u32].map(u32::to_le_bytes).concat();
        self.stream.write_all(&[&head, payload].concat()).context("asking")?;
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).context("the answer")?;
        let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let (answered, len) = (word(0), word(12) as usize);
        ensure!(len <= MOST, "an answer of {len} bytes");
        let mut answer = vec![0; len];
        self.stream.read_exact(&mut answer).context("the answer")?;
        match answered {
            ERROR => Ok(Err(String::from_utf8_lossy(&answer).trim_end_matches('\0').to_owned())),
            _ if answered == kind => Ok(Ok(answer)),
            _ => bail!("an answer of kind {answered} to a question of kind {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Answers everything with the same bytes, and keeps the questions.
    struct Fake {
        answer: Vec<u8>,
        asked: Vec<u8>,
    }

    impl Read for Fake {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.answer.len());
            bytes[..count].copy_from_slice(&self.answer[..count]);
            self.answer.drain(..count);
            Ok(count)
        }
    }

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn store(kind: u32, answer: &[u8]) -> Store<Fake> {
        let head = [kind, 0, 0, answer.len() as u32].map(u32::to_le_bytes).concat();
        Store { stream: Fake { answer: [&head, answer].concat(), asked: vec![] } }
    }

    #[test]
    fn a_value_is_read() {
        let mut store = store(READ, b"17");
        assert_eq!(store.read("/local/domain/1/data/ispin").unwrap().as_deref(), Some("17"));
        assert!(store.stream.asked.ends_with(b"/data/ispin\0"));
        assert_eq!(store.stream.asked[12..16], 27u32.to_le_bytes());
    }

    #[test]
    fn what_is_not_there_is_none_and_other_errors_are_told() {
        assert_eq!(store(ERROR, b"ENOENT\0").read("x").unwrap(), None);
        let error = store(ERROR, b"EACCES\0").write("x", "1").unwrap_err();
        assert!(error.to_string().contains("EACCES"), "{error}");
        let error = store(7, b"").read("x").unwrap_err();
        assert!(format!("{error:#}").contains("an answer of kind 7"), "{error:#}");
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert_eq!(store(READ, b"").read("x").unwrap().as_deref(), Some(""));
        store(WRITE, b"OK\0").write("x", "").unwrap();
    }

    #[test]
    fn an_answer_that_is_cut_short_or_too_long_is_an_error() {
        let mut cut = store(READ, b"17");
        cut.stream.answer.pop();
        assert!(format!("{:#}", cut.read("x").unwrap_err()).contains("the answer"));
        let mut long = store(READ, &[0; MOST + 1]);
        assert!(format!("{:#}", long.read("x").unwrap_err()).contains("an answer of 4097 bytes"));
    }
}
