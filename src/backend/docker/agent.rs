//! Delivery of the agent: a volume that is filled once and mounted read-only into every container.
//!
//! The volume is named after the agent's content, so that every version of berth has its own. It is filled through a
//! helper container that is created and never started, and whose name is the lock between berth processes: a daemon
//! has one container of a name. What runs from it is the init of every user's container: so its content is read back and
//! compared by its SHA-256, when it is first needed and every now and then. A berth or daemon that was killed meanwhile
//! has left a shorter one; anything else that differs was written by somebody.
//!
//! Whoever could write to it all the same, with privileges by which a volume can be mounted anew, does not get this one:
//! such a container has the agent in an anonymous volume of its own, which goes with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::sha::Sha256;
use serde_json::{Value, json};

use super::Error;
use super::api::{Api, encode};
use super::archive::{self, BLOCK, Entry, Header};
use crate::hex;
use crate::http::{self, Body, Deadline, Response};

/// Where the volume is mounted.
pub(super) const DIRECTORY: &str = "/.berth/bin";
/// The agent in a container.
pub(super) const PATH: &str = "/.berth/bin/berth";
/// Its name in the volume.
const NAME: &str = "berth";
/// How long another process may take to fill the volume; then it was killed meanwhile. It takes tens of milliseconds, but on
/// a busy machine seconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long all that come before may take.
const LOCK_END: Duration = Duration::from_secs(120);
/// How long the volume's content is trusted to be what it was. It takes some tens of milliseconds to look.
const TRUST: Duration = Duration::from_secs(600);
/// The longest extended header in an archive, in bytes.
const LONGEST_HEADER: u64 = 64 * 1024;
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
    /// Where this process has seen the volume filled: how, and when last.
    filled: Option<Filled>,
}

/// What a helper was created with.
#[derive(Clone, Debug)]
struct Filled {
    image: String,
    platform: String,
    labels: Value,
    seen: Instant,
}

/// What a container has the agent in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Volume {
    /// The one of this name, which all share.
    Shared(String),
    /// An anonymous one of its own, which is filled when the container has been created.
    Own,
}

/// What is in the shared volume.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Missing,
    /// This berth's agent.
    Agent,
    /// Something else.
    Other,
}

/// What is known of the binary.
#[derive(Clone, Debug)]
struct Binary {
    volume: String,
    size: u64,
    hash: [u8; 32],
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
        if state.filled.is_none() {
            self.fill(api, &binary, image, platform, labels)?;
            let (image, platform, labels) = (image.to_owned(), platform.to_owned(), labels.clone());
            state.filled = Some(Filled { image, platform, labels, seen: Instant::now() });
        }
        Ok(binary.volume)
    }

    /// Looks at the volume again, where it was filled and nobody has looked for long. What is wrong is mended, and in the
    /// log.
    pub(super) fn recheck(&self, api: &Api) -> Result<(), Error> {
        let binary = self.binary()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(filled) = state.filled.take_if(|filled| filled.seen.elapsed() >= TRUST) else { return Ok(()) };
        match self.fill(api, &binary, &filled.image, &filled.platform, &filled.labels) {
            Ok(()) => state.filled = Some(Filled { seen: Instant::now(), ..filled }),
            // The image is gone, and the next delivery knows another.
            Err(error) if error.is_status(404) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn fill(&self, api: &Api, binary: &Binary, image: &str, platform: &str, labels: &Value) -> Result<(), Error> {
        let (volume, size) = (&binary.volume, binary.size);
        let helper = Helper::create(api, volume, image, platform, labels)?;
        match helper.content(binary)? {
            Content::Agent => return Ok(()),
            Content::Missing => log::info!("docker: filling the agent's volume {volume} with {size} bytes"),
            Content::Other => log::error!(
                "docker: what is in the agent's volume {volume} is not this berth's agent: it was filled in part, or \
                 somebody has written to it, whose program users' containers may have run; it is filled again"
            ),
        }
        helper.fill(&self.path, size)
    }

    /// The name of the volume.
    pub(super) fn volume(&self) -> Result<String, Error> {
        Ok(self.binary()?.volume)
    }

    /// Fills a container's own volume.
    pub(super) fn fill_own(&self, api: &Api, container: &str, deadline: Deadline) -> Result<(), Error> {
        self.copy(api, container, DIRECTORY, NAME, deadline)
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner).filled = None;
    }

    /// Hashes the binary.
    fn examine(&self) -> Result<Binary, Error> {
        let examine = || -> io::Result<Binary> {
            let mut file = File::open(&self.path)?;
            let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 64 * 1024]);
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => {
                        hasher.update(buffer.get(..n).unwrap_or_default());
                        size += n as u64;
                    }
                }
            }
            let hash = hasher.finish();
            let name = hex::encode(&hash[..16]);
            Ok(Binary { volume: format!("berth-agent-{name}"), size, hash })
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
            "HostConfig": { "NetworkMode": "none", "Mounts": [named(volume, false)] },
        });
        let path = format!("/containers/create?name={volume}{platform}");
        let end = Deadline::after(LOCK_END);
        let (mut patience, mut conflict) = (Deadline::after(LOCK_TIMEOUT), String::new());
        loop {
            let step = "create the container that fills the agent's volume";
            match api.call(step, "POST", &path, Some(&body), api.deadline()) {
                Ok(_) => return Ok(Helper { api, name: volume }),
                Err(Error::Api { status: 409, message, .. }) if !end.has_passed() => {
                    if message != conflict {
                        // It names the container that has the name: another one than before.
                        (patience, conflict) = (Deadline::after(LOCK_TIMEOUT), message);
                    } else if patience.has_passed() {
                        // Its owner was killed. If the removal fails, the next create says why.
                        drop(Helper { api, name: volume });
                    }
                    std::thread::sleep(LOCK_INTERVAL);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// What the volume has in the agent's place: `GET /containers/{id}/archive`.
    fn content(&self, binary: &Binary) -> Result<Content, Error> {
        const STEP: &str = "read the agent in its volume";
        let path = format!("/containers/{}/archive?path={}", self.name, encode(PATH));
        let deadline = self.api.deadline();
        match self.api.open(STEP, "GET", &path, Body::Empty, deadline) {
            Ok(response) => {
                let mut archive = Archive { response, deadline };
                let is_agent = archive.holds(binary).map_err(|error| self.api.failed(STEP, error))?;
                Ok(if is_agent { Content::Agent } else { Content::Other })
            }
            Err(e) if e.is_status(404) => Ok(Content::Missing),
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

/// A file in an archive, as the daemon sends it.
struct Archive {
    response: Response,
    deadline: Deadline,
}

impl Archive {
    /// Whether the file is the agent: executable, of its size, and with its content.
    fn holds(&mut self, binary: &Binary) -> Result<bool, http::Error> {
        let mut header = [0; BLOCK];
        loop {
            if !self.fill(&mut header)? {
                return Ok(false);
            }
            match archive::read_header(&header) {
                Some(Header { kind: b'0' | 0, mode, size }) => {
                    return Ok(size == binary.size && mode & 0o111 == 0o111 && self.hash(size)? == Some(binary.hash));
                }
                // What more is to be said of the file.
                Some(Header { kind: b'x' | b'g', size, .. }) if size <= LONGEST_HEADER => {
                    let mut more = vec![0; usize::try_from(size + archive::padding(size)).unwrap_or(0)];
                    if !self.fill(&mut more)? {
                        return Ok(false);
                    }
                }
                // A link, for example.
                _ => return Ok(false),
            }
        }
    }

    /// The hash of so many bytes; none where there are fewer.
    fn hash(&mut self, size: u64) -> Result<Option<[u8; 32]>, http::Error> {
        let (mut hasher, mut rest, mut buffer) = (Sha256::new(), size, vec![0; 64 * 1024]);
        while rest > 0 {
            let most = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.response.read(&mut buffer[..most], self.deadline)?;
            if count == 0 {
                return Ok(None);
            }
            hasher.update(&buffer[..count]);
            rest -= count as u64;
        }
        Ok(Some(hasher.finish()))
    }

    /// Whether there were as many bytes.
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<bool, http::Error> {
        while !buffer.is_empty() {
            match self.response.read(buffer, self.deadline)? {
                0 => return Ok(false),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(true)
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

/// A volume as a member of `HostConfig.Mounts`.
pub(super) fn mount(volume: &Volume) -> Value {
    match volume {
        Volume::Shared(name) => named(name, true),
        // The daemon puts nothing into what is read-only.
        Volume::Own => json!({ "Type": "volume", "Target": DIRECTORY, "VolumeOptions": { "NoCopy": true } }),
    }
}

fn named(volume: &str, read_only: bool) -> Value {
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
