//! Persistent mode: the agent joins a container that is there before its user comes, and that stays.
//!
//! Nothing can be mounted into such a container: the agent's binary is copied into it (`PUT /containers/{id}/archive`),
//! executed, and removed again once it runs. Its stream is its standard input and output.

use serde_json::{Value, json};

use super::attached::Attached;
use super::link::{Link, Starting, present};
use super::personal::put_files;
use super::{Docker, Error, agent, encode, kept};
use crate::backend::{Container, Request, Waiter, selection};
use crate::config::{ContainerName, NameOf};
use crate::http::{Body, Deadline};

/// Where the agent is put, the best first. Not all images have them all, and any may be read-only.
const DIRECTORIES: [&str; 3] = ["/tmp", "/var/tmp", "/"];

/// Finds the user's container, or makes it where that is wanted, and starts an agent in it.
pub(super) fn start(docker: &Docker, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
    let settings = &docker.settings.persistent;
    let deadline = Deadline::after(docker.settings.container_start);
    if settings.create && request.container.is_none() {
        let use_of = kept::Use::begin(docker, request);
        let found = kept::find_or_create(docker, request, waiter)?;
        let stream = found.join(docker, request, waiter)?;
        return Ok(Container { stream, lease: Box::new(use_of) });
    }
    let found = match (&request.container, &settings.name) {
        (Some(name), _) => by_choice(docker, request, name, deadline)?,
        (None, Some(template)) => by_name(docker, request, template, deadline)?,
        (None, None) => by_labels(docker, request, deadline)?,
    };
    let stream = found.join(docker, request, waiter)?;
    Ok(Container { stream, lease: Box::new(()) })
}

/// The container that the user has chosen, if that is among those to choose from.
fn by_choice(docker: &Docker, request: &Request, name: &str, deadline: Deadline) -> Result<Found, Error> {
    let patterns = &docker.settings.persistent.selectable;
    if !selection::may_have(request, name, NameOf::Container, patterns, "docker.execution.selectableContainers") {
        return Err(Error::NoContainer { name: name.to_owned() });
    }
    Found::inspect(docker, name, false, deadline)
}

fn by_name(docker: &Docker, request: &Request, name: &ContainerName, deadline: Deadline) -> Result<Found, Error> {
    let filled = selection::name_for(request, name, NameOf::Container);
    // An id will do where it is not the user's to say.
    Found::inspect(docker, &filled, !name.has_user(), deadline)
}

/// The one container that has all the labels; the one that runs, if there are more.
fn by_labels(docker: &Docker, request: &Request, deadline: Deadline) -> Result<Found, Error> {
    let labels = docker.settings.persistent.labels.iter().map(|label| label.fill_any(&request.user));
    let labels: Vec<String> = labels.collect();
    if labels.is_empty() {
        // All containers would fit.
        return Err(Error::NoContainer { name: request.user.clone() });
    }
    let list = list(docker, &labels, deadline)?;
    let running = list.iter().filter(|(_, state)| state == "running").count();
    let mut fitting = list.iter().filter(|(_, state)| running == 0 || state == "running");
    match (fitting.next(), fitting.next()) {
        (Some((id, _)), None) => Found::inspect(docker, id, true, deadline),
        (None, _) => Err(Error::NoContainer { name: request.user.clone() }),
        (Some(_), Some(_)) => Err(Error::ManyContainers { labels: labels.join(", ") }),
    }
}

/// The ids and states of the containers that have all these labels, each a name or a name, `=` and a value.
pub(super) fn list(docker: &Docker, labels: &[String], deadline: Deadline) -> Result<Vec<(String, String)>, Error> {
    let filters = json!({ "label": labels }).to_string();
    let path = format!("/containers/json?all=true&filters={}", encode(&filters));
    let list = docker.shared.api.call("look for the container", "GET", &path, None, deadline)?;
    let text = |container: &Value, name| container.get(name).and_then(Value::as_str).map(str::to_owned);
    let containers = list.as_array().into_iter().flatten();
    Ok(containers.filter_map(|container| Some((text(container, "Id")?, text(container, "State")?))).collect())
}

/// A container that was found.
pub(super) struct Found {
    id: String,
    /// As it is named to its user.
    name: String,
    /// What the daemon says of it.
    state: Value,
}

impl Found {
    /// Looks at a container. What comes from a user is a whole name, since an id's beginning would do for the daemon.
    pub(super) fn inspect(docker: &Docker, name: &str, by_id: bool, deadline: Deadline) -> Result<Found, Error> {
        let missing = || Error::NoContainer { name: name.to_owned() };
        if !selection::is_name(name) {
            return Err(missing());
        }
        let path = format!("/containers/{name}/json");
        let state = match docker.shared.api.call("look for the container", "GET", &path, None, deadline) {
            Err(e) if e.is_status(404) => return Err(missing()),
            result => result?,
        };
        let text = |name| state.get(name).and_then(Value::as_str).unwrap_or_default();
        let own_name = text("Name").trim_start_matches('/').to_owned();
        if own_name != name && !by_id {
            return Err(missing());
        }
        Ok(Found { id: text("Id").to_owned(), name: own_name, state })
    }

    /// The container's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the daemon says at the end of this path; null where that is nothing.
    pub(super) fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.state, |value, key| value.get(key).unwrap_or(&Value::Null))
    }

    /// `running`, `exited`, ...
    pub(super) fn status(&self) -> &str {
        self.state.pointer("/State/Status").and_then(Value::as_str).unwrap_or("unknown")
    }

    /// Starts an agent in it; gives the agent's stream.
    pub(super) fn join(
        &self,
        docker: &Docker,
        request: &Request,
        waiter: &dyn Waiter,
    ) -> Result<Box<dyn crate::backend::Stream>, Error> {
        if self.status() != "running" {
            return Err(Error::NotRunning { name: self.name.clone(), status: self.status().to_owned() });
        }
        let deadline = Deadline::after(docker.settings.container_start);
        put_files(&docker.shared.api, self.user(docker), &self.id, &request.metadata, deadline)?;
        let place = self.deliver(docker, request, deadline)?;
        let result = present(waiter).and_then(|()| self.execute(docker, &place, waiter, deadline));
        if let Place { copied: Some(Copied { directory, name }), path } = &place {
            let cleared = match &result {
                // It has done so itself, where it may.
                Ok(_) if self.is_root(docker) => Ok(()),
                Ok(_) => self.remove(docker, path, deadline),
                // No program can be executed there that would remove it.
                Err(_) => agent::empty(&docker.shared.api, &self.id, directory, name),
            };
            if let Err(error) = cleared {
                log::warn!("{error}; {path} stays in container {}", self.name);
            }
        }
        result
    }

    /// Sees to it that the agent's binary is in the container.
    fn deliver(&self, docker: &Docker, request: &Request, deadline: Deadline) -> Result<Place, Error> {
        let (api, list) =
            (&docker.shared.api, |name: &str| self.state.get(name).and_then(Value::as_array).into_iter().flatten());
        let volume = docker.agent.volume()?;
        if list("Mounts").any(|mount| mount.get("Name").and_then(Value::as_str) == Some(&volume)) {
            return Ok(Place { path: agent::PATH.to_owned(), copied: None });
        }
        // What is copied there is hidden below them.
        let in_memory = self.state.pointer("/HostConfig/Tmpfs").and_then(Value::as_object).into_iter().flatten();
        let mounted = list("Mounts").filter(|mount| mount.get("Type").and_then(Value::as_str) == Some("tmpfs"));
        let mounted = mounted.filter_map(|mount| mount.get("Destination").and_then(Value::as_str));
        let hidden: Vec<&str> = in_memory.map(|(path, _)| path.as_str()).chain(mounted).collect();
        let name = format!(".berth-{}", request.id());
        let mut refusal = None;
        for directory in DIRECTORIES.into_iter().filter(|directory| !hidden.contains(directory)) {
            // It would make the directory, and that would stay.
            if api.is_podman() && !self.has(directory, docker)? {
                continue;
            }
            match docker.agent.copy(api, &self.id, directory, &name, deadline) {
                Ok(()) => {
                    let path = format!("{}/{name}", directory.trim_end_matches('/'));
                    return Ok(Place { path, copied: Some(Copied { directory, name }) });
                }
                // It is not there, or read-only: the daemon has several words and numbers for that.
                Err(error @ Error::Api { .. }) => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        let reason = refusal.map_or_else(String::new, |error| error.to_string());
        Err(Error::ReadOnly { name: self.name.clone(), reason })
    }

    /// Whether there is such a file or directory.
    fn has(&self, path: &str, docker: &Docker) -> Result<bool, Error> {
        let (api, path) = (&docker.shared.api, format!("/containers/{}/archive?path={}", self.id, encode(path)));
        match api.open("look into the container", "HEAD", &path, Body::Empty, api.deadline()) {
            Err(error) if error.is_status(404) => Ok(false),
            result => result.map(|_| true),
        }
    }

    fn execute(
        &self,
        docker: &Docker,
        place: &Place,
        waiter: &dyn Waiter,
        deadline: Deadline,
    ) -> Result<Box<dyn crate::backend::Stream>, Error> {
        const STEP: &str = "start the agent in the container";
        let (api, configured) = (&docker.shared.api, &docker.settings.container);
        let unlinks = place.copied.is_some() && self.is_root(docker);
        let words: &[&str] = if unlinks { &["--stdio", "--unlink"] } else { &["--stdio"] };
        let mut body = self.program(place, words);
        for name in ["User", "WorkingDir", "Env"] {
            if let Some(value) = configured.get(name) {
                body[name] = value.clone();
            }
        }
        let id = self.prepare(docker, &body, deadline)?;
        let start = json!({ "Detach": false, "Tty": false });
        let stream = api.hijack(STEP, &format!("/exec/{id}/start"), Some(&start), deadline)?;
        let mut link: Box<dyn Link> = Box::new(Some(Attached::new(stream, &self.name)));
        let exited = || {
            let answer = api.call("look at the agent", "GET", &format!("/exec/{id}/json"), None, api.deadline())?;
            let ended = answer.get("Running") == Some(&Value::Bool(false));
            Ok(ended.then(|| Error::Exited { status: answer.get("ExitCode").and_then(Value::as_i64) }))
        };
        let patience = docker.settings.container_start;
        let starting = Starting { api, step: STEP, call: None, exited: &exited, waiter, deadline, patience };
        starting.accept(&mut *link)
    }

    /// Removes the agent's binary, for an agent whose user may not. It is executed for that: there may be nothing else.
    fn remove(&self, docker: &Docker, path: &str, deadline: Deadline) -> Result<(), Error> {
        let place = Place { path: path.to_owned(), copied: None };
        let mut body = self.program(&place, &["unlink"]);
        body["User"] = "0".into();
        for name in ["AttachStdin", "AttachStdout", "AttachStderr"] {
            body[name] = false.into();
        }
        let id = self.prepare(docker, &body, deadline)?;
        let start = json!({ "Detach": true, "Tty": false });
        let step = "remove the agent's binary from the container";
        docker.shared.api.call(step, "POST", &format!("/exec/{id}/start"), Some(&start), deadline).map(drop)
    }

    fn program(&self, place: &Place, words: &[&str]) -> Value {
        let words: Vec<&str> = [place.path.as_str(), "agent"].iter().chain(words).copied().collect();
        json!({ "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false, "Cmd": words })
    }

    /// Makes a program ready; gives its id.
    fn prepare(&self, docker: &Docker, body: &Value, deadline: Deadline) -> Result<String, Error> {
        let path = format!("/containers/{}/exec", self.id);
        let answer = docker.shared.api.call("make the agent ready", "POST", &path, Some(body), deadline)?;
        Ok(encode(answer.get("Id").and_then(Value::as_str).unwrap_or_default()))
    }

    /// Whom the agent runs as there.
    fn user<'a>(&'a self, docker: &'a Docker) -> &'a str {
        let own = self.state.pointer("/Config/User");
        docker.settings.container.get("User").or(own).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the agent runs as root there.
    fn is_root(&self, docker: &Docker) -> bool {
        matches!(self.user(docker).split(':').next(), None | Some("" | "0" | "root"))
    }
}

/// Where the agent's binary is in the container.
struct Place {
    path: String,
    /// The directory that it was copied into, and is to be removed from.
    copied: Option<Copied>,
}

struct Copied {
    directory: &'static str,
    name: String,
}
