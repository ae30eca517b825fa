//! An image registry of a test's own, on loopback.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::berth::{Directory, unique};
use super::client::{Client, Running};
use super::docker::docker;

/// Debian's docker-registry. What was pushed, and what Docker has of it, is removed when dropped.
pub struct Registry {
    _process: Running,
    address: String,
    directory: Directory,
    name: String,
}

impl Registry {
    pub fn start() -> Self {
        Registry::with(false)
    }

    /// For a user `berth` with [`PASSWORD`].
    ///
    /// [`PASSWORD`]: super::PASSWORD
    pub fn with_password() -> Self {
        let registry = Registry::with(true);
        // As `docker login` writes it, which Podman's service refuses without TLS.
        let credentials = STANDARD.encode(format!("berth:{}", super::PASSWORD));
        let config = serde_json::json!({"auths": {&registry.address: {"auth": credentials}}});
        fs::write(registry.directory.path().join("config.json"), config.to_string()).unwrap();
        registry
    }

    /// Docker's client with the registry's password, if it has been told that.
    fn docker(&self) -> Client {
        Client::new("docker").arg("--config").arg(self.directory.path())
    }

    fn with(has_password: bool) -> Self {
        let name = unique();
        let directory = Directory::new(&name);
        let mut settings = serde_json::json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": directory.path().join("registry")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        if has_password {
            let users = directory.path().join("htpasswd");
            fs::write(&users, "berth:$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n").unwrap();
            settings["auth"] = serde_json::json!({"htpasswd": {"realm": "berth", "path": users}});
        }
        let path = directory.path().join("registry.yaml");
        fs::write(&path, settings.to_string()).unwrap();
        let process = Client::new("docker-registry").arg("serve").arg(path).spawn();
        let line = process.stderr.line("listening on ");
        let address = line.split("listening on ").nth(1).unwrap();
        let address = address.split([' ', '"']).next().unwrap().to_owned();
        Registry { _process: process, address, directory, name }
    }

    /// The name that Docker has to pull an image by.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The name of an image that was pushed, apart from any registry.
    pub fn local(&self, version: &str) -> String {
        format!("{}:{version}", self.name)
    }

    /// Pushes busybox with some megabytes beside it and this text in /version, and gives its name.
    pub fn push(&self, name: &str, version: &str) -> String {
        let image = self.image(name);
        let root = self.directory.path().join("root");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("version"), format!("{version}\n")).unwrap();
        let noise = r#"head -c 20000000 /dev/urandom >"$0/noise""#;
        Client::new("sh").args(["-c", noise]).arg(&root).run().succeeds();
        let container = docker(&["create", "berth-test/busybox", "true"]);
        let from = format!("{}/.", root.display());
        docker(&["cp", &from, &format!("{container}:/")]);
        let script = r#"docker export "$0" | docker import - "$1""#;
        Client::new("sh").args(["-c", script, &container, &self.local(version)]).run().succeeds();
        docker(&["rm", &container]);
        docker(&["tag", &self.local(version), &image]);
        self.docker().args(["push", &image]).run().succeeds();
        image
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let script =
            r#"for image; do docker images --quiet --filter "reference=$image"; done | xargs -r docker rmi --force"#;
        let (ours, theirs) = (self.local("*"), self.image("*"));
        Client::new("sh").args(["-c", script, "sh", &ours, &theirs]).run();
    }
}
