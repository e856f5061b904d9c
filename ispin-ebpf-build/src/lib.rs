//! Builds the eBPF object of ispin, and tells whether the prebuilt one is still current.
//!
//! Shared by the build script of `ispin-agent`, which embeds an object, and by `cargo xtask bpf`,
//! which keeps the prebuilt one up to date:
//!
//! - [`toolchain`]: which compilers and linkers this machine has for it;
//! - [`compile`]: the build itself, with each usable pair of compiler and linker in turn;
//! - [`strip`]: takes the DWARF out of the object, BTF stays;
//! - [`sources`]: what an object was built from, as hashes;
//! - [`prebuilt`]: the object in `ispin-agent/prebuilt` and the record beside it.

pub mod compile;
pub mod prebuilt;
pub mod sources;
pub mod strip;
pub mod toolchain;

/// Environment variable that chooses the object to embed: `source`, `prebuilt`, or `auto` (the default).
pub const MODE_VARIABLE: &str = "ISPIN_EBPF";

/// Which object to embed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Build from source if this machine can; else take the prebuilt object if it is current.
    Auto,
    /// Build from source or fail.
    Source,
    /// Take the prebuilt object if it is current, or fail.
    Prebuilt,
}

impl Mode {
    /// Reads [`MODE_VARIABLE`]; unset or empty means [`Mode::Auto`].
    pub fn from_env() -> anyhow::Result<Self> {
        match std::env::var(MODE_VARIABLE).unwrap_or_default().as_str() {
            "" | "auto" => Ok(Self::Auto),
            "source" => Ok(Self::Source),
            "prebuilt" => Ok(Self::Prebuilt),
            other => anyhow::bail!("{MODE_VARIABLE}={other}: it must be `source`, `prebuilt` or `auto`"),
        }
    }
}

/// What to type on a machine that cannot build eBPF programs yet, one line each.
pub fn install_advice() -> String {
    let packages = toolchain::DEBIAN_PACKAGES.join(" ");
    let linker = toolchain::INSTALL_LINKER.join(" ");
    format!(
        "To build the eBPF programs, install the library source of your compiler, by rustup:\n\
         \x20   rustup component add rust-src\n\
         or another compiler with its source, from Debian's packages:\n\
         \x20   apt-get install --no-install-recommends {packages}\n\
         and the linker:\n\
         \x20   cargo {linker}\n\
         `cargo xtask bpf` installs what is missing."
    )
}
