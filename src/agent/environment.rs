//! The environment of a session's process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::passwd::Entry;

/// What Docker gives a container whose image sets no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// More variables than this a client may not set; `sshd` has the same limit.
const COUNT_LIMIT: usize = 128;

/// Nor more than this in names and values together, in bytes: the kernel takes no longer single string.
const SIZE_LIMIT: usize = 128 * 1024;

/// Variables that were asked for, in order.
#[derive(Debug, Default)]
pub struct Variables {
    list: Vec<(OsString, OsString)>,
    size: usize,
}

impl Variables {
    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(OsString, OsString)> {
        self.list.iter()
    }

    /// Adds one. Whether that was possible: no process can have a name that is empty or holds `=`, nor a NUL.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        let possible = !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.contains(&0);
        if possible {
            self.size += name.len() + value.len();
            self.list.push((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())));
        }
        possible
    }

    /// Adds one that a client asks for, within the limits.
    pub fn add_limited(&mut self, name: &[u8], value: &[u8]) -> bool {
        self.list.len() < COUNT_LIMIT
            && self.size.saturating_add(name.len() + value.len()) <= SIZE_LIMIT
            && self.add(name, value)
    }
}

/// All that decides on an environment, weakest first.
pub struct Sources<'a> {
    /// The container's own: the image's and the `env` of its configuration.
    pub container: Vec<(OsString, OsString)>,
    /// The client's `env` requests.
    pub requested: &'a Variables,
    /// Who the process runs as.
    pub entry: Option<&'a Entry>,
    /// The shell that was found.
    pub shell: Option<&'a OsStr>,
    /// What the server sets for this program.
    pub server: &'a Variables,
    /// The terminal's type and path.
    pub terminal: Option<(&'a OsStr, &'a OsStr)>,
    /// Where the sockets are that lead to the client.
    pub forwarded: Vec<(&'static str, OsString)>,
}

/// The environment as `sshd` would put it together, on top of the container's own.
pub fn build(sources: Sources) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> = sources.container.into_iter().collect();
    if environment.get(OsStr::new("container")).is_some_and(|manager| manager == "podman") {
        // It has a terminal's type for every container, whether that has a terminal or not.
        environment.remove(OsStr::new("TERM"));
    }
    environment.extend(sources.requested.iter().cloned());
    if let Some(entry) = sources.entry {
        environment.insert("USER".into(), entry.name.clone());
        environment.insert("LOGNAME".into(), entry.name.clone());
        environment.insert("HOME".into(), entry.home.clone());
    }
    if let Some(shell) = sources.shell {
        environment.insert("SHELL".into(), shell.into());
    }
    environment.entry("HOME".into()).or_insert_with(|| "/".into());
    environment.entry("PATH".into()).or_insert_with(|| PATH.into());
    environment.extend(sources.server.list.iter().cloned());
    if let Some((term, path)) = sources.terminal {
        if !term.as_bytes().is_empty() {
            environment.insert("TERM".into(), term.into());
        }
        environment.insert("SSH_TTY".into(), path.into());
    }
    environment.extend(sources.forwarded.into_iter().map(|(name, value)| (name.into(), value)));
    environment
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{Entry, Sources, Variables, build};

    #[test]
    fn the_passwd_entry_and_the_server_win_over_the_client_and_the_client_over_the_image() {
        let (mut requested, mut server) = (Variables::default(), Variables::default());
        assert!(requested.add_limited(b"LANG", b"C") && requested.add_limited(b"HOME", b"/x"));
        assert!(requested.add_limited(b"POLICY", b"mine") && server.add(b"POLICY", b"server"));
        let entry = Entry { name: "web".into(), home: "/srv".into(), shell: "/bin/sh".into() };
        let environment = build(Sources {
            container: vec![("LANG".into(), "de".into()), ("HOME".into(), "/root".into()), ("A".into(), "1".into())],
            requested: &requested,
            entry: Some(&entry),
            shell: Some(OsStr::new("/bin/sh")),
            server: &server,
            terminal: Some((OsStr::new("xterm"), OsStr::new("/dev/pts/0"))),
            forwarded: vec![("DISPLAY", "localhost:10.0".into())],
        });
        let all: Vec<_> = environment.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
        let expected = "A=1 DISPLAY=localhost:10.0 HOME=/srv LANG=C LOGNAME=web PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                        POLICY=server SHELL=/bin/sh SSH_TTY=/dev/pts/0 TERM=xterm USER=web";
        assert_eq!(all.join(" "), expected);
    }

    #[test]
    fn a_terminals_type_is_not_podmans_to_say() {
        let none = Variables::default();
        let environment = |container: &[(&str, &str)]| {
            let container = container.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let (requested, server, forwarded) = (&none, &none, Vec::new());
            build(Sources { container, requested, entry: None, shell: None, server, terminal: None, forwarded })
        };
        assert!(!environment(&[("TERM", "xterm"), ("container", "podman")]).contains_key(OsStr::new("TERM")));
        assert!(environment(&[("TERM", "xterm")]).contains_key(OsStr::new("TERM")));
    }

    #[test]
    fn without_a_passwd_entry_the_images_home_stays() {
        let none = Variables::default();
        let sources = |container| Sources {
            container,
            requested: &none,
            entry: None,
            shell: None,
            server: &none,
            terminal: None,
            forwarded: Vec::new(),
        };
        assert_eq!(build(sources(vec![("HOME".into(), "/data".into())]))[OsStr::new("HOME")], "/data");
        assert_eq!(build(sources(Vec::new()))[OsStr::new("HOME")], "/");
    }

    #[test]
    fn variables_that_no_process_can_have_and_too_many_are_refused() {
        let mut variables = Variables::default();
        for (name, value) in [(&b""[..], &b"x"[..]), (b"A=B", b""), (b"A\0", b""), (b"A", b"\0")] {
            assert!(!variables.add_limited(name, value));
        }
        assert!(!variables.add_limited(b"A", &[b'x'; 200_000]));
        for _ in 0..128 {
            assert!(variables.add_limited(b"A", b"x"));
        }
        assert!(!variables.add_limited(b"A", b"x"));
    }
}
