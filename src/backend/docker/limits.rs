//! Limits that a container is to have and a daemon cannot give: whoever has set them relies on them, so the log says so.

use serde_json::{Value, json};

use super::{Api, Error};
use crate::http::Deadline;

/// The limits of a `HostConfig` that Podman ignores without a word where it has no control groups for them: without root,
/// on control groups of version 1.
const LIMITS: [&str; 5] = ["Memory", "PidsLimit", "NanoCpus", "CpuQuota", "CpuShares"];

impl Api {
    /// Creates a container: `path` has its name, which is `container`. What the daemon warns of, and what limits it does not
    /// give, is told to the log, once.
    pub(super) fn create_container(
        &self,
        container: &str,
        path: &str,
        body: &Value,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        let answer = self.call("create the container", "POST", path, Some(body), deadline)?;
        for warning in answer.get("Warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if let Some(warning) = self.told.once(warning) {
                log::warn!("docker: the daemon, of a new container: {warning}");
            }
        }
        if self.is_podman() {
            self.look_at_limits(container, &body["HostConfig"], deadline);
        }
        Ok(answer)
    }

    /// Docker warns by itself.
    fn look_at_limits(&self, container: &str, wanted: &Value, deadline: Deadline) {
        let wanted: Vec<_> = LIMITS.into_iter().filter(|name| is_limit(wanted.get(name))).collect();
        if wanted.is_empty() || self.told.once(&json!(wanted).to_string()).is_none() {
            return;
        }
        let path = format!("/containers/{container}/json");
        match self.call("look at the container's limits", "GET", &path, None, deadline) {
            Ok(given) => {
                let ignored = |name: &&str| !is_limit(given["HostConfig"].get(name));
                let ignored: Vec<_> = wanted.into_iter().filter(ignored).collect();
                if !ignored.is_empty() {
                    log::warn!(
                        "docker: the engine ignores limits that containers are to have ({}): users can take all that the \
                         host has; without root, limits take control groups of version 2",
                        ignored.join(", ")
                    );
                }
            }
            Err(error) => log::warn!("{error}"),
        }
    }
}

fn is_limit(value: Option<&Value>) -> bool {
    value.and_then(Value::as_i64).is_some_and(|limit| limit > 0)
}
