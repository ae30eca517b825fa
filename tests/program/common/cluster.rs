//! The Kubernetes of `tests/kubernetes/cluster`, as its administrator sees it.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::berth::unique;
use super::client::{Client, Ran};
use super::process::{DEADLINE, eventually};
use super::relay::Relay;

/// Where pods are.
pub const NAMESPACE: &str = "default";

fn state() -> PathBuf {
    // Somewhere above the target directory's own directory for tests.
    let states = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().map(|above| above.join("kubernetes/state"));
    let state = states.into_iter().find(|state| state.join("admin.kubeconfig").exists());
    state.expect("no Kubernetes: start it with tests/kubernetes/cluster up")
}

/// The administrator's kubeconfig.
pub fn kubeconfig() -> PathBuf {
    state().join("admin.kubeconfig")
}

/// The URL of the API server.
pub fn server() -> String {
    let text = fs::read_to_string(kubeconfig()).unwrap();
    text.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned()
}

/// Where pods find this machine: at the other end of the node's link.
pub fn host() -> String {
    let node = server().trim_start_matches("https://").trim_end_matches(".2:6443").to_owned();
    format!("{node}.1")
}

/// Calls the API as administrator; gives what came of it. `path` is below the server's root.
fn call(method: &str, path: &str, body: Option<&Value>) -> Ran {
    let pki = |name: &str| state().join("pki").join(name);
    let client = Client::new("curl").args(["--silent", "--show-error", "--fail-with-body", "--request", method]);
    let client = client.arg("--cacert").arg(pki("ca.crt")).arg("--cert").arg(pki("admin.crt"));
    let client = client.arg("--key").arg(pki("admin.key")).arg(format!("{}{path}", server()));
    match body {
        Some(body) => client.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]).run(),
        None => client.stdin(Stdio::null()).run(),
    }
}

/// Calls the API as administrator, which must succeed.
#[track_caller]
pub fn api(method: &str, path: &str, body: Option<&Value>) -> Value {
    serde_json::from_slice(&call(method, path, body).succeeds().stdout).unwrap()
}

/// The names of an instance's pods, in any state, but for those that a kubelet has been told to end.
#[track_caller]
pub fn pods(instance: &str) -> Vec<String> {
    let list = api("GET", &format!("/api/v1/pods?labelSelector=berth.instance%3D{instance}"), None);
    let stay = list["items"].as_array().unwrap().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    stay.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// A pod as the API has it.
#[track_caller]
pub fn pod(name: &str) -> Value {
    api("GET", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), None)
}

/// Removes a pod at once.
#[track_caller]
pub fn delete_pod(name: &str) {
    api("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds=0"), None);
}

/// Removes an instance's pods, as far as that goes: for a test that has failed, so it must not fail by itself.
pub fn remove_pods(instance: &str) {
    let selector = format!("labelSelector=berth.instance%3D{instance}&gracePeriodSeconds=0");
    call("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods?{selector}"), None);
}

/// Removes the lease of an instance whose server was killed.
pub fn remove_lease(instance: &str) {
    let selector = format!("labelSelector=berth.instance%3D{instance}");
    call("DELETE", &format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases?{selector}"), None);
}

/// A namespace of a test's own.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new() -> Self {
        let name = unique();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": &name}});
        api("POST", "/api/v1/namespaces", Some(&namespace));
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        eventually("the service account", DEADLINE, || api("GET", &accounts, None)["items"] != json!([]));
        Namespace(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        cluster(&["kubectl", "delete", "namespace", "--wait=false", &self.0]).run();
    }
}

/// A test's use of the cluster: with others, or alone, to break it.
pub struct Use {
    alone: bool,
}

/// Who uses it.
struct Users {
    together: usize,
    alone: bool,
    /// How many wait to be alone: new ones let them go first.
    waiting: usize,
}

static USERS: (Mutex<Users>, Condvar) = (Mutex::new(Users { together: 0, alone: false, waiting: 0 }), Condvar::new());

thread_local! {
    /// How many uses this test has: for another one it must not wait.
    static MINE: Cell<usize> = const { Cell::new(0) };
}

impl Use {
    /// Together with others.
    pub fn begin() -> Self {
        let must_wait = MINE.get() == 0;
        let users = USERS.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut users = USERS
            .1
            .wait_while(users, |users| must_wait && (users.alone || users.waiting > 0))
            .unwrap_or_else(PoisonError::into_inner);
        users.together += 1;
        MINE.set(MINE.get() + 1);
        Use { alone: false }
    }

    /// Without any others.
    pub fn alone() -> Self {
        let mut users = USERS.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.waiting += 1;
        let mut users = USERS
            .1
            .wait_while(users, |users| users.alone || users.together > 0)
            .unwrap_or_else(PoisonError::into_inner);
        users.waiting -= 1;
        users.alone = true;
        MINE.set(MINE.get() + 1);
        Use { alone: true }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut users = USERS.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.alone {
            users.alone = false;
        } else {
            users.together -= 1;
        }
        MINE.set(MINE.get() - 1);
        USERS.1.notify_all();
    }
}

/// Runs `tests/kubernetes/cluster` with these arguments.
pub fn cluster(arguments: &[&str]) -> Client {
    Client::new("tests/kubernetes/cluster").args(arguments)
}

/// The newest protocol for programs, and one as long that no server knows.
const NEWEST_PROTOCOL: (&[u8], &[u8]) = (b"v5.channel.k8s.io", b"v0.channel.k8s.io");

/// The cluster's API server as one before 1.30: programs are asked for without the newest protocol, so that what answers
/// is `v4.channel.k8s.io`. Its clients need no TLS, and are the administrator. Gone when dropped.
pub struct OlderServer {
    port: u16,
    has_ended: Arc<AtomicBool>,
    _relay: Relay,
}

impl OlderServer {
    pub fn start() -> Self {
        let pki = |name: &str| state().join("pki").join(name).display().to_string();
        let server = server().trim_start_matches("https://").to_owned();
        let (certificate, key, authority) = (pki("admin.crt"), pki("admin.key"), pki("ca.crt"));
        // socat compares no addresses with what is in a certificate.
        let target = format!("OPENSSL:{server},cert={certificate},key={key},cafile={authority},verify=0");
        let relay = Relay::listen("TCP-LISTEN:0,bind=127.0.0.1,reuseaddr,fork", &target);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, has_ended) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let (to, ended) = (relay.port, Arc::clone(&has_ended));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (mut from, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut back);
                    let _ = back.shutdown(Shutdown::Both);
                });
                // It ends with either side.
                std::thread::spawn(move || drop(without_newest_protocol(&client, &server)));
            }
        });
        OlderServer { port, has_ended, _relay: relay }
    }

    /// `kubernetes.connection` to it.
    pub fn connection(&self) -> Value {
        json!({"host": format!("http://127.0.0.1:{}", self.port)})
    }
}

impl Drop for OlderServer {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        // So that it sees that.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Carries what a client sends. A request's head comes in one piece.
fn without_newest_protocol(mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = client.read(&mut buffer)?;
        let bytes = &mut buffer[..count];
        if bytes.is_empty() {
            return server.shutdown(Shutdown::Write);
        }
        let (newest, none) = NEWEST_PROTOCOL;
        if bytes.starts_with(b"GET ")
            && let Some(at) = bytes.windows(newest.len()).position(|window| window == newest)
        {
            bytes[at..at + none.len()].copy_from_slice(none);
        }
        server.write_all(bytes)?;
    }
}

/// An image with nothing but the agent in it, made once.
pub fn agent_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let name = format!("berth-test/agent:{}", std::process::id());
        let root = std::env::temp_dir().join(format!("berth-test-agent-{}", std::process::id()));
        fs::create_dir(&root).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_berth"), root.join("berth")).unwrap();
        let root = root.to_str().unwrap();
        cluster(&["image", &name, root, r#"{"Entrypoint": ["/berth"]}"#]).run().succeeds();
        fs::remove_dir_all(root).unwrap();
        name
    })
}
