//! The objects of the Docker API that make a container: the keys and types of all its versions from 1.40 on.
//!
//! Keys are taken in any case, as the daemon's decoder takes them, and turned into the API's own spelling. What a value
//! means is the daemon's business.

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use super::kind::{parse_duration, parse_integer, parse_size, parse_switch, switch_schema};
use super::naming::{literal, seems_expanded};
use super::reader::{Kind, Reader, described, written_like};
use super::yaml::{Node, Value};

/// A type of the API.
pub(super) enum Api {
    Bool,
    Integer,
    /// An integer that counts bytes: "512m" is one, too.
    Bytes,
    /// An integer that counts nanoseconds: "30s" is one, too.
    Nanoseconds,
    Text,
    /// A text in which somebody may expect the user's name, and nothing is expanded: a percent sign is written twice.
    Literal,
    /// A text in which a percent sign may be meant. `%u` is worth a warning.
    Passed,
    /// A command: a list of words, or one text.
    Command,
    List(&'static Api),
    /// A mapping with free keys.
    Free(&'static Api),
    Object(&'static Keys),
    /// Always `{}`.
    Empty,
    /// A type without some of its values: gives the objection.
    But(&'static Api, fn(&Json) -> Option<&'static str>),
    /// An object that ContainerSSH has and the API has not: its keys stand for those around it.
    Inline(&'static Keys),
}

use Api::{Bool, But, Bytes, Command, Empty, Free, Inline, Integer, List, Literal, Nanoseconds, Object, Passed, Text};

/// The keys of an object of the API.
pub(super) struct Keys(&'static [(&'static str, Api)]);

const TEXTS: Api = List(&Text);
const TEXT_MAP: Api = Free(&Text);

/// `Config`
pub(super) static CONFIG: Keys = Keys(&[
    ("ArgsEscaped", Bool),
    ("AttachStderr", Bool),
    ("AttachStdin", Bool),
    ("AttachStdout", Bool),
    ("Cmd", Command),
    ("Domainname", Literal),
    ("Entrypoint", Command),
    ("Env", List(&Passed)),
    ("ExposedPorts", Free(&Empty)),
    ("Healthcheck", Object(&HEALTH)),
    ("Hostname", Literal),
    ("Image", But(&Literal, |image| (image == "").then_some("must be the name of an image"))),
    ("Labels", Free(&Passed)),
    ("MacAddress", Text),
    ("NetworkDisabled", Bool),
    ("OnBuild", TEXTS),
    ("OpenStdin", Bool),
    ("Shell", Command),
    ("StdinOnce", Bool),
    ("StopSignal", Text),
    ("StopTimeout", Integer),
    ("Tty", Bool),
    ("User", Literal),
    ("Volumes", Free(&Empty)),
    ("WorkingDir", Literal),
]);

static HEALTH: Keys = Keys(&[
    ("Interval", Nanoseconds),
    ("Retries", Integer),
    ("StartInterval", Nanoseconds),
    ("StartPeriod", Nanoseconds),
    ("Test", Command),
    ("Timeout", Nanoseconds),
]);

/// `HostConfig`
pub(super) static HOST_CONFIG: Keys = Keys(&[
    ("Annotations", Free(&Passed)),
    ("AutoRemove", Bool),
    ("Binds", List(&Literal)),
    ("BlkioDeviceReadBps", List(&Object(&THROTTLE))),
    ("BlkioDeviceReadIOps", List(&Object(&THROTTLE))),
    ("BlkioDeviceWriteBps", List(&Object(&THROTTLE))),
    ("BlkioDeviceWriteIOps", List(&Object(&THROTTLE))),
    ("BlkioWeight", Integer),
    ("BlkioWeightDevice", List(&Object(&Keys(&[("Path", Text), ("Weight", Integer)])))),
    ("CapAdd", TEXTS),
    ("CapDrop", TEXTS),
    ("Capabilities", TEXTS),
    ("Cgroup", Text),
    ("CgroupParent", Literal),
    ("CgroupnsMode", Text),
    ("ConsoleSize", List(&Integer)),
    ("ContainerIDFile", Text),
    ("CpuCount", Integer),
    ("CpuPercent", Integer),
    ("CpuPeriod", Integer),
    ("CpuQuota", Integer),
    ("CpuRealtimePeriod", Integer),
    ("CpuRealtimeRuntime", Integer),
    ("CpuShares", Integer),
    ("CpusetCpus", Text),
    ("CpusetMems", Text),
    ("DeviceCgroupRules", TEXTS),
    ("DeviceRequests", List(&Object(&DEVICE_REQUEST))),
    ("Devices", List(&Object(&DEVICE))),
    ("Dns", TEXTS),
    ("DnsOptions", TEXTS),
    ("DnsSearch", TEXTS),
    ("ExtraHosts", TEXTS),
    ("GroupAdd", TEXTS),
    ("IOMaximumBandwidth", Bytes),
    ("IOMaximumIOps", Integer),
    ("Init", Bool),
    ("IpcMode", Text),
    ("Isolation", Text),
    ("KernelMemory", Bytes),
    ("KernelMemoryTCP", Bytes),
    ("Links", List(&Literal)),
    ("LogConfig", Object(&Keys(&[("Config", TEXT_MAP), ("Type", Text)]))),
    ("MaskedPaths", TEXTS),
    ("Memory", Bytes),
    ("MemoryReservation", Bytes),
    ("MemorySwap", Bytes),
    ("MemorySwappiness", Integer),
    ("Mounts", List(&Object(&MOUNT))),
    ("NanoCpus", Integer),
    ("NetworkMode", Literal),
    ("OomKillDisable", Bool),
    ("OomScoreAdj", Integer),
    ("PidMode", Text),
    ("PidsLimit", Integer),
    ("PortBindings", Free(&List(&Object(&Keys(&[("HostIp", Text), ("HostPort", Text)]))))),
    ("Privileged", Bool),
    ("PublishAllPorts", Bool),
    ("ReadonlyPaths", TEXTS),
    ("ReadonlyRootfs", Bool),
    ("Resources", Inline(&HOST_CONFIG)),
    ("RestartPolicy", Object(&RESTART_POLICY)),
    ("Runtime", Text),
    ("SecurityOpt", TEXTS),
    ("ShmSize", Bytes),
    ("StorageOpt", Free(&Passed)),
    ("Sysctls", TEXT_MAP),
    ("Tmpfs", Free(&Passed)),
    ("UTSMode", Text),
    ("Ulimits", List(&Object(&Keys(&[("Hard", Integer), ("Name", Text), ("Soft", Integer)])))),
    ("UsernsMode", Text),
    ("VolumeDriver", Text),
    ("VolumesFrom", List(&Literal)),
]);

static THROTTLE: Keys = Keys(&[("Path", Text), ("Rate", Integer)]);

static DEVICE: Keys = Keys(&[("CgroupPermissions", Text), ("PathInContainer", Text), ("PathOnHost", Text)]);

static DEVICE_REQUEST: Keys = Keys(&[
    ("Capabilities", List(&TEXTS)),
    ("Count", Integer),
    ("DeviceIDs", TEXTS),
    ("Driver", Text),
    ("Options", Free(&Passed)),
]);

static RESTART_POLICY: Keys = Keys(&[("MaximumRetryCount", Integer), ("Name", But(&Text, restarts))]);

fn restarts(name: &Json) -> Option<&'static str> {
    (name != "" && name != "no").then_some("a container ends with its connection and is not started again; remove it")
}

static MOUNT: Keys = Keys(&[
    ("BindOptions", Object(&BIND_OPTIONS)),
    ("ClusterOptions", Empty),
    ("Consistency", Text),
    ("ImageOptions", Object(&Keys(&[("Subpath", Literal)]))),
    ("ReadOnly", Bool),
    ("Source", Literal),
    ("Target", Literal),
    ("TmpfsOptions", Object(&TMPFS_OPTIONS)),
    ("Type", Text),
    ("VolumeOptions", Object(&VOLUME_OPTIONS)),
]);

static BIND_OPTIONS: Keys = Keys(&[
    ("CreateMountpoint", Bool),
    ("NonRecursive", Bool),
    ("Propagation", Text),
    ("ReadOnlyForceRecursive", Bool),
    ("ReadOnlyNonRecursive", Bool),
]);

static TMPFS_OPTIONS: Keys = Keys(&[("Mode", Integer), ("Options", List(&TEXTS)), ("SizeBytes", Bytes)]);

static VOLUME_OPTIONS: Keys = Keys(&[
    ("DriverConfig", Object(&Keys(&[("Name", Text), ("Options", Free(&Passed))]))),
    ("Labels", Free(&Passed)),
    ("NoCopy", Bool),
    ("Subpath", Literal),
]);

/// `NetworkingConfig`
pub(super) static NETWORKING_CONFIG: Keys = Keys(&[("EndpointsConfig", Free(&Object(&ENDPOINT)))]);

static ENDPOINT: Keys = Keys(&[
    ("Aliases", List(&Literal)),
    ("DNSNames", TEXTS),
    ("DriverOpts", Free(&Passed)),
    ("EndpointID", Text),
    ("Gateway", Text),
    ("GlobalIPv6Address", Text),
    ("GlobalIPv6PrefixLen", Integer),
    ("GwPriority", Integer),
    ("IPAMConfig", Object(&IPAM)),
    ("IPAddress", Text),
    ("IPPrefixLen", Integer),
    ("IPv6Gateway", Text),
    ("Links", List(&Literal)),
    ("MacAddress", Text),
    ("NetworkID", Text),
]);

static IPAM: Keys = Keys(&[("IPv4Address", Text), ("IPv6Address", Text), ("LinkLocalIPs", TEXTS)]);

/// `AuthConfig`
pub(super) static AUTH_CONFIG: Keys = Keys(&[
    ("auth", Text),
    ("email", Text),
    ("identitytoken", Text),
    ("password", Text),
    ("registrytoken", Text),
    ("serveraddress", Text),
    ("username", Text),
]);

impl Kind<Map<String, Json>> for &'static Keys {
    fn read(&self, node: &Node, target: &mut Map<String, Json>, reader: &mut Reader<'_>) {
        for (key, node) in reader.entries(node, str::to_lowercase) {
            match self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key.text)) {
                Some(_) if node.value == Value::Null => (),
                Some((_, Inline(keys))) => reader.within(&key.text, |reader| keys.read(node, target, reader)),
                Some((name, api)) => reader.within(&key.text, |reader| {
                    // Over what is there, so that objects are merged.
                    let place = target.entry(*name).or_insert(Json::Null);
                    api.read(node, place, reader);
                }),
                None if reader.additional_keys.contains(&key.text) => {
                    target.insert(key.text.clone(), node.to_json());
                }
                None => reader.unknown(key, self.0.iter().map(|(name, _)| *name)),
            }
        }
    }

    fn schema(&self) -> Json {
        let (mut spellings, mut patterns) = (Map::new(), Map::new());
        for (name, api) in self.0 {
            // Editors offer the one that configurations are written in; a pattern stands for all others.
            spellings.insert(written_like(name, "a"), json!({}));
            let any_case = |c: char| match c.is_ascii_alphabetic() {
                true => format!("[{}{}]", c.to_ascii_uppercase(), c.to_ascii_lowercase()),
                false => c.into(),
            };
            let pattern: String = name.chars().map(any_case).collect();
            patterns.insert(format!("^{pattern}$"), json!({"title": name, "anyOf": [api.schema(), {"type": "null"}]}));
        }
        json!({
            "type": "object",
            "description": "a mapping of keys to values",
            "properties": spellings,
            "patternProperties": patterns,
            "additionalProperties": false,
        })
    }
}

impl Api {
    /// Completes "must be".
    fn allowed(&self) -> &'static str {
        match self {
            Bool => "true or false, without quotes",
            Integer => "a number, without quotes and leading zeros",
            Bytes => "a number of bytes, or one with a unit, such as 512m or 2g",
            Nanoseconds => "a number of nanoseconds, or a time with a unit, such as 30s",
            Text | Literal | Passed => "a text",
            Command | List(_) => "a list",
            Free(_) | Object(_) | Inline(_) => "a mapping",
            Empty => "an empty mapping, {}",
            But(api, _) => api.allowed(),
        }
    }

    fn schema(&self) -> Json {
        let schema = match self {
            Bool => switch_schema(),
            Integer => json!({"type": "integer"}),
            Bytes | Nanoseconds => json!({"type": ["integer", "string"]}),
            Text | Literal | Passed => {
                json!({"anyOf": [{"type": ["string", "number", "boolean"]}, {"$ref": "#/$defs/elsewhere"}]})
            }
            Command => json!({"anyOf": [{"type": "string"}, TEXTS.schema()]}),
            List(item) => json!({"type": "array", "items": item.schema()}),
            Free(value) => json!({"type": "object", "additionalProperties": value.schema()}),
            Object(keys) => return keys.schema(),
            Empty => json!({"type": ["object", "null"], "maxProperties": 0}),
            But(api, _) => return api.schema(),
            Inline(_) => json!({"type": "object", "$comment": "the same keys as around it"}),
        };
        described(schema, self.allowed())
    }

    fn read(&self, node: &Node, target: &mut Json, reader: &mut Reader<'_>) {
        // Where a mapping would be wrong, it may name the place of a text.
        let fetched = match self {
            Text | Literal | Passed | Command => reader.fetch(node),
            _ => Some(Cow::Borrowed(node)),
        };
        let Some(fetched) = fetched else { return };
        let node = &*fetched;
        match (self, &node.value) {
            (But(api, objection), _) => {
                api.read(node, target, reader);
                if let Some(objection) = Some(&*target).filter(|value| !value.is_null()).and_then(objection) {
                    reader.wrong(node.line, objection);
                }
            }
            (Object(keys), Value::Map(_)) => {
                let mut map = take_map(target);
                keys.read(node, &mut map, reader);
                *target = Json::Object(map);
            }
            (Free(api), Value::Map(_)) => {
                let mut map = take_map(target);
                for (key, node) in reader.entries(node, str::to_owned) {
                    let place = map.entry(key.text.clone()).or_insert(Json::Null);
                    reader.within(&key.text, |reader| api.read(node, place, reader));
                }
                *target = Json::Object(map);
            }
            (List(api), Value::List(items)) => {
                let mut values = vec![Json::Null; items.len()];
                for (index, (node, place)) in items.iter().zip(&mut values).enumerate() {
                    reader.within_item(index, |reader| api.read(node, place, reader));
                }
                *target = Json::Array(values);
            }
            (Command, Value::List(_)) => TEXTS.read(node, target, reader),
            (Empty, Value::Map(entries)) if entries.is_empty() => *target = Json::Object(Map::new()),
            (Empty, Value::Null) => *target = Json::Object(Map::new()),
            // Answers are made for their user: nothing of them could be expanded.
            (Literal, Value::Scalar { text, .. }) if !reader.is_answer => match literal(text) {
                Ok(text) => *target = text.into(),
                Err(message) => reader.wrong(node.line, message),
            },
            (_, Value::Scalar { text, plain }) => match self.scalar(text, *plain) {
                Some(value) => {
                    if let Some(message) = seems_expanded(text).filter(|_| matches!(self, Passed) && !reader.is_answer)
                    {
                        reader.warn(node.line, message);
                    }
                    *target = value;
                }
                None => reader.wrong(node.line, format!("must be {}", self.allowed())),
            },
            // Inline is its object's to read.
            (_, value) => reader.wrong(node.line, format!("must be {}, not {value}", self.allowed())),
        }
    }

    fn scalar(&self, text: &str, plain: bool) -> Option<Json> {
        match self {
            Text | Literal | Passed | Command => Some(text.into()),
            Bool if plain => parse_switch(text).map(Json::from),
            Integer if plain => parse_integer(text).map(Json::from),
            Bytes => parse_size(text).map(Json::from),
            Nanoseconds => {
                let time = || i64::try_from(parse_duration(text)?.as_nanos()).ok();
                parse_integer(text).or_else(time).map(Json::from)
            }
            _ => None,
        }
    }
}

/// The mapping that is there already, or an empty one.
pub(super) fn take_map(target: &mut Json) -> Map<String, Json> {
    match target.take() {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[path = "docker_api_tests.rs"]
mod tests;
