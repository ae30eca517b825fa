//! Packs the relative relocations of the static executable: half a megabyte, for the linker and the loader know how.

use std::process::Command;

/// The first Rust whose musl relocates itself by `DT_RELR`: musl does since 1.2.4, and 1.93 brought 1.2.5.
const FIRST_MINOR_VERSION: u32 = 93;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let musl = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl");
    if musl && rustc_minor_version().is_some_and(|minor| minor >= FIRST_MINOR_VERSION) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The 93 of `rustc 1.93.0 (254b59607 2026-01-19)`.
fn rustc_minor_version() -> Option<u32> {
    let rustc = std::env::var_os("RUSTC")?;
    let output = Command::new(rustc).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.split('.').nth(1)?.parse().ok()
}
