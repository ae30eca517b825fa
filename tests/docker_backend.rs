//! The Docker backend against the daemon on this host. No registry is used: the image is imported, and is empty but for
//! its configuration. Needs access to the daemon's socket and the musl target of rustc.

#[path = "docker_backend/engine.rs"]
mod engine;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use berth::backend::docker::Docker;
use berth::backend::{Backend, Container, Error, InUse, Request, Stream, Waiter};
use berth::config::{self, DockerConnection, ExecutionMode, ImagePullPolicy};
use berth::http::{self, Address, Body, Client, Deadline};
use serde_json::{Value, json};

const SOCKET: &str = "/var/run/docker.sock";
const IMAGE: &str = "127.0.0.1:1/berth-test-docker-backend:latest";

/// A unique number for this test run.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{:08x}{:08x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Calls the daemon: status and JSON.
fn call(method: &str, path: &str, body: Body<'_>) -> (u16, Value) {
    let client = Client::new(Address::Unix(SOCKET.into()));
    let request = http::Request { method, target: path, fields: &[("Content-Type", "application/json")], body };
    let mut response = client.send(request, soon()).expect("these tests need a Docker daemon");
    let bytes = response.bytes(1 << 20, soon()).unwrap();
    (response.status(), serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The ids of all containers with a label.
fn containers(label: &str) -> Vec<String> {
    let list = call("GET", &format!("/containers/json?all=true&filters={{\"label\":[\"{label}\"]}}"), Body::Empty).1;
    list.as_array().unwrap().iter().map(|c| c["Id"].as_str().unwrap().to_owned()).collect()
}

/// The image, imported once.
fn image() -> &'static str {
    static IMPORT: OnceLock<()> = OnceLock::new();
    IMPORT.get_or_init(|| {
        if call("GET", &format!("/images/{IMAGE}/json"), Body::Empty).0 == 200 {
            return;
        }
        let empty_tar = [0; 1024];
        let path = format!("/images/create?fromSrc=-&repo={IMAGE}&changes=CMD%20%5B%22image%22%2C%22command%22%5D");
        let (status, answer) = call("POST", &path, Body::Stream(&mut empty_tar.as_slice(), None));
        assert_eq!(status, 200, "{answer}");
    });
    IMAGE
}

/// The stand-in for the agent, compiled once. Another `variant` has another content, so another volume.
fn agent(name: &str, variant: &str) -> PathBuf {
    static COMPILED: OnceLock<Vec<u8>> = OnceLock::new();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let binary = COMPILED.get_or_init(|| {
        let out = directory.join("fake-agent");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker_backend/agent.rs");
        let target = format!("--target={}-unknown-linux-musl", std::env::consts::ARCH);
        let status = Command::new("rustc").args(["-O", "-o"]).arg(&out).arg(target).arg(source).status().unwrap();
        assert!(status.success());
        std::fs::read(out).unwrap()
    });
    let path = directory.join(format!("fake-agent-{name}"));
    std::fs::write(&path, [binary, variant.as_bytes()].concat()).unwrap();
    path
}

/// A backend with its own instance name and directories. Removes what is left of it when dropped.
struct Berth {
    docker: Docker,
    instance: String,
    directory: PathBuf,
    agent: PathBuf,
}

impl Berth {
    fn new(change: impl FnOnce(&mut config::Docker)) -> Berth {
        // One volume for most tests.
        static AGENT: OnceLock<PathBuf> = OnceLock::new();
        Berth::with_agent(AGENT.get_or_init(|| agent("shared", "")).clone(), change)
    }

    fn with_agent(agent: PathBuf, change: impl FnOnce(&mut config::Docker)) -> Berth {
        let mut settings = settings();
        change(&mut settings);
        let instance = format!("test-{}", unique());
        let directory = std::env::temp_dir().join(format!("berth-{instance}"));
        let docker =
            Docker::new(settings, instance.clone(), directory.clone(), InUse::default(), agent.clone()).unwrap();
        Berth { docker, instance, directory, agent }
    }

    fn start(&self) -> Result<Container, Error> {
        self.docker.start(&request(), &User::default())
    }

    fn containers(&self) -> Vec<String> {
        containers(&format!("berth.instance={}", self.instance))
    }

    /// Waits until nothing is left; a container that ended by itself may still be on its way out.
    fn assert_clean(&self) {
        let deadline = soon();
        while !self.containers().is_empty() {
            assert!(!deadline.has_passed(), "a container stays");
            std::thread::yield_now();
        }
        assert_eq!(self.socket_directories(), 0);
    }

    fn socket_directories(&self) -> usize {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count()
    }

    /// The same instance after a restart.
    fn restarted(&self) -> Docker {
        let (instance, directory) = (self.instance.clone(), self.directory.clone());
        Docker::new(settings(), instance, directory, InUse::default(), self.agent.clone()).unwrap()
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        for id in self.containers() {
            call("DELETE", &format!("/containers/{id}?force=true&v=true"), Body::Empty);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn settings() -> config::Docker {
    let map = |value: Value| value.as_object().unwrap().clone();
    config::Docker {
        connection: DockerConnection::unix(SOCKET.as_ref()),
        mode: ExecutionMode::Connection,
        image_pull_policy: ImagePullPolicy::Never,
        container: map(json!({ "Image": image() })),
        host_config: map(json!({ "NetworkMode": "none" })),
        networking_config: map(json!({})),
        platform: None,
        disable_agent: false,
        idle_command: Vec::new(),
        shell_command: Vec::new(),
        registry_auth: None,
        expose_metadata: false,
        subsystems: Default::default(),
        sidecars: Vec::new(),
        persistent: Default::default(),
        container_start: Duration::from_secs(60),
        container_stop: Duration::from_secs(30),
        http: Duration::from_secs(60),
    }
}

fn request() -> Request {
    let connection = format!("{:0>32}", unique());
    Request {
        connection,
        number: 0,
        user: "alice\"\n\u{1f600}".into(),
        client: "192.0.2.1:5000".parse().unwrap(),
        container: None,
        metadata: Arc::default(),
    }
}

#[derive(Default)]
struct User {
    gone: AtomicBool,
    lines: Mutex<Vec<String>>,
}

impl Waiter for User {
    fn progress(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }

    fn announce(&self, line: &str) {
        self.progress(line);
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// Reads until a line end.
fn line(stream: &mut dyn Stream) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        match stream.read(&mut byte) {
            Ok(0) => panic!("the stream ended after {line:?}"),
            Ok(_) if byte == *b"\n" => return String::from_utf8(line).unwrap(),
            Ok(_) => line.extend_from_slice(&byte),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                assert_eq!(soon().poll([(stream.as_fd(), rustix::event::PollFlags::IN)]).unwrap(), [true]);
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// The error, and the end of what there was of the container.
fn error(result: Result<Container, Error>) -> Error {
    match result {
        Ok(_) => panic!("it started"),
        Err(Error { user, log, rest }) => {
            drop(rest);
            Error::new(user, log)
        }
    }
}

#[test]
fn start_gives_the_agents_stream_and_dropping_the_lease_removes_the_container() {
    let berth = Berth::new(|_| {});
    let mut container = berth.start().unwrap();
    assert_eq!(line(&mut *container.stream), "image command");
    container.stream.write_all(b"hello\n").unwrap();
    assert_eq!(line(&mut *container.stream), "hello");
    assert_eq!(berth.containers().len(), 1);
    assert_eq!(berth.socket_directories(), 0, "the socket is unlinked once the agent has connected");
    drop(container);
    berth.assert_clean();
}

#[test]
fn the_container_carries_labels_and_the_configured_host_settings() {
    let berth = Berth::new(|settings| {
        settings.container.insert("User".into(), "1000:1000".into());
        settings.container.insert("Cmd".into(), json!(["configured"]));
        settings.host_config.insert("CapDrop".into(), json!(["ALL"]));
        settings.host_config.insert("ReadonlyRootfs".into(), true.into());
    });
    let request = request();
    let mut container = berth.docker.start(&request, &User::default()).unwrap();
    assert_eq!(line(&mut *container.stream), "configured", "a user without capabilities reaches the socket");
    let inspected = call("GET", &format!("/containers/{}/json", berth.containers()[0]), Body::Empty).1;
    assert_eq!(inspected["Config"]["Labels"]["berth.user"], request.user.as_str());
    assert_eq!(inspected["Config"]["Labels"]["berth.connection"], request.connection.as_str());
    assert_eq!(inspected["HostConfig"]["AutoRemove"], true);
    assert_eq!(inspected["HostConfig"]["LogConfig"]["Type"], "none");
    let writable = inspected["Mounts"].as_array().unwrap().iter().filter(|mount| mount["RW"] == true).count();
    assert_eq!(writable, 0);
}

#[test]
fn an_image_that_is_missing_is_named_and_nothing_stays() {
    let berth = Berth::new(|settings| drop(settings.container.insert("Image".into(), "berth-test-none:3.99".into())));
    let error = error(berth.start());
    assert_eq!(error.user, "image berth-test-none:3.99 not found");
    assert!(error.log.contains("set imagePullPolicy"), "{}", error.log);
    berth.assert_clean();
}

#[test]
fn an_image_that_cannot_be_pulled_is_an_error_and_the_user_sees_the_attempt() {
    // A registry on a port of this host where nothing listens.
    let image = "127.0.0.1:1/berth-test:1";
    let berth = Berth::new(|settings| {
        settings.container.insert("Image".into(), image.into());
        settings.image_pull_policy = ImagePullPolicy::IfNotPresent;
    });
    let user = User::default();
    let error = error(berth.docker.start(&request(), &user));
    assert_eq!(error.user, format!("image {image} cannot be pulled"));
    assert!(error.log.contains("refused"), "{}", error.log);
    assert_eq!(*user.lines.lock().unwrap(), [format!("Pulling {image}")]);
}

#[test]
fn an_image_for_another_platform_is_pulled_for_the_one_that_is_asked_for() {
    let berth = Berth::new(|settings| {
        settings.image_pull_policy = ImagePullPolicy::IfNotPresent;
        settings.platform = Some("linux/s390x".into());
    });
    let user = User::default();
    // No registry has it, so the attempt is all there is to see.
    assert!(berth.docker.start(&request(), &user).is_err());
    assert_eq!(*user.lines.lock().unwrap(), [format!("Pulling {}", image())]);
    berth.assert_clean();
}

#[test]
fn a_daemon_that_is_down_is_told_at_once_and_only_the_log_names_the_socket() {
    let berth =
        Berth::new(|settings| settings.connection = DockerConnection::unix("/nonexistent/docker.sock".as_ref()));
    let begin = Instant::now();
    let error = error(berth.start());
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(error.user, "the container service is unavailable");
    assert!(error.log.contains("/nonexistent/docker.sock") && error.log.contains("os error 2"), "{}", error.log);
    assert!(berth.docker.check().is_err());
}

#[test]
fn a_container_that_exits_at_once_is_told_without_waiting_for_the_timeout() {
    let berth = Berth::new(|settings| drop(settings.container.insert("Cmd".into(), json!(["exit"]))));
    let begin = Instant::now();
    let error = error(berth.start());
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_eq!(error.user, "the container ended before it was ready");
    berth.assert_clean();
}

#[test]
fn an_agent_that_does_not_connect_is_given_up_after_the_timeout() {
    let berth = Berth::new(|settings| {
        settings.container.insert("Cmd".into(), json!(["hang"]));
        settings.container_start = Duration::from_secs(5);
    });
    let error = error(berth.start());
    assert_eq!(error.user, "the container was not ready in time");
    assert!(error.log.contains("5 s"), "{}", error.log);
    berth.assert_clean();
}

#[test]
fn a_start_that_the_daemon_refuses_gives_its_reason_and_leaves_nothing() {
    let berth = Berth::new(|settings| drop(settings.container.insert("User".into(), "nobody-here".into())));
    let error = error(berth.start());
    assert_eq!(error.user, "the container cannot be started");
    assert!(error.log.contains("nobody-here"), "{}", error.log);
    berth.assert_clean();
}

#[test]
fn a_user_who_has_gone_leaves_nothing_behind() {
    let berth = Berth::new(|settings| drop(settings.container.insert("Cmd".into(), json!(["hang"]))));
    let user = User::default();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| error(berth.docker.start(&request(), &user)));
        while berth.containers().is_empty() {
            std::thread::yield_now();
        }
        user.gone.store(true, Ordering::Relaxed);
        assert!(start.join().unwrap().log.contains("went away"));
    });
    berth.assert_clean();
}

#[test]
fn reaping_removes_what_a_killed_process_of_the_same_instance_left() {
    let (killed, other) = (Berth::new(|_| {}), Berth::new(|_| {}));
    let Container { stream, lease } = killed.start().unwrap();
    std::mem::forget(lease);
    let stale = killed.directory.join("0123456789abcdef0123456789abcdef");
    std::fs::create_dir(&stale).unwrap();
    let bystander = other.start().unwrap();
    assert_eq!(killed.restarted().reap().unwrap(), 1);
    assert_eq!(killed.containers().len(), 0);
    assert!(!stale.exists());
    assert_eq!(other.containers().len(), 1);
    drop((stream, bystander));
}

#[test]
fn reaping_leaves_the_containers_of_live_connections() {
    let berth = Berth::new(|_| {});
    let container = berth.start().unwrap();
    assert_eq!(berth.docker.reap().unwrap(), 0);
    assert_eq!(berth.containers().len(), 1);
    drop(container);
}

/// How often something happened to this instance's containers.
fn events(berth: &Berth, event: &str, since: u64) -> usize {
    let filters = format!("{{\"event\":[\"{event}\"],\"label\":[\"berth.instance={}\"]}}", berth.instance);
    let path = format!("/events?since={since}&until={}&filters={filters}", now() + 1);
    let client = Client::new(Address::Unix(SOCKET.into()));
    let request = http::Request { method: "GET", target: &path, fields: &[], body: Body::Empty };
    let mut response = client.send(request, soon()).unwrap();
    std::iter::from_fn(|| response.line(1 << 20, soon()).unwrap()).filter(|line| !line.is_empty()).count()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The name of the agent's volume in a running container.
fn volume(berth: &Berth) -> String {
    let inspected = call("GET", &format!("/containers/{}/json", berth.containers()[0]), Body::Empty).1;
    let volume = inspected["Mounts"].as_array().unwrap().iter().find(|mount| mount["Type"] == "volume");
    volume.unwrap()["Name"].as_str().unwrap().to_owned()
}

/// Removes a volume that nothing uses any more.
fn remove_volume(berth: &Berth, volume: &str) {
    berth.assert_clean();
    assert_eq!(call("DELETE", &format!("/volumes/{volume}"), Body::Empty).0, 204);
}

#[test]
fn concurrent_first_starts_fill_the_volume_once() {
    let berth = Berth::with_agent(agent("concurrent", &unique()), |_| {});
    let since = now();
    let containers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| berth.start().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(berth.containers().len(), 3, "the helper is gone");
    let volume = volume(&berth);
    drop(containers);
    assert_eq!(events(&berth, "extract-to-dir", since), 1);
    assert_eq!(events(&berth, "create", since), 3 + 1, "one helper is enough");
    remove_volume(&berth, &volume);
}

#[test]
fn a_volume_that_was_removed_behind_our_back_is_filled_again() {
    let berth = Berth::with_agent(agent("removed", &unique()), |_| {});
    drop(berth.start().unwrap());
    let container = berth.start().unwrap();
    let volume = volume(&berth);
    drop(container);
    remove_volume(&berth, &volume);
    drop(berth.start().unwrap());
    remove_volume(&berth, &volume);
}

#[test]
fn a_helper_that_a_killed_process_left_does_not_block_others_for_long() {
    let berth = Berth::with_agent(agent("helper", &unique()), |_| {});
    let container = berth.start().unwrap();
    let volume = volume(&berth);
    drop(container);
    let body = json!({ "Image": image(), "Cmd": ["x"] }).to_string();
    let path = format!("/containers/create?name={volume}");
    assert_eq!(call("POST", &path, Body::Bytes(body.as_bytes())).0, 201);
    drop(berth.restarted().start(&request(), &User::default()).unwrap());
    assert_eq!(call("GET", &format!("/containers/{volume}/json"), Body::Empty).0, 404);
    remove_volume(&berth, &volume);
}

#[test]
fn a_half_filled_volume_is_filled_again_by_the_next_process() {
    let berth = Berth::with_agent(agent("half", &unique()), |_| {});
    let container = berth.start().unwrap();
    let volume = volume(&berth);
    drop(container);
    // What a killed upload leaves: the right name and a part of the content.
    let host = json!({ "Mounts": [{ "Type": "volume", "Source": volume, "Target": "/v" }] });
    let body = json!({ "Image": image(), "Cmd": ["x"], "HostConfig": host }).to_string();
    let id = call("POST", "/containers/create", Body::Bytes(body.as_bytes())).1["Id"].as_str().unwrap().to_owned();
    let mut tar = vec![0; 2048];
    tar[..5].copy_from_slice(b"berth");
    tar[100..107].copy_from_slice(b"0000755");
    tar[124..135].copy_from_slice(b"00000000004");
    tar[156..157].copy_from_slice(b"0");
    tar[257..265].copy_from_slice(b"ustar\x0000");
    tar[148..156].fill(b' ');
    let checksum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    tar[512..516].copy_from_slice(b"\x7fELF");
    let path = format!("/containers/{id}/archive?path=/v");
    let answer = call("PUT", &path, Body::Stream(&mut tar.as_slice(), None));
    assert_eq!(answer.0, 200, "{}", answer.1);
    call("DELETE", &format!("/containers/{id}"), Body::Empty);

    let restarted = berth.restarted();
    drop(restarted.start(&request(), &User::default()).unwrap());
    remove_volume(&berth, &volume);
}
