//! How berth is built: what is installed for it, and from what.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A directory of programs that is removed in the end.
struct Programs(PathBuf);

impl Programs {
    /// The machine's own of these names.
    fn new(name: &str, links: &[&str]) -> Self {
        let directory = std::env::temp_dir().join(format!("berth-building-{}-{name}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        for link in links {
            let path = ["/usr/bin", "/bin"].map(|place| PathBuf::from(place).join(link));
            symlink(path.iter().find(|path| path.exists()).unwrap(), directory.join(link)).unwrap();
        }
        Programs(directory)
    }

    fn script(self, name: &str, text: &str) -> Self {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What `scripts/setup` would install for this part where the release has these packages, of those that it asks for by name.
fn missing_packages(part: &str, release: &str, has: &[&str]) -> Vec<String> {
    let madison =
        has.iter().map(|package| format!("[ \"$*\" != 'madison {package}' ] || echo '{package} | 1.0 | Debian'\n"));
    // None of what is looked for is among them; whatever else is missing here is listed, too.
    let tools = ["bash", "dirname", "realpath", "sort", "uname", "mkdir", "ln", "cat", "chmod"];
    let programs = Programs::new(release, &tools).script("apt-cache", &madison.collect::<String>());
    let mut setup = Command::new("scripts/setup");
    setup.args(["--dry-run", part]).env("PATH", &programs.0).env("CARGO_TARGET_DIR", programs.0.join("target"));
    let output = setup.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn setup_takes_the_docker_command_from_the_package_that_has_it() {
    let packages = |release: &str, has: &[&str]| missing_packages("docker", release, has);
    let debian_12 = packages("docker-12", &[]);
    assert!(
        debian_12.contains(&"docker.io".to_owned()) && !debian_12.contains(&"docker-cli".to_owned()),
        "{debian_12:?}"
    );
    let debian_13 = packages("docker-13", &["docker-cli"]);
    assert!(debian_13.contains(&"docker-cli".to_owned()), "{debian_13:?}");
}

#[test]
fn setup_takes_rust_by_the_names_that_the_release_has() {
    let wanted =
        [("rustc-web", "rustc"), ("cargo-web", "cargo"), ("rust-web-src", "rust-src"), ("rustfmt-web", "rustfmt")];
    let stable = missing_packages("build", "rust-13", &["rustc", "rustc-web"]);
    let sid = missing_packages("build", "rust-sid", &["rustc"]);
    // What is installed by now is not listed.
    assert!(sid.iter().all(|package| !package.contains("-web")), "{sid:?}");
    for (at_stable, at_sid) in wanted {
        assert_eq!(stable.contains(&at_stable.to_owned()), sid.contains(&at_sid.to_owned()), "{stable:?} {sid:?}");
    }
    assert!(Path::new("/usr/bin/rustc").exists() || sid.contains(&"rustc".to_owned()), "{sid:?}");
}

/// What cargo knows of each package that this machine's berth is built from.
fn packages() -> Vec<Value> {
    let platform = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    let metadata = ["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform", &platform];
    let output = cargo.args(metadata).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let Value::Array(packages) = serde_json::from_slice::<Value>(&output.stdout).unwrap()["packages"].take() else {
        panic!("cargo metadata gives no packages");
    };
    packages
}

#[test]
fn the_page_of_advisories_is_about_the_versions_inside() {
    let page = fs::read_to_string("docs/advisories.md").unwrap();
    let packages = packages();
    // Each with what comes before its version in a file of its own.
    for (library, name, file, before) in [
        ("OpenSSL", "openssl-src", "openssl/VERSION.dat", &["MAJOR=", "MINOR=", "PATCH="][..]),
        ("libssh", "libssh-rs-sys", "vendored/CMakeLists.txt", &["project(libssh VERSION "]),
        ("zlib", "libz-sys", "src/zlib/zlib.h", &["#define ZLIB_VERSION \""]),
    ] {
        let package = packages.iter().find(|package| package["name"] == name).unwrap();
        let manifest = package["manifest_path"].as_str().unwrap();
        let text = fs::read_to_string(PathBuf::from(manifest).with_file_name(file)).unwrap();
        let numbers = before.iter().map(|before| {
            let (_, rest) = text.split_once(before).unwrap();
            rest.split(['\n', ' ', '"']).next().unwrap()
        });
        let version = numbers.collect::<Vec<_>>().join(".");
        let row = format!("| {library} | {version} | {name} {} |", package["version"].as_str().unwrap());
        assert!(page.contains(&row), "docs/advisories.md is about another version, it has no row\n{row}");
    }
}
