//! Credential plugins: programs that print how to authenticate (`exec` in a kubeconfig,
//! <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>).

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};

use super::Error;
use super::access::Grant;
use crate::clock::parse_rfc3339;
use crate::program;

/// How long a plugin may take. Some of them talk to the whole world first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that is read of what a plugin prints, in bytes.
const OUTPUT_LIMIT: usize = 1024 * 1024;
/// So long before its end, a credential counts as expired: it has to arrive, too.
const MARGIN: Duration = Duration::from_secs(10);

/// Which form a plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// `client.authentication.k8s.io/v1`
    V1,
    /// `client.authentication.k8s.io/v1beta1`
    V1Beta1,
}

impl ApiVersion {
    fn name(self) -> &'static str {
        match self {
            ApiVersion::V1 => "client.authentication.k8s.io/v1",
            ApiVersion::V1Beta1 => "client.authentication.k8s.io/v1beta1",
        }
    }
}

/// A plugin, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The form that it speaks.
    pub version: ApiVersion,
    /// The program: a path, or a name to be looked up.
    pub command: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it finds in its environment beside berth's.
    pub environment: Vec<(String, String)>,
    /// What to tell whoever has not got it.
    pub install_hint: Option<String>,
    /// Whether it is told of the cluster.
    pub wants_cluster: bool,
}

impl Plugin {
    /// Runs the plugin, which has a minute. `cluster` is what it is told of the cluster if it asks.
    pub fn run(&self, cluster: &Json) -> Result<Grant, Error> {
        let failed = |detail: String| Error::Plugin { command: self.command.clone(), detail };
        let mut spec = json!({ "interactive": false });
        if self.wants_cluster {
            spec["cluster"] = cluster.clone();
        }
        let info = json!({ "kind": "ExecCredential", "apiVersion": self.version.name(), "spec": spec });
        let mut command = Command::new(&self.command);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("KUBERNETES_EXEC_INFO", info.to_string());
        let (output, complaint) =
            program::run(command, OUTPUT_LIMIT, PATIENCE, &|| true).map_err(|error| match error {
                program::Error::Start(error) => {
                    let hint = self.install_hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                    failed(format!("{error}{hint}"))
                }
                program::Error::Run(detail) => failed(detail),
            })?;
        let answer: Json = serde_json::from_slice(&output).map_err(|error| {
            // Not the output itself, which may be secret.
            failed(format!("what it printed is not JSON (line {}): {complaint}", error.line()))
        })?;
        self.grant(&answer).map_err(failed)
    }

    /// Reads an `ExecCredential`.
    fn grant(&self, answer: &Json) -> Result<Grant, String> {
        let text = |name: &str| answer["status"][name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        if answer["kind"] != "ExecCredential" || answer["apiVersion"] != self.version.name() {
            return Err(format!("what it printed is no ExecCredential of {}", self.version.name()));
        }
        let identity = match (text("clientCertificateData"), text("clientKeyData")) {
            (Some(certificate), Some(key)) => Some((certificate.into_bytes(), key.into_bytes())),
            (None, None) => None,
            _ => return Err("it gave a certificate without a key, or a key without a certificate".into()),
        };
        let token = text("token").map(|token| token.trim().to_owned());
        if token.is_none() && identity.is_none() {
            return Err("it gave neither a token nor a certificate".into());
        }
        if token.as_ref().is_some_and(|token| token.contains(char::is_control)) {
            return Err("its token has control characters".into());
        }
        let expires = match text("expirationTimestamp") {
            Some(time) => {
                let seconds = parse_rfc3339(&time).ok_or("its expirationTimestamp is no time of RFC 3339")?;
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) - MARGIN)
            }
            None => None,
        };
        Ok(Grant { token, identity, expires })
    }
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
