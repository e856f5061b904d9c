//! Finds the tools that building and testing need, and installs what is missing, saying what and why.

use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ispin_ebpf_build::compile::{self, Failure, Object};
use ispin_ebpf_build::prebuilt;
use ispin_ebpf_build::toolchain::{DEBIAN_PACKAGES, Discovery, INSTALL_LINKER, Toolchain, plain_command};

use crate::process::{cargo, run, works};
use crate::workspace;

/// Something that a step of the tests needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// cargo fmt
    Rustfmt,
    /// cargo clippy
    Clippy,
    /// Compiler and linker for the eBPF programs
    Bpf,
    /// The lints of the compiler for the eBPF programs
    BpfClippy,
    /// cargo deny
    CargoDeny,
    /// What builds the guest's kernel and boots it
    Guest,
}

impl Tool {
    /// Installs the tool unless it is there.
    pub fn ensure(self) -> Result<()> {
        match self {
            Self::Rustfmt => component("rustfmt", "fmt", "formatting"),
            Self::Clippy => component("clippy", "clippy", "lints"),
            Self::Bpf => ensure_bpf_toolchain().map(drop),
            Self::BpfClippy => ensure_bpf_clippy().map(drop),
            Self::CargoDeny => ensure_cargo_deny(),
            Self::Guest => ensure_guest(),
        }
    }
}

/// Builds the eBPF object from source; installs compiler and linker where they are missing.
pub fn ensure_bpf_toolchain() -> Result<Object> {
    let root = workspace::root()?;
    let scratch = workspace::ebpf_scratch()?;
    let mut remedies = Remedies::default();
    loop {
        let failure = match compile::from_source(&root, &scratch, env::consts::ARCH) {
            Ok(object) => return Ok(object),
            Err(failure) => failure,
        };
        if !remedies.apply_next(&failure)? {
            bail!(failure);
        }
    }
}

/// Makes sure that the agent can be built, in the quickest way: nothing is installed while the prebuilt object is
/// current. Returns the value of `ISPIN_EBPF` for the build.
pub fn ensure_bpf_object() -> Result<&'static str> {
    if prebuilt::current(&workspace::root()?, env::consts::ARCH).is_ok() {
        return Ok("prebuilt");
    }
    eprintln!("the prebuilt eBPF object is stale, so it is built from source");
    ensure_bpf_toolchain().map(|_| "source")
}

/// What has been done to make the eBPF programs build, so that nothing is done twice.
#[derive(Default)]
struct Remedies {
    compilers_tried: usize,
    linker_installed: bool,
    own_linker_installed: bool,
}

impl Remedies {
    /// Does the next thing that may mend the failure; false if there is none left.
    fn apply_next(&mut self, failure: &Failure) -> Result<bool> {
        if !failure.compiler {
            return Ok(self.another_compiler());
        }
        if !failure.linker {
            if self.linker_installed {
                return Ok(false);
            }
            self.linker_installed = true;
            eprintln!(
                "bpf-linker is missing, the linker of the eBPF programs; installing it takes some minutes"
            );
            run(&mut cargo(&INSTALL_LINKER)?)?;
            return Ok(true);
        }
        if !failure.linking {
            return Ok(false);
        }
        if !self.own_linker_installed {
            self.own_linker_installed = true;
            eprintln!(
                "no bpf-linker here matches the compiler's LLVM; installing one for this workspace alone"
            );
            let tools = compile::tools(&workspace::ebpf_scratch()?);
            run(cargo(&INSTALL_LINKER)?.arg("--root").arg(tools))?;
            return Ok(true);
        }
        Ok(self.another_compiler())
    }

    /// Gets a compiler with library source by the next way that works; false if none does.
    fn another_compiler(&mut self) -> bool {
        const WAYS: [fn() -> Result<()>; 4] = [
            || {
                if !works(plain_command("rustup").args(["run", "nightly", "rustc", "-V"])) {
                    bail!("rustup has no nightly whose source could be added");
                }
                rustup(&["component", "add", "rust-src", "--toolchain", "nightly"])
            },
            || rustup(&["component", "add", "rust-src"]),
            || rustup(&["toolchain", "install", "nightly", "--profile=minimal", "--component=rust-src"]),
            || apt(&DEBIAN_PACKAGES),
        ];
        eprintln!("a compiler with its library source is missing, for the eBPF programs");
        while let Some(way) = WAYS.get(self.compilers_tried) {
            self.compilers_tried += 1;
            match way() {
                Ok(()) => return true,
                Err(error) => eprintln!("    {error:#}"),
            }
        }
        false
    }
}

/// A compiler for the eBPF programs that has its lints.
pub fn ensure_bpf_clippy() -> Result<Toolchain> {
    ensure_bpf_toolchain()?;
    let find = || -> Result<Option<Toolchain>> {
        let found = Discovery::new(&compile::tools(&workspace::ebpf_scratch()?));
        Ok(found.toolchains.into_iter().find(|t| t.sysroot.join("bin/cargo-clippy").is_file()))
    };
    if let Some(toolchain) = find()? {
        return Ok(toolchain);
    }
    eprintln!("clippy is missing for the compiler of the eBPF programs");
    let ways: [fn() -> Result<()>; 2] =
        [|| rustup(&["component", "add", "clippy", "--toolchain", "nightly"]), || apt(&["rust-web-clippy"])];
    for way in ways {
        match way() {
            Ok(()) => {
                if let Some(toolchain) = find()? {
                    return Ok(toolchain);
                }
            }
            Err(error) => eprintln!("    {error:#}"),
        }
    }
    bail!("no compiler for the eBPF programs has clippy; install it as docs/development.md tells")
}

fn ensure_cargo_deny() -> Result<()> {
    const INSTALL: [&str; 5] = ["install", "cargo-deny", "--version", "0.20.2", "--locked"];
    if works(cargo(&["deny"])?.arg("--version")) {
        return Ok(());
    }
    eprintln!(
        "cargo-deny is missing, which checks licences, bans and sources; installing it takes some minutes"
    );
    run(&mut cargo(&INSTALL)?)
}

/// Files that booting a guest, running the loads in it and checking the model of a lock need, and their packages.
const GUEST_PACKAGES: [(&str, &str); 5] = [
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/tcc", "tcc"),
    ("/usr/bin/pbzip2", "pbzip2"),
    ("/usr/bin/spin", "spin"),
];

/// Compiler and source of the guest's kernel, emulator, and the programs of the loads.
fn ensure_guest() -> Result<()> {
    let missing = GUEST_PACKAGES.iter().filter(|(file, _)| !Path::new(file).is_file());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        eprintln!("missing, for running guests: {}", missing.join(", "));
        apt(&missing)?;
    }
    // The script knows what it needs itself.
    run(Command::new(workspace::root()?.join("guest-patch/build")).arg("--tools"))
}

/// A component of the toolchain that runs this.
fn component(name: &str, subcommand: &str, purpose: &str) -> Result<()> {
    let there = || -> Result<bool> { Ok(works(cargo(&[subcommand])?.arg("--version"))) };
    if there()? {
        return Ok(());
    }
    eprintln!("{name} is missing, for {purpose}");
    rustup(&["component", "add", name]).or_else(|error| {
        eprintln!("    {error:#}");
        let package = if name == "clippy" { "rust-web-clippy" } else { "rustfmt-web" };
        apt(&[package])
    })?;
    if !there()? {
        bail!("`cargo {subcommand}` still does not work");
    }
    Ok(())
}

fn rustup(arguments: &[&str]) -> Result<()> {
    // Components are added to the toolchain that runs this, which rustup names in a variable.
    let mut rustup = plain_command("rustup");
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        rustup.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    run(rustup.args(arguments))
}

/// Installs Debian packages, by sudo unless this runs as root.
fn apt(packages: &[&str]) -> Result<()> {
    if !works(Command::new("apt-get").arg("--version")) {
        bail!("this is no Debian system (there is no apt-get); install by hand: {}", packages.join(", "));
    }
    run(&mut as_root(&["apt-get", "update", "-qq"])?)?;
    let install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"];
    run(as_root(&install)?.args(packages)).context("the packages cannot be installed")
}

fn as_root(command: &[&str]) -> Result<Command> {
    let root = is_root();
    if !root && !works(Command::new("sudo").arg("--version")) {
        bail!("run this as root: {}", command.join(" "));
    }
    let mut full = Command::new(if root { "env" } else { "sudo" });
    full.arg("DEBIAN_FRONTEND=noninteractive").args(command);
    Ok(full)
}

/// Whether this runs as root.
pub fn is_root() -> bool {
    // The kernel gives a process's own entry to its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
