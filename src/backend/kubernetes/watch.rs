//! Following what changes: `watch` of the Kubernetes API
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde_json::Value as Json;

use super::Error;
use super::api::Api;
use crate::http::{self, Deadline, Response, encode};

/// The longest object, in bytes: etcd takes 1.5 MB.
const LINE_LIMIT: usize = 4 * 1024 * 1024;
/// How long a watch is left closed that has ended at once.
const PAUSE: Duration = Duration::from_millis(200);

/// A watch of some objects of a kind, which goes on where it was when the server ends it.
pub(super) struct Watch {
    step: &'static str,
    path: String,
    /// The last version that was seen.
    version: Option<String>,
    response: Option<Response>,
    not_before: Deadline,
}

/// A change.
pub(super) struct Change {
    /// Whether the object is gone.
    pub is_deleted: bool,
    pub object: Json,
}

impl Watch {
    /// Of what `selector` selects at this path, from a version of the object on; without one, from what there is.
    pub(super) fn new(step: &'static str, path: &str, selector: &str, version: Option<&str>) -> Watch {
        let path = format!("{path}?watch=true&allowWatchBookmarks=true&fieldSelector={}", encode(selector));
        let version = version.map(str::to_owned);
        Watch { step, path, version, response: None, not_before: Deadline::after(Duration::ZERO) }
    }

    /// Can be read when there is a change. `None` while the watch is closed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.response.as_ref().and_then(Response::fd)
    }

    /// The next change, if there is one.
    pub(super) fn next(&mut self, api: &Api) -> Result<Option<Change>, Error> {
        loop {
            let Some(response) = &mut self.response else {
                if !self.not_before.has_passed() {
                    return Ok(None);
                }
                let version = self.version.as_ref().map(|version| format!("&resourceVersion={}", encode(version)));
                let path = format!("{}{}", self.path, version.unwrap_or_default());
                match api.open(self.step, &path, api.deadline()) {
                    Ok(response) => self.response = Some(response),
                    // What has happened since is forgotten: begin with what there is.
                    Err(error) if error.is_status(410) && self.version.take().is_some() => {}
                    Err(error) => return Err(error),
                }
                continue;
            };
            let line = match response.line(LINE_LIMIT, Deadline::after(Duration::ZERO)) {
                Ok(Some(line)) => line,
                Err(http::Error::TimedOut(_)) => return Ok(None),
                // Servers end watches now and then, and when they are ended themselves.
                Ok(None) | Err(http::Error::Closed(_) | http::Error::Read(_)) => {
                    (self.response, self.not_before) = (None, Deadline::after(PAUSE));
                    continue;
                }
                Err(source) => return Err(Error::Http { step: self.step, source }),
            };
            let mut change: Json = serde_json::from_slice(&line)
                .map_err(|error| Error::Answer { step: self.step, detail: error.to_string() })?;
            let object = change["object"].take();
            if let Some(version) = object["metadata"]["resourceVersion"].as_str() {
                self.version = Some(version.to_owned());
            }
            match change["type"].as_str() {
                Some("ADDED" | "MODIFIED") => return Ok(Some(Change { is_deleted: false, object })),
                Some("DELETED") => return Ok(Some(Change { is_deleted: true, object })),
                Some("BOOKMARK") => {}
                _ => {
                    (self.response, self.version) = (None, None);
                    self.not_before = Deadline::after(PAUSE);
                }
            }
        }
    }
}
