//! Key presses from the bytes of a terminal.
//!
//! Read here and not through crossterm's event reader, because the dashboard may run above every other
//! thread's priority: that reader waits for the rest of an unfinished sequence and spins for ever on a terminal
//! that has gone away, and it wakes by itself on a signal. This one takes what is there and returns.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};

use crate::keys::Key;

/// The terminal's keyboard.
#[derive(Debug)]
pub struct Keyboard {
    terminal: OwnedFd,
    decoder: Decoder,
}

impl Keyboard {
    /// The terminal on standard input, else the controlling terminal.
    pub fn open() -> Result<Self> {
        let stdin = std::io::stdin();
        let terminal = if stdin.is_terminal() {
            stdin.as_fd().try_clone_to_owned().context("duplicating standard input")?
        } else {
            File::open("/dev/tty")
                .context("opening /dev/tty for the keys, because standard input is no terminal")?
                .into()
        };
        Ok(Self { terminal, decoder: Decoder::default() })
    }

    /// The keys that were pressed since the last call. Never waits. An error means that the terminal is gone.
    pub fn pressed(&mut self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        loop {
            let mut fds = [PollFd::new(&self.terminal, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(0) => return Ok(keys),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("looking for key presses"),
            }
            let ready = fds[0].revents();
            let mut bytes = [0; 256];
            match read(&self.terminal, &mut bytes) {
                Ok(0) => bail!("the terminal was closed"),
                Ok(n) => self.decoder.feed(&bytes[..n], &mut keys),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("reading from the terminal"),
            }
            if ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                bail!("the terminal was closed");
            }
        }
    }
}

impl AsFd for Keyboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

/// Turns bytes into keys; remembers the beginning of a sequence that has not ended yet.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

/// An unfinished sequence longer than this is no key.
const LONGEST: usize = 32;

enum Decoded {
    /// A key, or nothing that we know, of so many bytes.
    Key(Option<Key>, usize),
    /// More bytes are needed.
    Unfinished,
}

impl Decoder {
    /// Takes bytes as one read delivered them.
    pub fn feed(&mut self, bytes: &[u8], keys: &mut Vec<Key>) {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while at < self.pending.len() {
            match decode(&self.pending[at..]) {
                Decoded::Key(key, length) => {
                    keys.extend(key);
                    at += length;
                }
                Decoded::Unfinished if self.pending.len() - at > LONGEST => at = self.pending.len(),
                Decoded::Unfinished => break,
            }
        }
        self.pending.drain(..at);
    }
}

fn decode(bytes: &[u8]) -> Decoded {
    let key = match bytes[0] {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x7f | 0x08 => Key::Backspace,
        // A terminal writes a whole sequence at once, so an Escape that nothing follows is the key.
        0x1b if bytes.len() == 1 => Key::Esc,
        0x1b => return decode_escape(bytes),
        c @ 0x01..=0x1a => Key::Ctrl((c - 1 + b'a') as char),
        0x00..0x20 => return Decoded::Key(None, 1),
        _ => return decode_character(bytes),
    };
    Decoded::Key(Some(key), 1)
}

fn decode_escape(bytes: &[u8]) -> Decoded {
    match bytes[1] {
        b'[' => {
            // CSI: parameters and intermediates, then one final byte from `@` to `~`.
            let Some(end) = bytes[2..].iter().position(|b| (0x40..=0x7e).contains(b)) else {
                return Decoded::Unfinished;
            };
            let parameters = &bytes[2..2 + end];
            let key = match (bytes[2 + end], parameters.split(|b| *b == b';').next()) {
                (b'~', Some(b"1" | b"7")) => Some(Key::Home),
                (b'~', Some(b"4" | b"8")) => Some(Key::End),
                (b'~', Some(b"5")) => Some(Key::PageUp),
                (b'~', Some(b"6")) => Some(Key::PageDown),
                (b'Z', _) => Some(Key::BackTab),
                (last, _) => arrow(last),
            };
            Decoded::Key(key, 2 + end + 1)
        }
        b'O' if bytes.len() == 2 => Decoded::Unfinished,
        b'O' => Decoded::Key(arrow(bytes[2]), 3),
        // Escape pressed twice, or the beginning of the next sequence.
        0x1b => Decoded::Key(Some(Key::Esc), 1),
        // Alt and a key: nothing is bound to it.
        _ => match decode(&bytes[1..]) {
            Decoded::Key(_, length) => Decoded::Key(None, 1 + length),
            Decoded::Unfinished => Decoded::Unfinished,
        },
    }
}

fn arrow(last: u8) -> Option<Key> {
    Some(match last {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        _ => return None,
    })
}

fn decode_character(bytes: &[u8]) -> Decoded {
    let length = match bytes[0] {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => return Decoded::Key(None, 1),
    };
    let Some(whole) = bytes.get(..length) else { return Decoded::Unfinished };
    match std::str::from_utf8(whole).ok().and_then(|text| text.chars().next()) {
        Some(c) => Decoded::Key(Some(Key::Char(c)), length),
        None => Decoded::Key(None, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(reads: &[&[u8]]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        let mut keys = Vec::new();
        for bytes in reads {
            decoder.feed(bytes, &mut keys);
        }
        keys
    }

    #[test]
    fn plain_keys() {
        assert_eq!(
            keys(&[b"q?\r\t \x7f\x03"]),
            [
                Key::Char('q'),
                Key::Char('?'),
                Key::Enter,
                Key::Tab,
                Key::Char(' '),
                Key::Backspace,
                Key::Ctrl('c')
            ]
        );
        assert_eq!(keys(&["ü→".as_bytes()]), [Key::Char('ü'), Key::Char('→')]);
    }

    #[test]
    fn sequences_of_common_terminals() {
        assert_eq!(keys(&[b"\x1b[A\x1b[B\x1bOC\x1bOD"]), [Key::Up, Key::Down, Key::Right, Key::Left]);
        assert_eq!(
            keys(&[b"\x1b[5~\x1b[6~\x1b[1~\x1b[8~\x1b[H\x1bOF\x1b[Z"]),
            [Key::PageUp, Key::PageDown, Key::Home, Key::End, Key::Home, Key::End, Key::BackTab]
        );
        assert_eq!(keys(&[b"\x1b[1;5A"]), [Key::Up], "with modifiers");
    }

    #[test]
    fn a_sequence_may_come_in_two_reads() {
        assert_eq!(keys(&[b"\x1b[", b"A"]), [Key::Up]);
        assert_eq!(keys(&[b"\xc3", b"\xbc"]), [Key::Char('ü')]);
    }

    #[test]
    fn escape_alone_is_a_key() {
        assert_eq!(keys(&[b"\x1b"]), [Key::Esc]);
        assert_eq!(keys(&[b"\x1b\x1b"]), [Key::Esc, Key::Esc]);
        assert_eq!(keys(&[b"\x1b\x1b[A"]), [Key::Esc, Key::Up]);
    }

    #[test]
    fn what_is_no_key_is_passed_over() {
        assert_eq!(keys(&[b"\x1b[200~\x1b[?1;2cq"]), [Key::Char('q')]);
        assert_eq!(keys(&[b"\xff\xfe\x00q"]), [Key::Char('q')]);
        assert_eq!(keys(&[b"\x1bjq"]), [Key::Char('q')], "Alt-j");
        assert_eq!(keys(&[b"\x1b[", &[b'1'; 200], b"~q"]), keys(&[b"~q"]), "endless parameters");
    }
}
