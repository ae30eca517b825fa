//! Credential plugins: programs that print how to authenticate (`exec` in a kubeconfig,
//! <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>).

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value as Json, json};

use super::Error;
use super::access::Grant;
use crate::clock::parse_rfc3339;
use crate::http::Deadline;

/// How long a plugin may take. Some of them talk to the whole world first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that is read of what a plugin prints, and of what it complains of. In bytes.
const OUTPUT_LIMIT: usize = 1024 * 1024;
const COMPLAINT_LIMIT: usize = 2000;
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
        // A group of its own, so that all that it starts can be ended with it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(|error| {
            let hint = self.install_hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
            failed(format!("{error}{hint}"))
        })?;
        let (output, complaint) = Running(child).finish().map_err(&failed)?;
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

/// A plugin that runs. Ended, with all that it has started, when dropped.
struct Running(Child);

impl Running {
    /// Waits for the end: what it printed, and what it complained of.
    fn finish(mut self) -> Result<(Vec<u8>, String), String> {
        let (Some(mut stdout), Some(mut stderr)) = (self.0.stdout.take(), self.0.stderr.take()) else {
            return Err("it has no output".into());
        };
        let deadline = Deadline::after(PATIENCE);
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        let (mut printing, mut complaining) = (true, true);
        while printing || complaining {
            let (out, err) = ((stdout.as_fd(), PollFlags::IN), (stderr.as_fd(), PollFlags::IN));
            // One that has ended would be ready for ever.
            let [out_ready, err_ready] = match (printing, complaining) {
                (true, true) => deadline.poll([out, err]),
                (true, false) => deadline.poll([out]).map(|[ready]| [ready, false]),
                (false, _) => deadline.poll([err]).map(|[ready]| [false, ready]),
            }
            .map_err(|error| error.to_string())?;
            if out_ready {
                printing = take(&mut stdout, &mut output, OUTPUT_LIMIT).map_err(|error| error.to_string())?;
            }
            if err_ready {
                complaining = take(&mut stderr, &mut complaint, COMPLAINT_LIMIT).map_err(|error| error.to_string())?;
            }
            if output.len() > OUTPUT_LIMIT {
                return Err(format!("it printed more than {OUTPUT_LIMIT} bytes"));
            }
            if !out_ready && !err_ready {
                return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
            }
        }
        complaint.truncate(COMPLAINT_LIMIT);
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        loop {
            match self.0.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok((output, complaint)),
                Some(status) => return Err(format!("{status}: {complaint}")),
                None if deadline.has_passed() => return Err("it does not end".into()),
                // Its output has ended, so it is about to.
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Reads what there is; false at the end.
fn take(from: &mut impl Read, to: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => {
            if to.len() <= limit {
                to.extend_from_slice(buffer.get(..n).unwrap_or_default());
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
