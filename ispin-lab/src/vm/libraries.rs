//! The shared libraries that a program of the host needs to run elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where libraries are in Debian's packages.
const FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// What `program` is linked with, its loader included; none if it is static or a script.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    look(program, None)
}

/// The same of a program of packages that are unpacked in `root`: their libraries go before the host's.
pub fn of_unpacked(program: &Path, root: &Path) -> Result<Vec<PathBuf>> {
    look(program, Some(root))
}

fn look(program: &Path, root: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.env("LC_ALL", "C").arg(program);
    if let Some(root) = root {
        let folders = std::env::join_paths(FOLDERS.map(|folder| root.join(folder)))
            .with_context(|| format!("{} cannot be searched for libraries", root.display()))?;
        command.env("LD_LIBRARY_PATH", folders);
    }
    let output = command.output().context(
        "running ldd (Debian package libc-bin), which tells the libraries of the guest's programs",
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    if text.contains("statically linked") || said.contains("not a dynamic executable") {
        return Ok(vec![]);
    }
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), said.trim());
    }
    parse(&text).with_context(|| format!("the libraries of {}", program.display()))
}

/// Reads what ldd prints: `name => path (address)`, or `path (address)` for the loader.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = vec![];
    for line in text.lines() {
        let place = line.split(" => ").last().unwrap_or(line).trim();
        if place.starts_with("not found") {
            bail!("{} is not installed", line.trim());
        }
        // What has no path is made up by the kernel (linux-vdso.so.1).
        if let Some(path) = place.split_whitespace().next().filter(|path| path.starts_with('/')) {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(text).unwrap(), found);
        assert!(parse("\tlibx.so => not found\n").unwrap_err().to_string().contains("libx.so"));
    }

    #[test]
    fn a_program_of_this_machine_has_a_loader() {
        let found = of(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.iter().any(|path| path.to_string_lossy().contains("ld-linux")), "{found:?}");
        assert!(of(Path::new("/no/such/program")).is_err());
    }
}
