//! Builds the eBPF object from `../ispin-ebpf` and puts it into `$OUT_DIR/ispin-ebpf`.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let ebpf = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../ispin-ebpf");
    for dir in ["../ispin-ebpf/src", "../ispin-ebpf/Cargo.toml", "../ispin-common/src"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    println!("cargo::rerun-if-env-changed=PATH");
    let target = out.join("ebpf-target");
    let mut c = Command::new("rustup");
    for key in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTDOC"] {
        c.env_remove(key);
    }
    c.args(["run", "nightly", "cargo", "build", "--package", "ispin-ebpf", "--bins", "--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .current_dir(&ebpf)
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf");
    let o = c.output().expect("rustup");
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    std::fs::copy(target.join("bpfel-unknown-none/release/ispin-ebpf"), out.join("ispin-ebpf")).expect("object");
    let _ = Path::new("");
    println!("cargo::rustc-env=ISPIN_EBPF_ORIGIN=built with rustup nightly");
}
