//! Images: whether they are here, their command, and pulling them.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use rustix::event::PollFlags;
use serde_json::{Value, json};

use super::api::{Api, encode};
use super::{Error, body};
use crate::backend::Waiter;
use crate::config::{self, ImagePullPolicy};
use crate::http::{self, Deadline};

/// How often, at most, the user hears of a pull.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the user is still there.
const WAITER_INTERVAL: Duration = Duration::from_millis(250);
/// The longest line of a pull's progress.
const LINE_LIMIT: usize = 1024 * 1024;
/// The most layers whose progress is counted. Docker's own limit is 127.
const LAYER_LIMIT: usize = 1024;

/// What an image says of its command.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// `Entrypoint`.
    pub entrypoint: Value,
    /// `Cmd`.
    pub cmd: Value,
}

/// Gets hold of `image`, as the policy has it.
pub(super) fn resolve(
    api: &Api,
    settings: &config::Docker,
    policy: ImagePullPolicy,
    waiter: &dyn Waiter,
) -> Result<Image, Error> {
    let image = body::image(settings);
    if policy == ImagePullPolicy::Always {
        pull(api, settings, waiter)?;
    }
    match inspect(api, image) {
        Err(Error::ImageNotFound { .. }) if policy == ImagePullPolicy::IfNotPresent => {
            pull(api, settings, waiter)?;
            inspect(api, image)
        }
        result => result,
    }
}

/// `GET /images/{name}/json`.
fn inspect(api: &Api, image: &str) -> Result<Image, Error> {
    let path = format!("/images/{}/json", encode(image));
    match api.call("inspect the image", "GET", &path, None, api.deadline()) {
        Ok(answer) => {
            let field = |name| answer.get("Config").and_then(|config| config.get(name)).cloned().unwrap_or_default();
            Ok(Image { entrypoint: field("Entrypoint"), cmd: field("Cmd") })
        }
        Err(Error::Api { status: 404, message, .. }) => Err(Error::ImageNotFound { image: image.to_owned(), message }),
        Err(e) => Err(e),
    }
}

/// `POST /images/create`. The daemon stops pulling when the connection is closed, so any error ends the pull.
fn pull(api: &Api, settings: &config::Docker, waiter: &dyn Waiter) -> Result<(), Error> {
    const STEP: &str = "pull the image";
    let (image, platform) = (body::image(settings), settings.platform.as_deref());
    // Where it is here already, in its newest version, this is all.
    waiter.announce(&format!("Pulling {image}"));
    let mut path = format!("/images/create?fromImage={}", encode(&with_tag(image)));
    if let Some(platform) = platform {
        path.push_str(&format!("&platform={}", encode(platform)));
    }
    let refused = |e| match e {
        Error::Api { status: 404, message, .. } => Error::ImageNotFound { image: image.to_owned(), message },
        Error::Api { message, .. } => Error::Pull { image: image.to_owned(), message },
        e => e,
    };
    let mut silence = api.deadline();
    // "Authentication" in the API's description.
    let credentials = settings.registry_auth.as_ref().map(|auth| URL_SAFE.encode(json!(auth).to_string()));
    let fields: Vec<_> = credentials.iter().map(|credentials| ("X-Registry-Auth", credentials.as_str())).collect();
    let exchange = api.begin(STEP, "POST", &path, &fields, silence)?;
    // The head comes with the first progress: after the registry's first answer.
    loop {
        let soon = silence.min(Deadline::after(WAITER_INTERVAL));
        match soon.poll([(exchange.as_fd(), PollFlags::IN)]) {
            Ok([false]) if waiter.is_gone() => return Err(Error::Gone),
            Ok([false]) if !silence.has_passed() => {}
            // Reading names whatever is wrong.
            _ => break,
        }
    }
    let mut response = api.answer(STEP, exchange, silence).map_err(refused)?;
    let mut progress = Progress::new(image);
    loop {
        if waiter.is_gone() {
            return Err(Error::Gone);
        }
        match response.line(LINE_LIMIT, silence.min(Deadline::after(WAITER_INTERVAL))) {
            Ok(Some(line)) => {
                silence = api.deadline();
                progress.take(&line)?;
                if let Some(text) = progress.due(Instant::now()) {
                    waiter.progress(&text);
                }
            }
            Ok(None) => return Ok(()),
            Err(http::Error::TimedOut(_)) if !silence.has_passed() => {}
            Err(e) => return Err(api.failed(STEP, e)),
        }
    }
}

/// Without a tag the API would pull all of them; `latest` is what `docker pull` means. Not so for a digest.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// A pull, summed up.
#[derive(Debug)]
struct Progress<'a> {
    image: &'a str,
    /// Bytes that have come and bytes there are, by layer.
    layers: HashMap<String, (u64, u64)>,
    extracting: bool,
    shown: String,
    next: Instant,
}

impl<'a> Progress<'a> {
    fn new(image: &'a str) -> Progress<'a> {
        let next = Instant::now() + PROGRESS_INTERVAL;
        Progress { image, layers: HashMap::new(), extracting: false, shown: String::new(), next }
    }

    /// Takes a line of the daemon's progress, which may be an error.
    fn take(&mut self, line: &[u8]) -> Result<(), Error> {
        // An empty line between messages, or a kind of message that berth does not know, is no reason to stop.
        let Ok(message) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        let error = message.get("errorDetail").and_then(|detail| detail.get("message")).or(message.get("error"));
        if let Some(error) = error {
            let (image, message) = (self.image.to_owned(), error.as_str().unwrap_or("unknown error").to_owned());
            // Podman begins its answer before it asks the registry.
            return Err(match message.contains("manifest unknown") {
                true => Error::ImageNotFound { image, message },
                false => Error::Pull { image, message },
            });
        }
        let (Some(status), Some(layer)) = (text(&message, "status"), text(&message, "id")) else { return Ok(()) };
        let count = |name| message.get("progressDetail").and_then(|detail| detail.get(name)).and_then(Value::as_u64);
        match status {
            "Downloading" if self.layers.len() < LAYER_LIMIT || self.layers.contains_key(layer) => {
                if let (Some(current), Some(total)) = (count("current"), count("total")) {
                    self.layers.insert(layer.to_owned(), (current, total));
                }
            }
            "Download complete" => {
                if let Some((current, total)) = self.layers.get_mut(layer) {
                    *current = *total;
                }
            }
            "Extracting" => self.extracting = true,
            _ => {}
        }
        Ok(())
    }

    /// The line for the user, if it has changed and it is time for one.
    fn due(&mut self, now: Instant) -> Option<String> {
        if now < self.next {
            return None;
        }
        let sum = |part: fn(&(u64, u64)) -> u64| self.layers.values().map(part).fold(0, u64::saturating_add);
        let (current, total) = (sum(|layer| layer.0), sum(|layer| layer.1));
        let line = if current < total {
            format!("Pulling {}: {} of {}", self.image, megabytes(current), megabytes(total))
        } else if self.extracting {
            format!("Pulling {}: extracting", self.image)
        } else {
            return None;
        };
        if line == self.shown {
            return None;
        }
        self.next = now + PROGRESS_INTERVAL;
        self.shown.clone_from(&line);
        Some(line)
    }
}

fn text<'v>(message: &'v Value, name: &str) -> Option<&'v str> {
    message.get(name).and_then(Value::as_str)
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

/// The progress of a pull, up to an error.
pub(crate) fn fuzz(stream: &[u8]) {
    let mut progress = Progress::new("fuzz");
    for line in stream.split(|byte| *byte == b'\n') {
        if progress.take(line).is_err() {
            break;
        }
        let _ = progress.due(progress.next);
        assert!(progress.layers.len() <= LAYER_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_tag_means_latest() {
        assert_eq!(with_tag("alpine"), "alpine:latest");
        assert_eq!(with_tag("reg:5000/a/alpine"), "reg:5000/a/alpine:latest");
        assert_eq!(with_tag("reg:5000/alpine:3"), "reg:5000/alpine:3");
        assert_eq!(with_tag("alpine@sha256:00"), "alpine@sha256:00");
    }

    #[test]
    fn progress_sums_the_layers_once_a_second_and_only_when_changed() {
        let mut progress = Progress::new("alpine:3");
        let mut now = progress.next;
        for line in [
            r#"{"status":"Downloading","progressDetail":{"current":12300000,"total":30000000},"id":"a"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":1,"total":10000000},"id":"b"}"#,
            "",
            "null",
        ] {
            progress.take(line.as_bytes()).unwrap();
        }
        assert_eq!(progress.due(now - Duration::from_millis(1)), None);
        assert_eq!(progress.due(now).as_deref(), Some("Pulling alpine:3: 12.3 MB of 40.0 MB"));
        now += PROGRESS_INTERVAL;
        assert_eq!(progress.due(now), None);
        for line in [r#"{"status":"Download complete","id":"a"}"#, r#"{"status":"Download complete","id":"b"}"#] {
            progress.take(line.as_bytes()).unwrap();
        }
        progress.take(br#"{"status":"Extracting","id":"a"}"#).unwrap();
        assert_eq!(progress.due(now).as_deref(), Some("Pulling alpine:3: extracting"));
    }

    #[test]
    fn an_error_in_the_stream_ends_the_pull() {
        let line = br#"{"errorDetail":{"message":"no space left"},"error":"no space left"}"#;
        let error = Progress::new("alpine:3").take(line).unwrap_err();
        assert_eq!(error.to_string(), "docker: cannot pull image alpine:3: no space left");
    }
}
