//! The Kubernetes of `tests/kubernetes/cluster`, as its administrator sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::Value;

use super::client::{Client, Ran};

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

/// The names of an instance's pods, in any state.
#[track_caller]
pub fn pods(instance: &str) -> Vec<String> {
    let list = api("GET", &format!("/api/v1/pods?labelSelector=berth.instance%3D{instance}"), None);
    let names = list["items"].as_array().unwrap().iter();
    names.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// A pod as the API has it.
#[track_caller]
pub fn pod(name: &str) -> Value {
    api("GET", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), None)
}

/// Removes an instance's pods, as far as that goes: for a test that has failed, so it must not fail by itself.
pub fn remove_pods(instance: &str) {
    let selector = format!("labelSelector=berth.instance%3D{instance}&gracePeriodSeconds=0");
    call("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods?{selector}"), None);
}

/// Runs `tests/kubernetes/cluster` with these arguments.
pub fn cluster(arguments: &[&str]) -> Client {
    Client::new("tests/kubernetes/cluster").args(arguments)
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
