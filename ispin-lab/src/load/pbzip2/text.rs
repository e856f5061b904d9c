//! Text made up from a seed. It compresses about as well as prose.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Words that the text is made of.
const VOCABULARY: usize = 4000;

/// Words in a line.
const LINE: usize = 12;

/// A text without end.
pub struct Text {
    random: SmallRng,
    words: Vec<Vec<u8>>,
}

impl Text {
    /// The text of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let words = (0..VOCABULARY)
            .map(|_| (0..random.random_range(2..10)).map(|_| random.random_range(b'a'..=b'z')).collect())
            .collect();
        Self { random, words }
    }

    /// Writes its first `length` bytes, unless `go_on` fails meanwhile.
    pub fn write(mut self, length: u64, out: &mut impl Write, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let mut left = length;
        let mut line = vec![];
        while left > 0 {
            go_on()?;
            line.clear();
            for _ in 0..LINE {
                line.extend_from_slice(self.word());
                line.push(b' ');
            }
            line.push(b'\n');
            let part = left.min(line.len() as u64);
            out.write_all(&line[..part as usize]).context("writing the text: give the guest more memory")?;
            left -= part;
        }
        Ok(())
    }

    /// Words at the beginning of the vocabulary are more frequent.
    fn word(&mut self) -> &[u8] {
        let rank = self.random.random::<f64>().powi(3) * VOCABULARY as f64;
        &self.words[rank as usize]
    }
}

/// Where what is written to it first differs from what it reads.
pub struct Difference<R> {
    reader: R,
    offset: u64,
    first: Option<u64>,
}

impl<R: Read> Difference<R> {
    /// Compares with `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, offset: 0, first: None }
    }

    /// The first byte that differed.
    pub fn first(&self) -> Option<u64> {
        self.first
    }
}

impl<R: Read> Write for Difference<R> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut other = vec![0; bytes.len()];
        self.reader.read_exact(&mut other)?;
        if let Some(at) = bytes.iter().zip(&other).position(|(a, b)| a != b) {
            self.first.get_or_insert(self.offset + at as u64);
        }
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_text_and_a_flipped_byte_is_found() {
        let mut text = vec![];
        Text::new(3).write(100_000, &mut text, || Ok(())).expect("memory");
        assert_eq!(text.len(), 100_000);
        let mut same = Difference::new(&text[..]);
        Text::new(3).write(100_000, &mut same, || Ok(())).expect("the same length");
        assert_eq!(same.first(), None);
        text[77_777] ^= 1;
        let mut other = Difference::new(&text[..]);
        Text::new(3).write(100_000, &mut other, || Ok(())).expect("the same length");
        assert_eq!(other.first(), Some(77_777));
    }
}
