//! Signs of life: how servers of one instance know of each other that see the same daemon, and not the same run directory.
//! Each would take the other's containers for what a killed one has left.
//!
//! A server's sign is a volume that nothing is in, which it replaces at every look. One that has not been replaced in some
//! looks was left by a server that was killed. So nobody's clock matters, and every daemon will do.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::body::INSTANCE_LABEL;
use super::{Api, Error, encode};
use crate::{random, run_directory};

/// The label with the server that has made something.
pub(super) const SERVER_LABEL: &str = "berth.server";

/// The label of signs of life.
const SIGN_LABEL: &str = "berth.alive";

/// In so many looks, a server that lives has replaced its sign. It looks as often itself, but may wait for a daemon meanwhile;
/// and it is better to leave something for some minutes than to take what is in use.
const LOOKS: u32 = 10;

/// What a server knows of itself and others.
#[derive(Debug)]
pub(super) struct Signs {
    instance: String,
    run_directory: PathBuf,
    server: OnceLock<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The own sign.
    own: Option<String>,
    /// The others': what each was at the last look, and in how many looks it was that.
    others: HashMap<String, (String, u32)>,
    /// What the log was told last.
    told: Option<Situation>,
}

/// What there is to tell of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    Others,
    Refused,
}

impl Signs {
    pub(super) fn new(instance: String, run_directory: PathBuf) -> Signs {
        Signs { instance, run_directory, server: OnceLock::new(), state: Mutex::default() }
    }

    /// The name of this server among those of its instance.
    pub(super) fn server(&self) -> &str {
        self.server.get_or_init(|| {
            run_directory::server_name(&self.run_directory).unwrap_or_else(|error| {
                log::warn!(
                    "docker: {}: {error}; what a killed berth leaves may stay for some minutes",
                    self.run_directory.display()
                );
                new_name()
            })
        })
    }

    /// Gives a sign of life, and looks for others' that live. A daemon that has no volumes for us is no reason not to reap.
    pub(super) fn look(&self, api: &Api) -> Result<Others, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.exchange(api, &mut state) {
            Ok(()) => {}
            Err(Error::Api { status: 400..=499 | 501, message, .. }) => {
                if state.told.replace(Situation::Refused) != Some(Situation::Refused) {
                    log::warn!(
                        "docker: the daemon takes no volumes ({message}): whether another berth serves as this instance is not known"
                    );
                }
                return Ok(Others::None);
            }
            Err(error) => return Err(error),
        }
        if state.others.is_empty() {
            if state.told.take() == Some(Situation::Others) {
                log::info!("docker: no other berth serves as this instance any more");
            }
            return Ok(Others::None);
        }
        if state.told.replace(Situation::Others) != Some(Situation::Others) {
            log::error!(
                "docker: another berth serves as instance {:?} on this daemon, or did so until it was killed some minutes \
                 ago: only what this one has made is removed until then; give one of them another name (instance)",
                self.instance
            );
        }
        Ok(Others::Live)
    }

    /// Replaces the own sign and looks at the others'.
    fn exchange(&self, api: &Api, state: &mut State) -> Result<(), Error> {
        let sign = format!("berth-alive-{}", new_name());
        let labels = json!({ INSTANCE_LABEL: self.instance, SERVER_LABEL: self.server(), SIGN_LABEL: "" });
        let body = json!({ "Name": sign, "Labels": labels });
        api.call("give a sign of life", "POST", "/volumes/create", Some(&body), api.deadline())?;
        state.own = Some(sign.clone());
        let filters = json!({ "label": [SIGN_LABEL] }).to_string();
        let path = format!("/volumes?filters={}", encode(&filters));
        let list = api.call("look for other servers", "GET", &path, None, api.deadline())?;
        let mut seen = HashMap::new();
        for volume in list.get("Volumes").and_then(Value::as_array).into_iter().flatten() {
            let label = |name| volume.pointer(&format!("/Labels/{name}")).and_then(Value::as_str);
            let (Some(name), Some(server)) = (volume.get("Name").and_then(Value::as_str), label(SERVER_LABEL)) else {
                continue;
            };
            if label(INSTANCE_LABEL) != Some(&self.instance) || label(SIGN_LABEL).is_none() || name == sign {
                continue;
            }
            let looks = match state.others.get(server) {
                Some((known, looks)) if known == name => looks + 1,
                _ => 0,
            };
            if server == self.server() || looks >= LOOKS {
                remove(api, name)?;
            } else {
                seen.insert(server.to_owned(), (name.to_owned(), looks));
            }
        }
        state.others = seen;
        Ok(())
    }

    /// Takes the own sign away.
    pub(super) fn end(&self, api: &Api) {
        if let Some(sign) = self.state.lock().unwrap_or_else(PoisonError::into_inner).own.take()
            && let Err(error) = remove(api, &sign)
        {
            log::warn!("{error}");
        }
    }
}

/// Whether others of the instance live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    None,
    Live,
}

fn remove(api: &Api, sign: &str) -> Result<(), Error> {
    let path = format!("/volumes/{}", encode(sign));
    match api.call("remove a sign of life", "DELETE", &path, None, api.deadline()) {
        Err(error) if !error.is_status(404) => Err(error),
        _ => Ok(()),
    }
}

fn new_name() -> String {
    // Without the kernel's bytes nobody could log in anyway.
    random::name().unwrap_or_default()
}
