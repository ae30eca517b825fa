//! A running `berth serve` of a test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::{Client, Ran, Running};
use super::cluster;
use super::docker::{containers, daemon_socket, kill, remove_containers, remove_signs};
use super::key::key;
use super::pod;
use super::process::{DEADLINE, Transcript, eventually};
use super::relay::{self, Relay, Way};

/// The users' password.
pub const PASSWORD: &str = "correct horse";

/// Its hash, with as few rounds as crypt(5) allows.
const PASSWORD_HASH: &str =
    "$6$rounds=1000$berthtest$JAGe/Ep9ETzZe8L9ln2XyjSeOQRR0Hw7e3CmhqpNIicX25HajV1EFNc19rNNDuQDc4ngCMA0ZwrjK91gCKbVE0";

/// A directory of a test's own with a short path, for sockets are in it. Removed when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name that nothing else on this machine has.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("berth-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// How many bytes are much: a gibibyte, or what takes as long through an API server that shares two processors with its
/// clients.
pub fn much() -> u64 {
    if Way::of_this_run() == Way::Kubernetes { 1 << 27 } else { 1 << 30 }
}

/// Lets containers reach this machine, and the server on it, at [`this_machine`].
pub fn on_this_machines_network(config: &mut Value) {
    match Way::of_this_run() {
        Way::Kubernetes => config["ssh"]["listen"] = "0.0.0.0:0".into(),
        _ => config["docker"]["execution"]["host"]["networkMode"] = "host".into(),
    }
}

/// See [`on_this_machines_network`].
pub fn this_machine() -> String {
    match Way::of_this_run() {
        Way::Kubernetes => cluster::host(),
        _ => "127.0.0.1".to_owned(),
    }
}

/// The directory of the server that will have this configuration.
pub fn directory_of(config: &Value) -> PathBuf {
    std::env::temp_dir().join(config["instance"].as_str().unwrap())
}

/// Writes, for OpenSSH's clients, where the server is that they call `berth`, and what its host key is.
pub fn write_client_files(directory: &Path, port: u16, user: &str, host_key: &str) {
    let known_hosts = directory.join("known_hosts");
    fs::write(&known_hosts, format!("* {host_key}")).unwrap();
    let options = format!(
        "Host berth\n HostName 127.0.0.1\n Port {port}\n User {user}\n\
         Host *\n IdentityFile none\n IdentitiesOnly yes\n UserKnownHostsFile {}\n GlobalKnownHostsFile none\n \
         StrictHostKeyChecking yes\n BatchMode yes\n",
        known_hosts.display(),
    );
    fs::write(directory.join("ssh_config"), options).unwrap();
}

/// `berth serve` on a port of its own, with its own instance name and directory. In the end it is sent SIGTERM, and must
/// have left nothing.
pub struct Berth {
    process: Running,
    /// The first address that it listens on is 127.0.0.1 with this port.
    pub port: u16,
    pub instance: String,
    directory: Directory,
    serve: Serve,
    _relay: Option<Relay>,
    way: Way,
    was_killed: bool,
    _cluster: Option<cluster::Use>,
}

/// Gives the command that serves what `config.yaml` in this directory says.
pub type Serve = fn(&Path) -> Client;

fn serve(directory: &Path) -> Client {
    Client::new(env!("CARGO_BIN_EXE_berth")).arg("serve").arg("--config").arg(directory.join("config.yaml"))
}

impl Berth {
    /// Alice may come in with [`PASSWORD`] and with the ed25519 [`key`], and is root in busybox without a network.
    pub fn start() -> Self {
        Berth::with(|_| ())
    }

    /// As [`Berth::start`], with a changed configuration.
    pub fn with(change: impl FnOnce(&mut Value)) -> Self {
        Berth::by(serve, change)
    }

    /// As [`Berth::with`], started in another way.
    pub fn by(serve: Serve, change: impl FnOnce(&mut Value)) -> Self {
        Berth::new(Way::of_this_run(), serve, change)
    }

    /// As [`Berth::start`], by a user without rights but for the Docker socket.
    pub fn by_another_user() -> Self {
        Berth::by(
            |directory| {
                let binary = directory.join("berth");
                fs::copy(env!("CARGO_BIN_EXE_berth"), &binary).unwrap();
                let serve = [binary.as_os_str(), "serve".as_ref(), "--config".as_ref()];
                if !rustix::process::getuid().is_root() {
                    return Client::new("env").args(serve).arg(directory.join("config.yaml"));
                }
                let group = Client::new("stat").args(["-c", "%g", &daemon_socket()]).run().succeeds().text();
                Client::new("chown").args(["-R", "61234:61234"]).arg(directory).run().succeeds();
                let user = ["--reuid", "61234", "--regid", "61234", "--groups", group.trim()];
                Client::new("setpriv").args(user).args(serve).arg(directory.join("config.yaml"))
            },
            |_| (),
        )
    }

    /// As [`Berth::with`], with this way to the daemon.
    pub fn over(way: Way, change: impl FnOnce(&mut Value)) -> Self {
        Berth::new(way, serve, change)
    }

    fn new(way: Way, serve: Serve, change: impl FnOnce(&mut Value)) -> Self {
        let cluster = (way == Way::Kubernetes).then(cluster::Use::begin);
        let instance = unique();
        let directory = Directory::new(&instance);
        let mut config = json!({
            // All clients of a test's come from one address, and many are to fail.
            "ssh": {"listen": "127.0.0.1:0", "hostkeys": ["host_key"], "perSourcePenalties": "no"},
            "instance": instance,
            "runDirectory": "run",
            "log": {"level": "debug"},
            "auth": {"users": {"alice": {"password": PASSWORD_HASH, "authorizedKeys": [key("ed25519").public]}}},
            "backend": "docker",
            "docker": {
                "execution": {
                    "imagePullPolicy": "Never",
                    "container": {"image": "berth-test/busybox"},
                    "host": {"networkMode": "none"},
                },
            },
        });
        let (connection, relay) = relay::connect(way, directory.path());
        config["docker"]["connection"] = connection;
        if way == Way::Kubernetes {
            config["backend"] = "kubernetes".into();
            config["kubernetes"] = pod::settings();
            config["docker"] = json!({});
        }
        change(&mut config);
        if way == Way::Kubernetes {
            pod::translate(&mut config);
        }
        let instance = config["instance"].as_str().unwrap().to_owned();
        // All JSON is YAML.
        fs::write(directory.path().join("config.yaml"), format!("{config:#}")).unwrap();
        let process = serve(directory.path()).spawn();
        let mut berth = Berth {
            process,
            port: 0,
            instance,
            directory,
            serve,
            _relay: relay,
            way,
            was_killed: false,
            _cluster: cluster,
        };
        berth.learn();
        berth
    }

    /// Starts it again with the same configuration, after it has ended.
    pub fn restart(&mut self) {
        assert!(self.process.has_ended());
        self.was_killed = false;
        self.process = (self.serve)(self.directory.path()).spawn();
        self.learn();
    }

    /// Changes the configuration and has it read again, by SIGHUP. Gives what is logged of that.
    #[track_caller]
    pub fn reload(&self, change: impl FnOnce(&mut Value)) -> String {
        let file = self.path("config.yaml");
        let mut config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        fs::write(&file, format!("{config:#}")).unwrap();
        let start = self.log().text().len();
        self.hang_up();
        let end = self.log().find(start, "the new configuration").expect("it is read");
        self.log().text()[start..end].to_owned()
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Waits until it listens, and writes down for the clients where, and what its host key is.
    fn learn(&mut self) {
        let line = self.log().line("listening on");
        self.port = line.rsplit(':').next().unwrap().parse().unwrap();
        let host_key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        write_client_files(self.directory.path(), self.port, "alice", &host_key);
    }

    /// A file of the test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the server has logged.
    pub fn log(&self) -> &Transcript {
        &self.process.stderr
    }

    /// OpenSSH's client: `arguments` are options, then the host `berth`, then a command.
    pub fn ssh<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Client {
        self.openssh("ssh").args(arguments)
    }

    /// Runs a command without a terminal.
    pub fn exec(&self, command: &str) -> Client {
        self.ssh(["-T", "berth", command])
    }

    /// A program of OpenSSH's, which calls this server `berth` and has the ed25519 [`key`].
    pub fn openssh(&self, program: &str) -> Client {
        self.openssh_with_key(program, "ed25519")
    }

    /// A program of OpenSSH's with the [`key`] of this name.
    pub fn openssh_with_key(&self, program: &str, name: &str) -> Client {
        self.openssh_without_key(program).arg("-i").arg(key(name).path)
    }

    pub fn openssh_without_key(&self, program: &str) -> Client {
        Client::new(program).arg("-F").arg(self.path("ssh_config"))
    }

    /// A program of OpenSSH's with this password, offered `prompts` times.
    pub fn openssh_with_password(&self, program: &str, password: &str, prompts: u32) -> Client {
        let askpass = self.path("askpass");
        fs::write(&askpass, "#!/bin/sh\nprintf '%s\\n' \"$PASSWORD\"\n").unwrap();
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
        let prompts = format!("NumberOfPasswordPrompts={prompts}");
        let client = self.openssh_without_key(program).args(["-o", "BatchMode=no", "-o", &prompts]);
        client.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force").env("PASSWORD", password)
    }

    /// A program of PuTTY's, with the user's password; still to come are further options and a host.
    pub fn putty(&self, program: &str) -> Client {
        let fingerprint = Client::new("ssh-keygen").arg("-lf").arg(self.path("host_key.pub")).run().succeeds().text();
        let fingerprint = fingerprint.split(' ').nth(1).unwrap();
        let port = self.port.to_string();
        let options = ["-batch", "-P", &port, "-l", "alice", "-hostkey", fingerprint, "-pw", PASSWORD];
        Client::new(program).args(options).env("HOME", self.directory.path())
    }

    /// A connection that many sessions share.
    pub fn master(&self) -> Master {
        let path = self.path(&unique());
        let control = format!("ControlPath={}", path.display());
        let running = self.ssh(["-M", "-N", "-o", &control, "berth"]).within(Duration::from_secs(300)).spawn();
        eventually("the control socket", DEADLINE, || path.exists());
        Master { _running: running, control, options: self.path("ssh_config") }
    }

    /// The ids of this instance's containers, or the names of its pods.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        match self.way {
            Way::Kubernetes => cluster::pods(&self.instance),
            _ => containers(&self.instance),
        }
    }

    /// Kills a container of this instance.
    #[track_caller]
    pub fn kill_container(&self, container: &str) {
        match self.way {
            Way::Kubernetes => cluster::delete_pod(container),
            _ => kill(container),
        }
    }

    /// Waits until this instance has so many containers.
    #[track_caller]
    pub fn has_containers(&self, count: usize, within: Duration) {
        eventually(&format!("{count} containers"), within, || self.containers().len() == count);
    }

    /// Waits until so many of the connections that have come are left.
    #[track_caller]
    pub fn has_connections(&self, count: usize) {
        eventually(&format!("{count} connections"), DEADLINE, || {
            let log = self.log().text();
            let come = log.lines().filter(|line| line.ends_with(" connected") && !line.contains("agent")).count();
            come - log.lines().filter(|line| line.ends_with(": done")).count() == count
        });
    }

    /// The server's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the server by a signal.
    #[track_caller]
    pub fn end(&mut self, signal: Signal) -> Ran {
        self.was_killed = signal == Signal::KILL;
        self.process.signal(signal);
        self.process.end()
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the server's log:\n{}", self.log().text());
            self.process.signal(Signal::KILL);
            match self.way {
                Way::Kubernetes => {
                    cluster::remove_pods(&self.instance);
                    cluster::remove_lease(&self.instance);
                }
                _ => {
                    remove_containers(&self.instance);
                    remove_signs(&self.instance);
                }
            }
            return;
        }
        if !self.process.has_ended() {
            self.end(Signal::TERM).succeeds();
        }
        if self.was_killed {
            match self.way {
                Way::Kubernetes => cluster::remove_lease(&self.instance),
                _ => remove_signs(&self.instance),
            }
        }
        let log = self.log().text();
        assert!(!log.contains("panicked"), "a thread panicked:\n{log}");
        // Docker may still be about to remove what has ended, and a kubelet takes its time.
        self.has_containers(0, if self.way == Way::Kubernetes { DEADLINE } else { Duration::from_secs(10) });
    }
}

/// An `ssh -M`, whose connection other clients take.
pub struct Master {
    _running: Running,
    control: String,
    options: PathBuf,
}

impl Master {
    /// As [`Berth::exec`], in this connection.
    pub fn exec(&self, command: &str) -> Client {
        self.client("ssh").args(["-T", "berth", command])
    }

    /// A program of OpenSSH's in this connection.
    pub fn client(&self, program: &str) -> Client {
        // "no": so that it fails where the master is gone, and does not open a connection of its own.
        Client::new(program).arg("-F").arg(&self.options).args(["-o", "ControlMaster=no", "-o", &self.control])
    }
}
