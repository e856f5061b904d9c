//! The initramfs: an archive in the kernel's `newc` format, the same bytes for the same content.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

/// What is at a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File { content: Vec<u8>, mode: u32 },
    Link { target: String },
}

/// The files of a guest, by their path without the leading slash.
#[derive(Clone, Debug, Default)]
pub struct Image {
    nodes: BTreeMap<String, Node>,
}

impl Image {
    /// Adds a folder, and those above it.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        let path = relative(path)?;
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            match self.nodes.entry(path[..end].to_owned()).or_insert(Node::Folder) {
                Node::Folder => {}
                other => bail!("/{} of the guest is {other:?}, not a folder", &path[..end]),
            }
        }
        Ok(())
    }

    /// Adds a file. Adding the same one again changes nothing.
    pub fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) -> Result<()> {
        self.node(path, Node::File { content, mode })
    }

    /// Adds a copy of a file of the host.
    pub fn copy(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let content = std::fs::read(from)
            .with_context(|| format!("reading {}, which the guest needs", from.display()))?;
        self.file(to, content, mode)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.node(path, Node::Link { target: target.to_owned() })
    }

    fn node(&mut self, path: &str, node: Node) -> Result<()> {
        let key = relative(path)?;
        if let Some((parent, _)) = key.rsplit_once('/') {
            self.folder(&format!("/{parent}"))?;
        }
        match self.nodes.get(key) {
            Some(known) if *known != node => bail!("{path} of the guest would be two different files"),
            _ => self.nodes.insert(key.to_owned(), node),
        };
        Ok(())
    }

    /// Writes the archive. Nothing in it depends on when, where or by whom it is made.
    pub fn write(&self, mut out: impl Write) -> Result<()> {
        // The map is sorted, so a folder comes before what is in it.
        for (number, (path, node)) in (1..).zip(&self.nodes) {
            let (kind, mode, content): (_, _, &[u8]) = match node {
                Node::Folder => (ModeFileType::Directory, 0o755, &[]),
                Node::File { content, mode } => (ModeFileType::Regular, *mode, content),
                Node::Link { target } => (ModeFileType::Symlink, 0o777, target.as_bytes()),
            };
            let builder = Builder::new(path).ino(number).mode(mode).mtime(0).set_mode_file_type(kind);
            let size = u32::try_from(content.len()).with_context(|| format!("/{path} is too large"))?;
            let mut writer = builder.write(&mut out, size);
            writer
                .write_all(content)
                .and_then(|()| writer.finish().map(drop))
                .context("writing the initramfs")?;
        }
        trailer(&mut out).context("writing the initramfs")?;
        out.flush().context("writing the initramfs")
    }
}

fn relative(path: &str) -> Result<&str> {
    match path.strip_prefix('/') {
        Some(rest) if !rest.is_empty() && !rest.ends_with('/') => Ok(rest),
        _ => bail!("`{path}` is no absolute path of a file of the guest"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cpio::newc::Reader;

    use super::*;

    fn image() -> Image {
        let mut image = Image::default();
        image.file("/usr/bin/tool", b"tool".to_vec(), 0o755).unwrap();
        image.link("/bin/sh", "busybox").unwrap();
        image.folder("/proc").unwrap();
        image.folder("/usr/bin").unwrap();
        image.file("/init", b"#!/bin/sh\n".to_vec(), 0o755).unwrap();
        image
    }

    fn bytes(image: &Image) -> Vec<u8> {
        let mut bytes = vec![];
        image.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_put_in_is_read_back_folders_first() {
        let mut rest = &bytes(&image())[..];
        let mut seen = vec![];
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            let entry = reader.entry();
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            seen.push((entry.name().to_owned(), entry.mode(), content));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("bin", 0o040755, ""),
            ("bin/sh", 0o120777, "busybox"),
            ("init", 0o100755, "#!/bin/sh\n"),
            ("proc", 0o040755, ""),
            ("usr", 0o040755, ""),
            ("usr/bin", 0o040755, ""),
            ("usr/bin/tool", 0o100755, "tool"),
        ];
        let seen: Vec<_> = seen.iter().map(|(n, m, c)| (n.as_str(), *m, c.as_str())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut other = Image::default();
        other.file("/init", b"#!/bin/sh\n".to_vec(), 0o755).unwrap();
        other.folder("/proc").unwrap();
        other.link("/bin/sh", "busybox").unwrap();
        other.file("/usr/bin/tool", b"tool".to_vec(), 0o755).unwrap();
        assert_eq!(bytes(&other), bytes(&image()));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut image = image();
        image.file("/init", b"#!/bin/sh\n".to_vec(), 0o755).unwrap();
        let twice = image.file("/init", b"other".to_vec(), 0o755).unwrap_err().to_string();
        assert!(twice.contains("/init of the guest would be two"), "{twice}");
        assert!(image.file("/init/x", vec![], 0o644).is_err());
        assert!(image.folder("relative").is_err());
        let missing = image.copy(Path::new("/no/such/file"), "/x", 0o644).unwrap_err();
        assert!(format!("{missing:#}").contains("/no/such/file"), "{missing:#}");
    }
}
