//! What a configuration server says about one connection, put over the configuration.
//!
//! As ContainerSSH merges it: what asks for nothing (`null`, `""`, `0`, `false`, an empty list) changes nothing, mappings
//! are merged, and all else replaces what was there. ContainerSSH's own library answers with all keys that there are.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use super::reader::{Kind, Reader};
use super::yaml::{Node, Value};
use super::{Config, Error, Own, check_backend, complete_backend, connection_section, docker_connection};

/// What cannot be set for one connection.
const STATIC: &[&str] =
    &["ssh", "configserver", "auth", "metrics", "geoip", "audit", "health", "instance", "runDirectory"];

impl Config {
    /// All but the users: what the settings of one connection begin with.
    pub fn template(&self) -> Config {
        Config { users: BTreeMap::new(), ..self.clone() }
    }

    /// The settings for one connection of this user's, for whom `answer` was given. Those of forwarding are everyone's.
    pub fn with_answer(&self, user: &str, answer: &Json) -> Result<Config, Vec<Error>> {
        let mut config = self.for_user(user);
        let root = Node::from_json(answer).without_empty();
        let mut reader = Reader::new(&self.place.directory);
        reader.is_answer = true;
        reader.additional_keys = config.additional_keys.clone();
        reader.additional_keys.extend(root.texts_at(&["docker", "execution", "additionalKeys"]));
        if root.value != Value::Null {
            // The library always sets a level of the log.
            let section = connection_section().inert(&["log"]).needless(STATIC, "it cannot be set for one connection");
            section.read(&root, &mut config, &mut reader);
        }
        if root.at(&["docker", "connection"]).is_some() {
            docker_connection::put(&root, &mut config, &self.place, &mut reader);
        }
        complete_backend(&root, &mut config, &mut reader);
        check_backend(&root, &config, &mut reader);
        let findings = reader.findings().into_iter().map(|found| Error {
            file: "configserver".into(),
            line: None,
            column: None,
            key: found.path,
            message: found.message,
            warning: found.warning,
        });
        let (warnings, errors): (Vec<Error>, Vec<Error>) = findings.partition(|finding| finding.warning);
        config.warnings = warnings;
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// The settings for one connection of this user's. Those of forwarding are everyone's.
    pub fn for_user(&self, user: &str) -> Config {
        let mut config = self.clone();
        config.forwarding.everyone = self.forwarding.of(user).clone();
        config.forwarding.users = Arc::default();
        config.quotas.everyone = self.quotas.of(user);
        config.quotas.users = Arc::default();
        if let Some(Some(own)) = self.own.get(user) {
            config.put(own.clone());
        }
        config
    }

    /// Puts a user's own settings in everyone's place.
    pub fn put(&mut self, own: Own) {
        (self.docker, self.kubernetes) = (own.docker, own.kubernetes);
    }
}

/// A configuration server's settings. Its errors are shown, too.
pub(crate) fn fuzz(answer: &[u8]) {
    const SMALLEST: &str = "docker: {execution: {container: {image: a}}}";
    static CONFIG: LazyLock<Config> = LazyLock::new(|| super::fuzz_parse(SMALLEST).expect("a good configuration"));
    let Ok(answer) = serde_json::from_slice(answer) else { return };
    for error in CONFIG.with_answer("alice", &answer).err().unwrap_or_default() {
        let _ = error.to_string();
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
