//! Builds the object, with each usable pair of compiler and linker in turn.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install_advice;
use crate::strip::without_dwarf;
use crate::toolchain::{self, Discovery, Toolchain, plain_command};

/// The package, its program, and the object's file name.
const PACKAGE: &str = "ispin-ebpf";
/// The BPF target of little-endian machines.
pub const TARGET: &str = "bpfel-unknown-none";
/// Name of the cargo profile that [`PROFILE`] defines.
const PROFILE_NAME: &str = "bpf";
/// Every setting that shapes the code, so that neither a manifest nor a user's configuration decides it.
const PROFILE: [&str; 10] = [
    "inherits=\"release\"",
    "codegen-units=1",
    "debug=2",
    "debug-assertions=false",
    "incremental=false",
    "lto=\"off\"",
    "opt-level=3",
    "overflow-checks=false",
    "panic=\"abort\"",
    "strip=\"none\"",
];

/// Between the flags in the variable that carries them.
const SEPARATOR: &str = "\x1f";

/// An object built from source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The ELF file, without DWARF.
    pub bytes: Vec<u8>,
    /// Compiler and linker with their versions.
    pub built_by: String,
}

/// Why no object could be built.
#[derive(Debug)]
pub struct Failure {
    /// Whether there was at least one compiler, and whether at least one linker.
    pub compiler: bool,
    /// See [`Failure::compiler`].
    pub linker: bool,
    /// Whether some compiler got as far as the linker, and the linker failed.
    pub linking: bool,
    /// What was tried and looked at, each with the reason why it did not do.
    pub reasons: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the eBPF programs cannot be built from source:")?;
        for reason in &self.reasons {
            write!(f, "\n- {}", reason.replace('\n', "\n  "))?;
        }
        if !self.compiler || !self.linker || self.linking {
            write!(f, "\n{}", install_advice())?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What shapes the object besides its sources: a change makes a prebuilt object stale.
pub fn recipe() -> String {
    format!("{TARGET} {} {}", PROFILE.join(" "), flags("ARCH").join(" "))
}

/// Flags for rustc; `arch` is the architecture of the kernel that will run the programs.
fn flags(arch: &str) -> [String; 3] {
    // v3: 32-bit instructions, which kernels know since 5.1; memory-mapped arrays need 5.5.
    [format!("--cfg=bpf_target_arch=\"{arch}\""), "-Clink-arg=--btf".to_owned(), "-Ctarget-cpu=v3".to_owned()]
}

/// A folder for [`from_source`], given a path in cargo's target folder. It is one for all profiles and for
/// `cargo xtask`, and apart from what an outer cargo keeps locked.
pub fn scratch(path: &Path) -> PathBuf {
    // Cargo puts this file into each profile's folder.
    let profile = path.ancestors().find(|folder| folder.join(".cargo-lock").is_file());
    profile.and_then(Path::parent).unwrap_or(path).join("ebpf")
}

/// Where `cargo xtask` installs a linker when the one in cargo's own folder does not do.
pub fn tools(scratch: &Path) -> PathBuf {
    scratch.join("tools")
}

/// Builds the object for kernels of `arch` from the workspace at `root`.
///
/// Intermediate files go to `scratch`, which must not be the target folder of the cargo that waits for this
/// build: that one is locked.
pub fn from_source(root: &Path, scratch: &Path, arch: &str) -> Result<Object, Failure> {
    let found = Discovery::new(&tools(scratch));
    let mut failure = Failure {
        compiler: !found.toolchains.is_empty(),
        linker: !found.linkers.is_empty(),
        linking: false,
        reasons: found.rejected,
    };
    for toolchain in &found.toolchains {
        for linker in &found.linkers {
            match build(root, scratch, arch, toolchain, linker) {
                Ok(object) => return Ok(object),
                Err(error) => {
                    let linking = error.downcast_ref::<LinkingFailed>().is_some();
                    failure.linking |= linking;
                    let name =
                        format!("{} ({}) with {}", toolchain.found, toolchain.version, linker.display());
                    failure.reasons.push(format!("{name}: {error:#}"));
                    if !linking {
                        // Another linker cannot help a compiler that does not come so far.
                        break;
                    }
                }
            }
        }
    }
    Err(failure)
}

/// The compiler came as far as the linker; what both said.
#[derive(Debug)]
struct LinkingFailed(String);

impl fmt::Display for LinkingFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the linker failed (does it match the compiler's LLVM?):\n{}", self.0)
    }
}

impl std::error::Error for LinkingFailed {}

fn build(root: &Path, scratch: &Path, arch: &str, toolchain: &Toolchain, linker: &Path) -> Result<Object> {
    let llvm = toolchain.llvm_folder(scratch)?;
    let linker_version =
        toolchain::linker_version(linker, llvm.as_deref()).map_err(|e| LinkingFailed(format!("{e:#}")))?;
    let mut cargo = cargo(root, scratch, arch, toolchain, &["build", "--quiet", "--bins"])?;
    cargo.env(format!("CARGO_TARGET_{}_LINKER", TARGET.to_uppercase().replace('-', "_")), linker);
    let output = cargo.output().with_context(|| format!("cannot run {}", toolchain.cargo().display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if text.contains("error: linking with") {
            return Err(LinkingFailed(text).into());
        }
        bail!("{text}");
    }
    let file = scratch.join(TARGET).join(PROFILE_NAME).join(PACKAGE);
    let object = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let built_by = format!("{}, LLVM {}, {linker_version}", toolchain.version, toolchain.llvm);
    Ok(Object { bytes: without_dwarf(&object)?, built_by })
}

/// The toolchain's cargo with a subcommand and all that the eBPF programs need, to which the caller may add.
pub fn cargo(
    root: &Path,
    scratch: &Path,
    arch: &str,
    toolchain: &Toolchain,
    subcommand: &[&str],
) -> Result<Command> {
    let mut cargo = plain_command(toolchain.cargo());
    let mut path = OsString::from(toolchain.sysroot.join("bin"));
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    cargo.current_dir(root).env("PATH", path).env("RUSTC", toolchain.rustc()).env("RUSTC_BOOTSTRAP", "1");
    if let Some(llvm) = toolchain.llvm_folder(scratch)? {
        cargo.env("LD_LIBRARY_PATH", llvm);
    }
    let mut rustflags = OsString::from(flags(arch).join(SEPARATOR));
    for (from, to) in shortened_paths(root, scratch, toolchain) {
        rustflags.push(format!("{SEPARATOR}--remap-path-prefix="));
        rustflags.push(from);
        rustflags.push(format!("={to}"));
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags);
    cargo.args(subcommand);
    cargo.args(["--locked", "--package", PACKAGE, "--target", TARGET, "--profile", PROFILE_NAME]);
    cargo.args(["-Z", "build-std=core", "--target-dir"]).arg(scratch);
    for setting in PROFILE {
        cargo.arg("--config").arg(format!("profile.{PROFILE_NAME}.{setting}"));
    }
    Ok(cargo)
}

/// What rustc is to write instead of this machine's folders, so that every machine makes the same object.
/// Where several fit a path, the last one counts.
fn shortened_paths(root: &Path, scratch: &Path, toolchain: &Toolchain) -> Vec<(PathBuf, &'static str)> {
    let mut paths = Vec::new();
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.parent().is_some());
    paths.extend(home.map(|home| (home, "~")));
    if let Some(home) = toolchain::cargo_home() {
        let registries = fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
        let mut registries: Vec<PathBuf> = registries.map(|registry| registry.path()).collect();
        registries.sort();
        paths.push((home, "cargo"));
        paths.extend(registries.into_iter().map(|registry| (registry, "crates")));
    }
    paths.push((toolchain.sysroot.clone(), "toolchain"));
    let library = toolchain.library_source();
    paths.extend(fs::canonicalize(&library).map(|library| (library, "rust")));
    paths.push((library, "rust"));
    paths.push((scratch.to_owned(), "target"));
    paths.push((root.to_owned(), "ispin"));
    paths
}
