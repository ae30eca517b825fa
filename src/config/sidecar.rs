//! `docker.execution.sidecars`: containers beside a user's own.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::docker_api::{CONFIG, HOST_CONFIG, NETWORKING_CONFIG};
use super::kind::{choice, duration, text};
use super::reader::{Kind, Reader};
use super::section::Section;
use super::yaml::{Node, Value};

/// A container that is there from before its user's to after.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// `name`: what it is called here, and in the names of its containers.
    pub name: String,
    /// `container`: the API's `Config`, with an `Image`.
    pub container: Map<String, Json>,
    /// `host`: the API's `HostConfig`.
    pub host_config: Map<String, Json>,
    /// `network`: the API's `NetworkingConfig`. It shares the user's network where neither this nor `host` names one.
    pub networking_config: Map<String, Json>,
    /// `readiness`: when what comes next may start.
    pub readiness: Readiness,
    /// `timeout`: how long that may take.
    pub timeout: Duration,
}

/// When a sidecar is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// When it has started.
    #[default]
    Started,
    /// When its health check says so.
    Healthy,
    /// When it has ended, with status 0.
    Completed,
}

impl Sidecar {
    fn new() -> Self {
        Sidecar {
            name: String::new(),
            container: Map::new(),
            host_config: Map::new(),
            networking_config: Map::new(),
            readiness: Readiness::default(),
            timeout: Duration::from_secs(60),
        }
    }
}

/// The list.
pub(super) struct Sidecars(Section<Sidecar>);

impl Sidecars {
    pub fn kind() -> Self {
        const READINESS: &[(&str, Readiness)] =
            &[("started", Readiness::Started), ("healthy", Readiness::Healthy), ("completed", Readiness::Completed)];
        const SHORTEST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(3600);
        let section = Section::new()
            .key("name", |sidecar: &mut Sidecar| &mut sidecar.name, text("a name of a-z, 0-9 and dashes", is_name))
            .key("container", |sidecar| &mut sidecar.container, &CONFIG)
            .key("host", |sidecar| &mut sidecar.host_config, &HOST_CONFIG)
            .key("network", |sidecar| &mut sidecar.networking_config, &NETWORKING_CONFIG)
            .key("readiness", |sidecar| &mut sidecar.readiness, choice(READINESS, &[]))
            .key("timeout", |sidecar| &mut sidecar.timeout, duration(SHORTEST..=LONGEST));
        Sidecars(section)
    }
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl Kind<Vec<Sidecar>> for Sidecars {
    fn read(&self, node: &Node, target: &mut Vec<Sidecar>, reader: &mut Reader<'_>) {
        target.clear();
        let Value::List(items) = &node.value else {
            return reader.wrong(node.line, format!("must be a list of sidecars, not {}", node.value));
        };
        for (index, node) in items.iter().enumerate() {
            reader.within_item(index, |reader| {
                let mut sidecar = Sidecar::new();
                self.0.read(node, &mut sidecar, reader);
                let missing = |key| matches!(&node.value, Value::Map(_)) && node.at(&[key]).is_none();
                if missing("name") {
                    reader.wrong(node.line, "has no name");
                } else if target.iter().any(|other| other.name == sidecar.name) {
                    reader.wrong(node.line, format!("has the name of another sidecar, {}", sidecar.name));
                }
                if !sidecar.container.contains_key("Image") {
                    reader.wrong(node.line, "has no container.image");
                }
                target.push(sidecar);
            });
        }
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "items": self.0.schema(), "description": "a list of sidecars"})
    }
}
