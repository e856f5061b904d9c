//! Where the sources are: the lab builds the guest's kernel and programs from them.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The checkout that this program belongs to.
pub fn root() -> Result<PathBuf> {
    // cargo names the package that it runs; what was known at build time serves a program started by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = package.iter().map(PathBuf::as_path).chain([built_in]);
    for root in packages.filter_map(Path::parent) {
        if root.join("guest-patch/build").is_file() && root.join("Cargo.toml").is_file() {
            return Ok(root.to_owned());
        }
    }
    bail!(
        "the sources of ispin, from which the guest's kernel and programs are built, are not at {}; run this from a \
         checkout, with `cargo run -p ispin-lab -- vm`",
        built_in.parent().unwrap_or(built_in).display()
    )
}
