//! The Kubernetes of `tests/kubernetes/cluster`, as its administrator sees it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::berth::unique;
use super::client::{Client, Ran, Running};
use super::process::{DEADLINE, eventually};

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

/// Another API server of the cluster, which is told to do as older ones do. Killed when dropped.
pub struct OlderServer {
    _process: Running,
    port: u16,
}

impl OlderServer {
    /// One that hands websockets on to the kubelet as they are, as they all did before 1.30: `v4.channel.k8s.io` is the
    /// newest protocol there. Each user of this has a port of his own.
    pub fn start(port: u16) -> Self {
        let flag = "--feature-gates=TranslateStreamCloseWebsocketRequests=false";
        let process = cluster(&["apiserver", &port.to_string(), flag]).spawn();
        let server = OlderServer { _process: process, port };
        eventually("the older API server", DEADLINE, || {
            let ready = format!("{}/readyz", server.url());
            Client::new("curl").args(["--insecure", "--silent", &ready]).run().text() == "ok"
        });
        server
    }

    fn url(&self) -> String {
        format!("https://{}.2:{}", host().trim_end_matches(".1"), self.port)
    }

    /// `kubernetes.connection` to it, as administrator.
    pub fn connection(&self) -> Value {
        let pki = |name: &str| state().join("pki").join(name);
        json!({
            "host": self.url(),
            "cacertFile": pki("ca.crt"),
            "certFile": pki("admin.crt"),
            "keyFile": pki("admin.key"),
        })
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
