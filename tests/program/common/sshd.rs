//! OpenSSH's server, for comparison.

use std::fs;

use super::berth::{Directory, unique};
use super::client::{Client, Running};
use super::key::key;
use super::port::free_port;

/// An sshd of a test's own, in which this machine's user of the test's process has an account. Ended when dropped.
pub struct Sshd {
    process: Running,
    pub port: u16,
    /// The account's name.
    pub user: String,
    directory: Directory,
}

impl Sshd {
    /// This machine's, with these further lines of configuration, and these options before the ed25519 [`key`].
    pub fn start(settings: &str, key_options: &str) -> Self {
        Sshd::of("/usr/sbin/sshd", settings, key_options)
    }

    /// Another program.
    pub fn of(program: &str, settings: &str, key_options: &str) -> Self {
        let directory = Directory::new(&unique());
        let path = |name: &str| directory.path().join(name);
        let host_key = path("host_key");
        let keygen = Client::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&host_key);
        keygen.run().succeeds();
        fs::write(path("authorized_keys"), format!("{key_options} {}\n", key("ed25519").public)).unwrap();
        // sshd wants this to be there, where the distribution has it made at boot.
        let _ = fs::create_dir_all("/run/sshd");
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPidFile none\nPrintMotd no\nPrintLastLog no\nAcceptEnv LANG LC_*\n\
             Subsystem sftp internal-sftp\n{settings}\n",
            host_key.display(),
            path("authorized_keys").display(),
        );
        fs::write(path("sshd_config"), config).unwrap();
        let process = Client::new(program).args(["-D", "-e", "-f"]).arg(path("sshd_config"));
        let process = process.within(super::process::LONG).spawn();
        process.stderr.line("Server listening on");
        let host_key = fs::read_to_string(path("host_key.pub")).unwrap();
        let user = Client::new("id").arg("-un").run().succeeds().text();
        super::berth::write_client_files(directory.path(), port, user.trim(), &host_key);
        Sshd { process, port, user: user.trim().to_owned(), directory }
    }

    /// As [`Berth::openssh`](super::Berth::openssh): this server is called `berth`, too.
    pub fn openssh(&self, program: &str) -> Client {
        let config = self.directory.path().join("ssh_config");
        Client::new(program).arg("-F").arg(config).arg("-i").arg(key("ed25519").path)
    }

    /// Kills it, and the connection that it has: since OpenSSH 9.8 that is a tree of processes.
    pub fn kill(&mut self) {
        let script =
            r#"tree() { echo "$1"; for child in $(pgrep -P "$1"); do tree "$child"; done; }; kill -KILL $(tree "$0")"#;
        Client::new("sh").args(["-c", script, &self.process.id().to_string()]).run();
    }

    /// A file of the test's.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}
