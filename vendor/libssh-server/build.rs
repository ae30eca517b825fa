//! Compiles the C files of `src` against the very source that libssh-rs-sys builds: they read private structures, so
//! headers, defines and version must be the same. That source is found in the registry (or a vendored copy of it)
//! through `cargo metadata`, which needs no network.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for file in ["src/shim.h", "src/shim.c", "src/key.c", "src/packet.c", "src/hybrid.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let vendored = libssh_source().join("vendored");
    let mut build = cc::Build::new();
    build.file("src/shim.c").file("src/key.c").file("src/hybrid.c").include(vendored.join("include"));
    // Both in place of libssh's own objects of these names, as the linker takes the first that has what it looks for. Our
    // packet.c stands for libssh's; server.c is libssh's, which knows no host certificates, but for the one call that is
    // redirected here. See shim.c.
    build.file("src/packet.c").file(vendored.join("src/server.c"));
    build.define("ssh_pki_export_privkey_to_pubkey", "berth_host_public_key").flag("-Wno-unused-parameter");
    // libssh-rs-sys generates config.h and libssh_version.h there.
    build.include(environment("DEP_LIBSSH_INCLUDE"));
    if let Some(openssl) = std::env::split_paths(&environment("DEP_OPENSSL_INCLUDE")).next() {
        build.include(openssl);
    }
    // What libssh-rs-sys's build script defines on Linux, as far as it reaches a structure's layout.
    for (name, value) in [
        ("LIBSSH_STATIC", None),
        ("_GNU_SOURCE", None),
        ("HAVE_LIBCRYPTO", Some("1")),
        ("HAVE_OPENSSL_AES_H", Some("1")),
        ("HAVE_OPENSSL_ECC", Some("1")),
        ("HAVE_OPENSSL_ECDH_H", Some("1")),
        ("HAVE_OPENSSL_ECDSA_H", Some("1")),
        ("HAVE_OPENSSL_EC_H", Some("1")),
        ("HAVE_OPENSSL_EVP_CHACHA20", Some("1")),
        ("HAVE_ECC", Some("1")),
        ("HAVE_DSA", Some("1")),
        ("HAVE_STDINT_H", Some("1")),
        ("HAVE_PTHREAD", Some("1")),
        ("HAVE_PTHREAD_H", Some("1")),
        ("HAVE_POLL", Some("1")),
        ("HAVE_SYS_TIME_H", Some("1")),
        ("HAVE_STRNDUP", Some("1")),
        ("HAVE_STRTOULL", Some("1")),
        ("HAVE_SNPRINTF", Some("1")),
        ("HAVE_VSNPRINTF", Some("1")),
        ("HAVE_GETADDRINFO", Some("1")),
        ("HAVE_COMPILER__FUNC__", Some("1")),
        ("HAVE_GCC_THREAD_LOCAL_STORAGE", Some("1")),
        ("WITH_ZLIB", Some("1")),
        ("WITH_GEX", Some("1")),
        ("WITH_SFTP", Some("1")),
        ("WITH_SERVER", Some("1")),
    ] {
        build.define(name, value);
    }
    build.compile("libssh_server_shim");
}

fn environment(name: &str) -> String {
    println!("cargo:rerun-if-env-changed={name}");
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: a dependency's build script changed"))
}

/// The directory of libssh-rs-sys's own source.
fn libssh_source() -> PathBuf {
    let output = Command::new(environment("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform"])
        .arg(environment("TARGET"))
        .current_dir(environment("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let package = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "libssh-rs-sys"))
        .expect("libssh-rs-sys is among the packages");
    let manifest = package["manifest_path"].as_str().expect("a package has a manifest path");
    Path::new(manifest).parent().expect("a manifest lies in a directory").to_owned()
}
