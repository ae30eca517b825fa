//! Forwarding: sockets of the container behind channels.
//!
//! It runs two ways, which differ in who opens the channel:
//!
//! - The client opens one for a connection that the agent is to make (`ssh -L`, `-D`, `-W`, `-J`): `connect`, after
//!   `resolve` has found the addresses of a name. The channel is confirmed once there is a connection.
//! - The agent opens one for a connection that it has accepted. `listeners` has all sockets that it listens on: those
//!   that global requests asked for (`ssh -R`), and those of a session (`-A`, `-X`), which go with it. The connection
//!   is not read before the client has confirmed the channel.
//!
//! Either way, what is behind an open channel is a connected socket, and `channel` moves its bytes. Whether any of this
//! is allowed the server decides before the agent hears of it.

mod bind;
mod connect;
mod listeners;
mod resolve;
pub(super) mod x11;
pub(super) mod xauthority;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

pub use connect::{Connecting, Step, connect_unix};
pub use listeners::Listeners;
pub use resolve::Resolver;

use crate::connection::wire::{Malformed, Reader};
use x11::Display;

/// What leads from a session's programs to its client.
#[derive(Debug, Default)]
pub struct Forwarded {
    /// The socket of the client's authentication agent.
    agent: Option<PathBuf>,
    /// The client's X display.
    display: Option<Display>,
}

impl Forwarded {
    /// `auth-agent-req@openssh.com`: a socket for this session's programs. Once.
    pub fn authentication_agent(&mut self, listeners: &mut Listeners, session: u32) -> bool {
        if self.agent.is_none() {
            self.agent = listeners.authentication_agent(session);
            return self.agent.is_some();
        }
        false
    }

    /// `x11-req`, RFC 4254 section 6.3.1: a display for this session's programs. Once.
    pub fn x11(&mut self, fields: &mut Reader, listeners: &mut Listeners, session: u32) -> Result<bool, Malformed> {
        let request = x11::Request::decode(fields)?;
        if self.display.is_none()
            && let Some(cookie) = request.cookie()
            && let Some(number) = listeners.x11(session, request.single_connection)
        {
            self.display = Some(Display { number, screen: request.screen, cookie });
            return Ok(true);
        }
        Ok(false)
    }

    /// Where programs find it all.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let agent = self.agent.as_ref().map(|path| ("SSH_AUTH_SOCK", path.into()));
        let display = self.display.as_ref().map(|display| ("DISPLAY", display.name().into()));
        agent.into_iter().chain(display).collect()
    }

    /// Leaves the display's cookie where a program with this environment looks for it. Where that fails the program
    /// runs all the same, and learns from the X server that it is not let in.
    pub fn prepare(&self, environment: &BTreeMap<OsString, OsString>) {
        let Some(display) = &self.display else { return };
        let file = match (environment.get(OsStr::new("XAUTHORITY")), environment.get(OsStr::new("HOME"))) {
            (Some(file), _) => PathBuf::from(file),
            (None, Some(home)) => Path::new(home).join(".Xauthority"),
            (None, None) => return,
        };
        if let Err(error) = xauthority::add(&file, &display.authorization()) {
            log::warn!("{}: {error}; X11 programs of this session will not be let in", file.display());
        }
    }
}
