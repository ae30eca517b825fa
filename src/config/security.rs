//! The `security` section: which of a client's requests are granted, in ContainerSSH's modes.

use super::Config;
use super::docker::parse_command;
use super::forwarding::{self, Forwarding};
use super::kind::{Scalar, any_number_of, choice, integer, parsed, text};
use super::reader::{Kind, Reader};
use super::section::Section;
use super::yaml::Node;
use crate::pattern::matches;

/// What is granted of a kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All but what is denied.
    Enable,
    /// Only what is allowed.
    Filter,
    /// Nothing.
    Disable,
}

/// The settings for a kind of request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `mode`; without one it is [`Security::default_mode`].
    pub mode: Option<Mode>,
    /// `allow`: what [`Mode::Filter`] lets through.
    pub allow: Vec<String>,
    /// `deny`: what [`Mode::Enable`] does not let through.
    pub deny: Vec<String>,
}

/// Which requests are granted, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// `defaultMode`; without one all is enabled.
    pub default_mode: Option<Mode>,
    /// `env`: variables, by their names.
    pub env: Filter,
    /// `command`: commands, which must be the same to the letter.
    pub command: Filter,
    /// `shell`
    pub shell: Filter,
    /// `subsystem`: subsystems, by their names.
    pub subsystem: Filter,
    /// `tty`: terminals.
    pub tty: Filter,
    /// `signal`: signals, by their names without SIG.
    pub signal: Filter,
    /// `forceCommand`: runs in place of whatever is granted, and of what a key forces.
    pub force_command: Option<String>,
}

impl Security {
    /// The mode of these settings, if it was given anywhere.
    pub fn mode(&self, filter: &Filter) -> Option<Mode> {
        filter.mode.or(self.default_mode)
    }

    /// Whether a request by this name is granted. One without names has an empty one, which no list holds.
    pub fn grants(&self, filter: &Filter, name: &[u8]) -> bool {
        let is_in = |list: &[String]| list.iter().any(|entry| entry.as_bytes() == name);
        match self.mode(filter).unwrap_or(Mode::Enable) {
            Mode::Enable => !is_in(&filter.deny),
            Mode::Filter => is_in(&filter.allow),
            Mode::Disable => false,
        }
    }

    /// Whether a client may set a variable. Where no mode was given, `accepted` has the patterns of those that it may.
    pub fn grants_variable(&self, accepted: &[String], name: &[u8]) -> bool {
        let is_accepted = || accepted.iter().any(|pattern| matches(pattern.as_bytes(), name));
        self.grants(&self.env, name) && (self.mode(&self.env).is_some() || is_accepted())
    }
}

const MODES: &[(&str, Mode)] = &[("enable", Mode::Enable), ("filter", Mode::Filter), ("disable", Mode::Disable)];

pub(super) fn section() -> Section<Config> {
    let names = || any_number_of(text("a name", |name| !name.is_empty()));
    let mode = || Section::new().key("mode", |filter: &mut Filter| &mut filter.mode, choice(MODES, &[]).optional());
    let allow = |section: Section<Filter>| section.key("allow", |filter| &mut filter.allow, names());
    let deny = |section: Section<Filter>| section.key("deny", |filter| &mut filter.deny, names());
    Section::new()
        .first("defaultMode", DefaultMode(choice(MODES, &[])))
        .key("env", |config: &mut Config| &mut config.security.env, deny(allow(mode())))
        .key("command", |config| &mut config.security.command, allow(mode()))
        .key("shell", |config| &mut config.security.shell, mode())
        .key("subsystem", |config| &mut config.security.subsystem, deny(allow(mode())))
        .key("tty", |config| &mut config.security.tty, mode())
        .key("signal", |config| &mut config.security.signal, deny(allow(mode())))
        .key("forwarding", |config| &mut config.forwarding.everyone, forwarding::section())
        .key("maxSessions", |config| &mut config.ssh.max_sessions, integer(-1..=1_000_000))
        .key("forceCommand", |config| &mut config.security.force_command, parsed("a command", parse_force_command))
}

/// An empty one forces nothing.
fn parse_force_command(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() { Ok(None) } else { parse_command(text).map(Some) }
}

/// `defaultMode`: read before all others. Forwarding has modes, too, and lists of its own.
struct DefaultMode(Scalar<Mode>);

impl Kind<Config> for DefaultMode {
    fn read(&self, node: &Node, target: &mut Config, reader: &mut Reader<'_>) {
        let mut mode = Mode::Enable;
        self.0.read(node, &mut mode, reader);
        target.security.default_mode = Some(mode);
        if mode != Mode::Enable {
            let Forwarding { connect, listen, connect_unix, listen_unix, agent, x11, .. } =
                &mut target.forwarding.everyone;
            for mode in [connect, listen, connect_unix, listen_unix, agent, x11] {
                *mode = false;
            }
        }
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        keys.push(path.to_owned());
    }

    fn schema(&self) -> serde_json::Value {
        self.0.schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(mode: Option<Mode>) -> Filter {
        Filter { mode, allow: vec!["allowed".into()], deny: vec!["denied".into()] }
    }

    /// What of these is granted: "allowed", "other", "denied", "".
    fn granted(default: Option<Mode>, mode: Option<Mode>) -> [bool; 4] {
        let security = Security { default_mode: default, env: filter(mode), ..Security::default() };
        ["allowed", "other", "denied", ""].map(|name| security.grants(&security.env, name.as_bytes()))
    }

    #[test]
    fn each_mode_has_its_list() {
        assert_eq!(granted(None, Some(Mode::Enable)), [true, true, false, true]);
        assert_eq!(granted(None, Some(Mode::Filter)), [true, false, false, false]);
        assert_eq!(granted(None, Some(Mode::Disable)), [false; 4]);
        assert_eq!(granted(None, None), [true, true, false, true]);
    }

    #[test]
    fn the_default_mode_is_for_what_has_none() {
        assert_eq!(granted(Some(Mode::Disable), None), [false; 4]);
        assert_eq!(granted(Some(Mode::Filter), None), [true, false, false, false]);
        assert_eq!(granted(Some(Mode::Disable), Some(Mode::Enable)), [true, true, false, true]);
    }

    #[test]
    fn without_a_mode_variables_are_those_that_are_accepted() {
        let grants = |mode, name: &str| {
            let security = Security { env: filter(mode), ..Security::default() };
            security.grants_variable(&["LC_*".into(), "denied".into()], name.as_bytes())
        };
        assert_eq!([grants(None, "LC_ALL"), grants(None, "other"), grants(None, "denied")], [true, false, false]);
        assert_eq!([grants(Some(Mode::Enable), "other"), grants(Some(Mode::Filter), "LC_ALL")], [true, false]);
    }
}
