//! Podman, by the socket on which it speaks Docker's API.

use std::fs;
use std::path::PathBuf;

use super::berth::{Directory, unique};
use super::client::{Client, Running};
use super::process::{DEADLINE, eventually};

/// Whoever has no rights that others have not.
const NOBODY: [&str; 3] = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"];

/// Podman's service, with storage of its own, in which there is busybox. Gone with its containers when dropped.
pub struct Podman {
    directory: Directory,
    is_rootless: bool,
    _service: Option<Running>,
}

impl Podman {
    /// As root, or without, by the means of user namespaces.
    pub fn start(is_rootless: bool) -> Self {
        let directory = Directory::new(&unique());
        let (at, write) = (directory.path().display(), |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).unwrap();
        });
        // What suits any machine, whatever its limits and control groups are.
        let containers = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
            [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n";
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/storage\"\nrunroot = \"{at}/state\"\n\
             rootless_storage_path = \"{at}/storage\"\n[storage.options.vfs]\nignore_chown_errors = \"true\"\n"
        );
        write("containers.conf", containers);
        write("storage.conf", &storage);
        let image = directory.path().join("image.tar");
        Client::new("docker").args(["save", "berth-test/busybox", "-o"]).arg(&image).run().succeeds();
        if is_rootless && rustix::process::getuid().is_root() {
            Client::new("chown").args(["-R", "nobody:nogroup"]).arg(directory.path()).run().succeeds();
        }
        let mut podman = Podman { directory, is_rootless, _service: None };
        podman.client().args(["load", "--input"]).arg(&image).run().succeeds();
        let address = format!("unix://{}", podman.socket().display());
        podman._service = Some(podman.client().args(["system", "service", "--time=0", &address]).spawn());
        eventually("Podman's socket", DEADLINE, || podman.socket().exists());
        podman
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    /// Podman's own client; its arguments are still to come.
    pub fn client(&self) -> Client {
        let path = |name: &str| self.directory.path().join(name);
        let client = match self.is_rootless && rustix::process::getuid().is_root() {
            // The test's directory may be nothing for others.
            true => Client::new("setpriv").args(NOBODY).args(["env", "--chdir", "/", "podman"]),
            false => Client::new("podman"),
        };
        client
            .env("HOME", self.directory.path())
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .env("CONTAINERS_CONF", path("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", path("storage.conf"))
    }

    /// The names of all its containers.
    pub fn containers(&self) -> String {
        self.client().args(["ps", "--all", "--format", "{{.Names}}"]).run().succeeds().text()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A test that has failed may have left some.
        self.client().args(["rm", "--force", "--all", "--time", "0"]).run();
        // The process that holds the user namespace ends, too.
        self.client().args(["system", "migrate"]).run();
    }
}
