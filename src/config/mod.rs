//! `config.yaml`: types, defaults, validation.
//!
//! Reading has two stages. `yaml` turns the text into a tree of nodes as typed, each with its line. The sections'
//! tables then read the tree over the defaults (`reader`), and collect all that is wrong.

mod auth;
mod docker;
mod docker_api;
mod error;
mod kind;
mod place;
mod reader;
mod ssh;
mod yaml;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use docker::{Docker, ExecutionMode, ImagePullPolicy};
pub use error::Error;
pub use place::Place;
pub use ssh::Ssh;

use crate::auth::User;
use kind::{choice, parsed, path};
use reader::{Finding, Kind, Reader, Section};
use yaml::{Node, Value};

/// The largest configuration file, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// The whole configuration, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ssh`
    pub ssh: Ssh,
    /// `auth.users`, by name.
    pub users: BTreeMap<String, User>,
    /// `docker`
    pub docker: Docker,
    /// `instance`: tells this berth's containers from those of others on the same daemon.
    pub instance: String,
    /// `runDirectory`, and in it the instance's own.
    pub run_directory: PathBuf,
    /// `log`
    pub log: Log,
}

/// Settings of the log.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// `log.level`
    pub level: log::LevelFilter,
}

/// Reads a configuration file; gives all that is wrong in it.
pub fn load(path: &Path) -> Result<Config, Vec<Error>> {
    let failed =
        |message: String| vec![Error { file: path.to_owned(), line: None, column: None, key: String::new(), message }];
    let mut bytes = Vec::new();
    let read = |bytes: &mut Vec<u8>| -> io::Result<Place> {
        File::open(path)?.take(LARGEST + 1).read_to_end(bytes)?;
        Place::of(path)
    };
    let place = read(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(format!("larger than a configuration may be: {LARGEST} bytes")));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &place),
        Err(error) => {
            let lines = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Err(failed(format!("line {} is not UTF-8", lines + 1)))
        }
    }
}

/// Reads the text of a configuration file; gives all that is wrong in it.
pub fn parse(text: &str, place: &Place) -> Result<Config, Vec<Error>> {
    let error = |line, column, key, message| Error { file: place.file.clone(), line, column, key, message };
    let root = yaml::parse(text)
        .map_err(|found| vec![error(Some(found.line), Some(found.column), String::new(), found.message)])?;
    let mut config = Config {
        ssh: Ssh::new(&place.directory),
        users: BTreeMap::new(),
        docker: Docker::new(&place.docker_host),
        instance: String::new(),
        run_directory: place.run_directory.clone(),
        log: Log { level: log::LevelFilter::Info },
    };
    let mut reader = Reader::new(&place.directory);
    if root.value != Value::Null {
        section().read(&root, &mut config, &mut reader);
    }
    let findings = match reader.findings() {
        // Only settings that are right by themselves are worth a look at what they make together.
        findings if findings.is_empty() => resolve(&root, &mut config, place),
        findings => findings,
    };
    if findings.is_empty() {
        return Ok(config);
    }
    Err(findings.into_iter().map(|found| error(found.line, None, found.path, found.message)).collect())
}

/// The paths of all keys that a configuration can have, in order. `*` stands for a free name; the Docker API's own keys
/// are left out.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    section().keys("", &mut keys);
    keys
}

fn section() -> Section<Config> {
    let log = Section::new()
        .key("level", |log: &mut Log| &mut log.level, choice(LEVELS, &[]))
        .only("format", "text", &["ljson"])
        .only("destination", "stderr", &["stdout", "file", "syslog", "test"])
        .refused(&["file", "syslog"], "the log goes to standard error; files and syslog are not available yet");
    Section::new()
        .key("ssh", |config: &mut Config| &mut config.ssh, ssh::section())
        .key("auth", |config| &mut config.users, auth::section())
        .only("backend", "docker", &["kubernetes", "sshproxy"])
        .key("docker", |config| &mut config.docker, docker::section())
        .key("instance", |config| &mut config.instance, parsed("a name", place::parse_instance))
        .key("runDirectory", |config| &mut config.run_directory, path())
        .key("log", |config| &mut config.log, log)
        .refused(
            &["configserver", "kubernetes", "sshproxy", "security", "audit", "metrics", "health", "geoip"],
            "not available yet; remove it",
        )
}

/// ContainerSSH's levels, by syslog's names.
const LEVELS: &[(&str, log::LevelFilter)] = &[
    ("debug", log::LevelFilter::Debug),
    ("info", log::LevelFilter::Info),
    ("notice", log::LevelFilter::Info),
    ("warning", log::LevelFilter::Warn),
    ("error", log::LevelFilter::Error),
    ("crit", log::LevelFilter::Error),
    ("alert", log::LevelFilter::Error),
    ("emerg", log::LevelFilter::Error),
];

/// Fills in what depends on several settings, and checks it.
fn resolve(root: &Node, config: &mut Config, place: &Place) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut wrong = |path: &[&str], message: String| {
        findings.push(Finding { line: root.line_of(path), path: path.join("."), message });
    };
    if config.instance.is_empty() {
        config.instance = place.instance(&config.ssh.listen);
    }
    if !config.docker.container.contains_key("Image") {
        wrong(
            &["docker", "execution", "container", "image"],
            "missing; name the image that containers are made of".into(),
        );
    }
    match place::run_directory(&config.run_directory, &config.instance) {
        Ok(directory) => config.run_directory = directory,
        Err(message) => wrong(&["runDirectory"], message),
    }
    findings
}

#[cfg(test)]
mod tests;
