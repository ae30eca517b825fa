//! Delivery of the agent: a volume that is filled once and mounted read-only into every container.
//!
//! The volume is named after the agent's content, so that every version of berth has its own. It is filled through a
//! helper container that is created and never started, and whose name is the lock between berth processes: a daemon
//! has one container of a name. A volume counts as filled when the agent's file in it has its whole size and is
//! executable: the daemon writes it from its beginning to its end, and a berth or daemon that was killed meanwhile has
//! left a shorter one.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Error;
use super::api::{Api, encode};
use super::archive::{self, BLOCK, Entry};
use crate::http::{Body, Deadline};

/// Where the volume is mounted.
pub(super) const DIRECTORY: &str = "/.berth/bin";
/// The agent in a container.
pub(super) const PATH: &str = "/.berth/bin/berth";
/// Its name in the volume.
const NAME: &str = "berth";
/// How long another process may take to fill the volume; then it was killed meanwhile. It takes tens of milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried whether that process has finished.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// The agent's binary and its volume.
#[derive(Debug)]
pub(super) struct Agent {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Found out when it is first needed.
    binary: Option<Binary>,
    /// Whether this process has seen the volume filled.
    filled: bool,
}

/// What is known of the binary.
#[derive(Clone, Debug)]
struct Binary {
    volume: String,
    size: u64,
}

impl Agent {
    /// The agent in the file at `path`.
    pub(super) fn new(path: PathBuf) -> Agent {
        Agent { path, state: Mutex::default() }
    }

    /// Sees to it that the volume is there and filled, and returns its name. Only the first call talks to the daemon;
    /// others wait for it. `labels` go on whatever is created.
    pub(super) fn deliver(&self, api: &Api, image: &str, platform: &str, labels: &Value) -> Result<String, Error> {
        let binary = self.binary()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.filled {
            let helper = Helper::create(api, &binary.volume, image, platform, labels)?;
            if !helper.has(binary.size)? {
                log::info!("docker: filling the agent's volume {} with {} bytes", binary.volume, binary.size);
                helper.fill(&self.path, binary.size)?;
            }
            state.filled = true;
        }
        Ok(binary.volume)
    }

    /// The name of the volume.
    pub(super) fn volume(&self) -> Result<String, Error> {
        Ok(self.binary()?.volume)
    }

    /// Copies the agent into a container, as the file `name` in a directory there.
    pub(super) fn copy(
        &self,
        api: &Api,
        container: &str,
        directory: &str,
        name: &str,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let size = self.binary()?.size;
        let file = File::open(&self.path).map_err(|source| Error::Agent { path: self.path.clone(), source })?;
        put(api, "copy the agent into the container", container, directory, name, (&mut &file, size), deadline)
    }

    /// What is known of the binary, which is looked at once.
    fn binary(&self) -> Result<Binary, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.binary {
            Some(binary) => Ok(binary.clone()),
            None => Ok(state.binary.insert(self.examine()?).clone()),
        }
    }

    /// The volume may have been removed behind our back (`docker volume prune`): the next delivery looks again.
    pub(super) fn forget(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).filled = false;
    }

    /// Hashes the binary. SipHash from std will do: nobody gains by a collision who may not write volumes anyway, and
    /// should a later toolchain hash in another way, its binaries are others, too.
    fn examine(&self) -> Result<Binary, Error> {
        let examine = || -> io::Result<Binary> {
            let mut file = File::open(&self.path)?;
            let (mut hasher, mut size, mut buffer) = (DefaultHasher::new(), 0, vec![0; 64 * 1024]);
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => {
                        hasher.write(buffer.get(..n).unwrap_or_default());
                        size += n as u64;
                    }
                }
            }
            Ok(Binary { volume: format!("berth-agent-{:016x}", hasher.finish()), size })
        };
        examine().map_err(|source| Error::Agent { path: self.path.clone(), source })
    }
}

/// The container through which the volume is filled. Removed when dropped.
struct Helper<'a> {
    api: &'a Api,
    name: &'a str,
}

impl<'a> Helper<'a> {
    fn create(api: &'a Api, volume: &'a str, image: &str, platform: &str, labels: &Value) -> Result<Helper<'a>, Error> {
        let body = json!({
            "Image": image,
            "Entrypoint": [PATH],
            "Labels": labels,
            "NetworkDisabled": true,
            "HostConfig": { "NetworkMode": "none", "Mounts": [mount(volume, false)] },
        });
        let patience = Deadline::after(LOCK_TIMEOUT);
        let path = format!("/containers/create?name={volume}{platform}");
        loop {
            let step = "create the container that fills the agent's volume";
            match api.call(step, "POST", &path, Some(&body), api.deadline()) {
                Ok(_) => return Ok(Helper { api, name: volume }),
                Err(e) if e.is_status(409) && patience.has_passed() => {
                    // Its owner was killed. If the removal fails, the next create says why.
                    drop(Helper { api, name: volume });
                    let result = api.call(step, "POST", &path, Some(&body), api.deadline());
                    return result.map(|_| Helper { api, name: volume });
                }
                Err(e) if e.is_status(409) => std::thread::sleep(LOCK_INTERVAL),
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether the volume has the whole agent: `HEAD /containers/{id}/archive`.
    fn has(&self, size: u64) -> Result<bool, Error> {
        let path = format!("/containers/{}/archive?path={}", self.name, encode(PATH));
        let deadline = self.api.deadline();
        match self.api.open("look for the agent in its volume", "HEAD", &path, Body::Empty, deadline) {
            Ok(response) => {
                let stat = response.field("x-docker-container-path-stat").and_then(|text| STANDARD.decode(text).ok());
                let stat: Value = stat.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
                let number = |name| stat.get(name).and_then(Value::as_u64);
                Ok(number("size") == Some(size) && number("mode").is_some_and(|mode| mode & 0o111 == 0o111))
            }
            Err(e) if e.is_status(404) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Fills the volume: `PUT /containers/{id}/archive`.
    fn fill(&self, binary: &Path, size: u64) -> Result<(), Error> {
        const STEP: &str = "fill the agent's volume";
        let file = File::open(binary).map_err(|source| Error::Agent { path: binary.to_owned(), source })?;
        put(self.api, STEP, self.name, DIRECTORY, NAME, (&mut &file, size), self.api.deadline())
    }
}

/// Makes a file of a container's, which no program could be executed to remove, empty.
pub(super) fn empty(api: &Api, container: &str, directory: &str, name: &str) -> Result<(), Error> {
    put(api, "empty the copy of the agent", container, directory, name, (&mut io::empty(), 0), api.deadline())
}

/// Puts a file into a container. `content` is what is in it, and how long that is.
fn put(
    api: &Api,
    step: &'static str,
    container: &str,
    directory: &str,
    name: &str,
    content: (&mut dyn Read, u64),
    deadline: Deadline,
) -> Result<(), Error> {
    let (content, size) = content;
    // A tar: a header, the file padded to whole blocks, and two empty blocks.
    let padding = archive::padding(size) + 2 * BLOCK as u64;
    let header = archive::header(&Entry { path: name, mode: 0o755, owner: (0, 0), size }).unwrap_or([0; BLOCK]);
    let mut tar = header.as_slice().chain(content.take(size)).chain(io::repeat(0).take(padding));
    let length = BLOCK as u64 + size + padding;
    let path = format!("/containers/{}/archive?path={}", encode(container), encode(directory));
    let mut response = api.open(step, "PUT", &path, Body::Stream(&mut tar, Some(length)), deadline)?;
    response.bytes(BLOCK, deadline).map_err(|e| api.failed(step, e))?;
    Ok(())
}

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        let path = format!("/containers/{}?force=true", self.name);
        let step = "remove the container that filled the agent's volume";
        match self.api.call(step, "DELETE", &path, None, self.api.deadline()) {
            Err(e) if !e.is_status(404) => log::warn!("{e}"),
            _ => {}
        }
    }
}

/// The volume as a member of `HostConfig.Mounts`.
pub(super) fn mount(volume: &str, read_only: bool) -> Value {
    json!({
        "Type": "volume",
        "Source": volume,
        "Target": DIRECTORY,
        "ReadOnly": read_only,
        "VolumeOptions": { "NoCopy": true, "Labels": { "berth.volume": "agent" } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_binary_has_another_volume() {
        let path = std::env::temp_dir().join(format!("berth-agent-hash-{}", std::process::id()));
        let volume = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Agent::new(path.clone()).examine().unwrap().volume
        };
        let (one, two) = (volume(b"one"), volume(b"two"));
        assert!(one.starts_with("berth-agent-") && one != two && one == volume(b"one"));
        std::fs::remove_file(&path).unwrap();
    }
}
