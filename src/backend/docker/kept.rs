//! Users' own containers, which stay for some time after they have left: `docker.execution.create`.
//!
//! A user's container is found again by its labels. When it was last used is the modification time of a file in the run
//! directory, so that a berth that was started anew knows it; where the file is missing, the time begins when berth first
//! looks.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::persistent::{Found, list};
use super::{Docker, Error, body, encode, image};
use crate::backend::{Lease, Request, Waiter, in_use, mark, selection};
use crate::config::{self, NameOf};
use crate::http::Deadline;

/// The directory of the files, in the run directory.
const DIRECTORY: &str = "kept";

/// Says that a container is kept, and for how many milliseconds.
pub(super) const KEEP_LABEL: &str = "berth.keep";

/// A connection's use of its user's container.
pub(super) struct Use {
    file: PathBuf,
    _user: in_use::Use,
}

impl Use {
    /// From here on, reaping leaves the user's container alone. It waits for a removal that is under way.
    pub(super) fn begin(docker: &Docker, request: &Request) -> Use {
        let user = docker.shared.in_use.users.begin(&request.user);
        Use { file: file(&docker.run_directory, &docker.instance, &request.user), _user: user }
    }
}

impl Lease for Use {}

impl Drop for Use {
    fn drop(&mut self) {
        touch(&self.file);
    }
}

/// The user's container, running.
pub(super) fn find_or_create(docker: &Docker, request: &Request, waiter: &dyn Waiter) -> Result<Found, Error> {
    let deadline = Deadline::after(docker.settings.container_start);
    let labels = labels(docker, &request.user);
    let found = match existing(docker, &labels, deadline)? {
        Some(found) => {
            tell_of_changes(docker, request, &found);
            found
        }
        None => create(docker, request, labels, waiter)?,
    };
    if !matches!(found.status(), "created" | "exited") {
        return Ok(found);
    }
    let deadline = Deadline::after(docker.settings.container_start);
    let path = format!("/containers/{}/start", found.id());
    docker.shared.api.call("start the container", "POST", &path, None, deadline)?;
    Found::inspect(docker, found.id(), true, deadline)
}

fn existing(docker: &Docker, labels: &Map<String, Value>, deadline: Deadline) -> Result<Option<Found>, Error> {
    let value = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Not by how long it is kept, which may have been set to another time since.
    let filters = labels.iter().filter(|(name, _)| *name != KEEP_LABEL);
    let mut filters: Vec<String> = filters.map(|(name, text)| format!("{name}={}", value(text))).collect();
    filters.push(KEEP_LABEL.to_owned());
    match list(docker, &filters, deadline)?.first() {
        Some((id, _)) => Found::inspect(docker, id, true, deadline).map(Some),
        None => Ok(None),
    }
}

/// Creates it. Its name is the lock between connections: a daemon has one container of a name.
fn create(docker: &Docker, request: &Request, labels: Map<String, Value>, waiter: &dyn Waiter) -> Result<Found, Error> {
    let (api, settings) = (&docker.shared.api, &docker.settings);
    let (image, platform) = (body::image(settings), settings.platform.as_deref());
    image::resolve(api, settings, settings.image_pull_policy, waiter)?;
    let name = match &settings.persistent.name {
        Some(name) => selection::name_for(request, name, NameOf::Container),
        None => format!("berth-kept-{:016x}", hash(&docker.instance, &request.user)),
    };
    let platform = platform.map_or_else(String::new, |platform| format!("&platform={}", encode(platform)));
    let volume = docker.deliver(settings, image, &platform, &labels)?;
    let path = format!("/containers/create?name={}{platform}", encode(&name));
    let mut all = labels.clone();
    all.insert(mark::MARK.into(), mark::of(&lasting(settings)).into());
    all.insert(body::OLD_USER_LABEL.into(), request.user.as_str().into());
    let body = body::keep(settings, all, &volume, settings.own_idle_command());
    let deadline = Deadline::after(settings.container_start);
    match api.create_container(&name, &path, &body, deadline) {
        // Another connection of the user's was faster, or it is somebody else's.
        Err(error) if error.is_status(409) => existing(docker, &labels, deadline)?.ok_or(error),
        result => {
            result?;
            let filled = docker.fill(&volume, &name, deadline);
            filled.and_then(|()| docker.put_files(&name, &request.metadata, deadline)).or_else(|error| {
                // What runs there would be started without them the next time.
                docker.shared.remove(&name)?;
                Err(error)
            })?;
            log::info!("{}: made container {name} for {:?}", request.connection, request.user);
            Found::inspect(docker, &name, true, deadline)
        }
    }
}

/// The settings that a container has from its creation on, for as long as it is there.
fn lasting(settings: &config::Docker) -> Value {
    let mut container = settings.container.clone();
    // Those of the programs that users start later.
    for key in ["Env", "User", "WorkingDir"] {
        container.remove(key);
    }
    json!(
        [container, settings.host_config, settings.networking_config, settings.platform, settings.own_idle_command(),]
    )
}

/// Says what a container has that was made with other settings.
fn tell_of_changes(docker: &Docker, request: &Request, found: &Found) {
    let settings = &docker.settings;
    if !mark::differs(found.at(&["Config", "Labels", mark::MARK]), &lasting(settings)) {
        return;
    }
    let changed = |(key, value): (&String, &Value)| {
        // The daemon may have its own form of anything else.
        let is_plain = value.is_number() || value.is_boolean() || value.is_string();
        (is_plain && found.at(&["HostConfig", key]) != value).then(|| key.clone())
    };
    let is_image = found.at(&["Config", "Image"]).as_str().is_some_and(|name| is_form_of(name, body::image(settings)));
    let image = (!is_image).then(|| "Image".to_owned());
    let changes: Vec<String> = image.into_iter().chain(settings.host_config.iter().filter_map(changed)).collect();
    let changes = if changes.is_empty() { String::new() } else { format!(" ({})", changes.join(", ")) };
    log::warn!(
        "{}: container {} of {:?} was made with other settings{changes}, and has them until it is removed: by docker rm, \
         or when it was not used for docker.execution.keep",
        request.connection,
        found.name(),
        request.user
    );
}

/// Whether the daemon may call an image so that is called `image` in the settings: Podman puts a registry before it, and a
/// tag behind it.
fn is_form_of(name: &str, image: &str) -> bool {
    [name, name.strip_suffix(":latest").unwrap_or(name)]
        .into_iter()
        .any(|name| name.strip_suffix(image).is_some_and(|before| before.is_empty() || before.ends_with('/')))
}

fn labels(docker: &Docker, user: &str) -> Map<String, Value> {
    let keep = docker.settings.persistent.keep.as_millis().to_string();
    let labels =
        [(body::INSTANCE_LABEL, docker.instance.as_str()), (body::USER_LABEL, user), (KEEP_LABEL, keep.as_str())];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Removes a kept container, given by its id and labels, if its time has come. Whether it did.
pub(super) fn reap(docker: &Docker, id: &str, labels: &Value) -> Result<bool, Error> {
    let label = |name| labels.get(name).and_then(Value::as_str).unwrap_or_default();
    let (user, keep) =
        (label(body::USER_LABEL), label(KEEP_LABEL).parse().map_or(Duration::ZERO, Duration::from_millis));
    let file = file(&docker.run_directory, &docker.instance, user);
    // Nobody may come for it meanwhile.
    let kept = docker.shared.in_use.users.lock();
    if kept.contains_key(user) {
        // So that little is lost if berth is killed.
        touch(&file);
        return Ok(false);
    }
    match fs::metadata(&file).and_then(|metadata| metadata.modified()) {
        // A clock that was set back makes it stay longer.
        Ok(used) if SystemTime::now().duration_since(used).is_ok_and(|unused| unused >= keep) => {
            docker.shared.remove(id)?;
            log::info!("docker: removed the container of {user:?}, unused for {} s", keep.as_secs());
            let _ = fs::remove_file(&file);
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(_) => {
            touch(&file);
            Ok(false)
        }
    }
}

/// The file whose time is that of the last use.
fn file(run_directory: &Path, instance: &str, user: &str) -> PathBuf {
    run_directory.join(DIRECTORY).join(format!("{:016x}", hash(instance, user)))
}

fn hash(instance: &str, user: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (instance, user).hash(&mut hasher);
    hasher.finish()
}

fn touch(path: &Path) {
    let touch = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(path);
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        File::options().write(true).create(true).truncate(false).open(path)?.set_modified(SystemTime::now())
    };
    if let Err(error) = touch() {
        log::warn!("docker: cannot write {}: {error}; how long a container was not used is not known", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::is_form_of;

    #[test]
    fn an_image_has_its_name_in_the_daemons_form() {
        for (name, image, expected) in [
            ("web", "web", true),
            ("web:1", "web:1", true),
            ("localhost/web:latest", "web", true),
            ("docker.io/library/web:1", "web:1", true),
            ("localhost/web:latest", "web:latest", true),
            ("localhost/web:2", "web:1", false),
            ("cobweb:latest", "web", false),
            ("web", "other", false),
        ] {
            assert_eq!(is_form_of(name, image), expected, "{name} {image}");
        }
    }
}
