//! Which compilers and linkers this machine has for eBPF programs.
//!
//! A compiler is of use when its library source is there, because the BPF target has no compiled `core`:
//! rustup's nightly with `rust-src`, or any other rustc whose sysroot has the source, a Debian package for one.
//! The linker works on LLVM bitcode, so it must load the LLVM that the compiler wrote it with.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The linker's name.
pub const LINKER: &str = "bpf-linker";

/// Arguments of cargo that install a linker which loads the LLVM of whichever rustc runs it.
pub const INSTALL_LINKER: [&str; 5] = ["install", LINKER, "--version", "0.10.3", "--locked"];

/// Debian's newest compiler with its library source and its lints.
pub const DEBIAN_PACKAGES: [&str; 4] = ["cargo-web", "rust-web-clippy", "rust-web-src", "rustc-web"];

/// A compiler with its library source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Where it was found, in words: `rustup nightly`, or a path.
    pub found: String,
    /// Folder above `bin/rustc`, `bin/cargo` and `lib/rustlib`.
    pub sysroot: PathBuf,
    /// Release and commit, as `rustc -V` prints them.
    pub version: String,
    /// Version of its LLVM.
    pub llvm: String,
    /// Triple of the machine that it runs on.
    host: String,
}

/// What was found, and what was found wanting.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Usable compilers, the preferred one first.
    pub toolchains: Vec<Toolchain>,
    /// Linkers, the preferred one first.
    pub linkers: Vec<PathBuf>,
    /// Compilers that cannot be used and places that were looked at in vain: one line each, with the reason.
    pub rejected: Vec<String>,
}

impl Discovery {
    /// Looks for rustup's nightly, then for the rustc that drives this build, then on `PATH` and in `/usr/bin`;
    /// for linkers on `PATH`, in cargo's folder, then in that of `tools`.
    pub fn new(tools: &Path) -> Self {
        let mut found = Self::default();
        found.add_compiler("rustup nightly", || {
            let mut nightly = plain_command("rustup");
            nightly.args(["run", "nightly", "rustc"]);
            nightly
        });
        let driving = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        for rustc in
            [driving].into_iter().chain(on_path("rustc").map(Into::into)).chain(["/usr/bin/rustc".into()])
        {
            found.add_compiler(&rustc.to_string_lossy(), || Command::new(&rustc));
        }
        let roots = cargo_home().into_iter().chain([tools.to_owned()]);
        for linker in on_path(LINKER).chain(roots.map(|root| root.join("bin").join(LINKER))) {
            if linker.is_file() && !found.linkers.contains(&linker) {
                found.linkers.push(linker);
            }
        }
        if found.linkers.is_empty() {
            found.rejected.push(format!("no {LINKER} on PATH or in cargo's bin folder"));
        }
        found
    }

    fn add_compiler(&mut self, found: &str, rustc: impl Fn() -> Command) {
        match Toolchain::probe(found, rustc) {
            Ok(toolchain) if self.toolchains.iter().any(|known| known.sysroot == toolchain.sysroot) => {}
            Ok(toolchain) => self.toolchains.push(toolchain),
            Err(error) => {
                let reason = format!(": {error:#}");
                // The same compiler comes by several names.
                if !self.rejected.iter().any(|line| line.ends_with(&reason)) {
                    self.rejected.push(format!("{found}{reason}"));
                }
            }
        }
    }
}

impl Toolchain {
    /// Asks a compiler where it lives and checks that all that is needed is there.
    fn probe(found: &str, rustc: impl Fn() -> Command) -> Result<Self> {
        let answer = |args: &[&str]| -> Result<String> {
            let output = rustc().args(args).output().context("cannot be run")?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                bail!("{}", error.lines().next().unwrap_or("does not work"));
            }
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let text = answer(&["-vV"])?;
        let field =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|v| v.trim().to_owned());
        let sysroot = answer(&["--print", "sysroot"])?;
        let toolchain = Self {
            found: found.to_owned(),
            sysroot: fs::canonicalize(&sysroot).with_context(|| format!("has no sysroot at {sysroot}"))?,
            version: text.lines().next().unwrap_or_default().to_owned(),
            llvm: field("LLVM version:").context("names no LLVM version")?,
            host: field("host:").context("names no host")?,
        };
        if !toolchain.library_source().join("library/core/src/lib.rs").is_file() {
            bail!("{} has no library source (component rust-src)", toolchain.version);
        }
        for program in [toolchain.rustc(), toolchain.cargo()] {
            if !program.is_file() {
                bail!("{} has no {}", toolchain.version, program.display());
            }
        }
        Ok(toolchain)
    }

    /// The compiler itself, past rustup's proxy.
    pub fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// The cargo beside it.
    pub fn cargo(&self) -> PathBuf {
        self.sysroot.join("bin/cargo")
    }

    /// Folder of the compiler's own source, of which `library` is a part.
    pub fn library_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }

    /// A folder that holds this compiler's LLVM as a shared library and no other version's.
    ///
    /// A linker that loads its LLVM at run time takes the first that it meets. rustup's toolchains have one to
    /// themselves; a system's folder may have several, so the right one is linked into `scratch`. None if the
    /// compiler has LLVM built in.
    pub fn llvm_folder(&self, scratch: &Path) -> Result<Option<PathBuf>> {
        let own = self.sysroot.join("lib");
        if file_starting_with(&own, &["libLLVM"]).is_some() {
            return Ok(Some(own));
        }
        let major = self.llvm.split('.').next().unwrap_or(&self.llvm);
        let names = [format!("libLLVM.so.{major}"), format!("libLLVM-{major}")];
        let names = names.each_ref().map(String::as_str);
        let multiarch = self.host.replacen("-unknown-", "-", 1).replacen("-pc-", "-", 1);
        let folders = [own.join(multiarch), PathBuf::from(format!("/usr/lib/llvm-{major}/lib"))];
        let Some(library) = folders.iter().find_map(|folder| file_starting_with(folder, &names)) else {
            return Ok(None);
        };
        let folder = scratch.join(format!("llvm-{}", self.llvm));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let link = folder.join(library.file_name().unwrap_or(OsStr::new("libLLVM.so")));
        match std::os::unix::fs::symlink(&library, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot create {}", link.display()))
            }
            _ => Ok(Some(folder)),
        }
    }
}

/// First line that `linker --version` prints; it needs its LLVM at hand even for that.
pub fn linker_version(linker: &Path, llvm: Option<&Path>) -> Result<String> {
    let mut command = Command::new(linker);
    if let Some(llvm) = llvm {
        command.env("LD_LIBRARY_PATH", llvm);
    }
    let output = command.arg("--version").output().context("cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => bail!("does not start: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// A command without the settings by which an outer cargo or rustup steers its own children: none of them is
/// meant for a compiler of another version and for another target.
pub fn plain_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        if steers_cargo(&key) {
            command.env_remove(&key);
        }
    }
    command
}

/// Whether a variable changes what cargo or rustc build; where they find crates, and how many jobs they may
/// run, is to stay.
fn steers_cargo(key: &OsStr) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    const REMOVED: [&str; 9] = [
        "HOST",
        "LD_LIBRARY_PATH",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
        "DEBUG",
    ];
    let key = key.to_string_lossy();
    let cargo = key == "CARGO" || key.starts_with("CARGO_");
    let rustc = key.starts_with("RUSTC") || key.starts_with("RUSTDOC") || key == "RUSTFLAGS";
    REMOVED.contains(&&*key) || rustc || cargo && !KEPT.iter().any(|kept| key.starts_with(kept))
}

/// Cargo's folder for crates and installed programs.
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

/// All files called `name` in the folders of `PATH`, in order.
fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.into_iter().map(move |folder| folder.join(name)).filter(|file| file.is_file())
}

fn file_starting_with(folder: &Path, starts: &[&str]) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files.into_iter().find(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        starts.iter().any(|start| name.starts_with(start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_outer_build_do_not_reach_the_inner_one() {
        for key in
            ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTC_BOOTSTRAP", "CARGO"]
        {
            assert!(steers_cargo(OsStr::new(key)), "{key}");
        }
        for key in
            ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_PROFILE_RELEASE_LTO", "TARGET", "OUT_DIR"]
        {
            assert!(steers_cargo(OsStr::new(key)), "{key}");
        }
        for key in
            ["PATH", "HOME", "CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_MAKEFLAGS", "RUSTUP_HOME", "CARGOES"]
        {
            assert!(!steers_cargo(OsStr::new(key)), "{key}");
        }
    }

    #[test]
    fn a_compiler_without_library_source_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "if [ $1 = -vV ]; then echo 'rustc 1.95.0 (abc 2026-01-01)'; echo 'host: h'; echo 'LLVM version: 22.1.2'; \
             else echo {}; fi",
            dir.path().display()
        );
        let rustc = || {
            let mut rustc = Command::new("sh");
            rustc.args(["-c", &script, "rustc"]);
            rustc
        };
        let error = Toolchain::probe("here", rustc).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rustc 1.95.0 (abc 2026-01-01) has no library source (component rust-src)"
        );
    }

    #[test]
    fn the_llvm_of_the_compiler_is_picked_among_several() {
        let dir = tempfile::tempdir().unwrap();
        let system = dir.path().join("lib/x86_64-linux-gnu");
        fs::create_dir_all(&system).unwrap();
        for name in ["libLLVM-14.so.1", "libLLVM.so.22.1", "libLLVM.so.19.1"] {
            fs::write(system.join(name), name).unwrap();
        }
        let toolchain = Toolchain {
            found: String::new(),
            sysroot: dir.path().to_owned(),
            version: String::new(),
            llvm: "22.1.8".to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
        };
        for _ in 0..2 {
            let folder = toolchain.llvm_folder(&dir.path().join("scratch")).unwrap().unwrap();
            let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["libLLVM.so.22.1"]);
            assert_eq!(fs::read_to_string(folder.join(&names[0])).unwrap(), "libLLVM.so.22.1");
        }
    }
}
