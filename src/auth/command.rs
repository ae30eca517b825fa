//! Programs that print authorized keys: sshd_config(5), AuthorizedKeysCommand.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::file::{self, FileError, LONGEST, WRITABLE_BY_OTHERS};
use super::key::AuthorizedKey;
use super::public_key::fingerprint;
use super::{Offer, Presence, token};
use crate::connection::wire::Reader;
use crate::program;
use crate::strict_modes::{self, own_user};

/// The tokens that arguments may have: the user's name, and of the offered key its base64, type and fingerprint.
pub const COMMAND_TOKENS: &str = "uktf";

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The permission of anybody to execute a file.
const EXECUTABLE: u32 = 0o111;

/// Where programs that it starts are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Has a program say which keys are good for a user, and gives each to `check`, in order, until it gives something.
/// `words` are the program and its arguments; without arguments it is given the user's name. It runs as `account`, or else
/// as whoever berth runs as. What goes wrong is logged.
pub(super) fn keys<T>(
    words: &[String],
    account: Option<&str>,
    user: &str,
    (offer, presence): (&Offer, &Presence),
    check: impl FnMut(AuthorizedKey) -> Option<T>,
) -> Option<T> {
    let (path, arguments) = words.split_first()?;
    match print(Path::new(path), arguments, account, user, offer, presence) {
        Ok(text) => file::lines(&text, Path::new(path), AuthorizedKey::parse).find_map(check),
        Err(error) => {
            log::error!("authorized keys of {user:?}: {path}: {error}");
            None
        }
    }
}

/// Whether a program is there, and nobody else could put another one in its place.
pub(super) fn verify(path: &Path) -> Result<(), String> {
    strict_modes::verify(path, None).map_err(|error| error.to_string())?;
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(FileError::Writable(metadata.mode() & 0o7777).to_string());
    }
    if !metadata.is_file() || metadata.mode() & EXECUTABLE == 0 {
        return Err("not a program: it is no file that may be executed".to_owned());
    }
    Ok(())
}

fn print(
    path: &Path,
    arguments: &[String],
    account: Option<&str>,
    user: &str,
    offer: &Offer,
    presence: &Presence,
) -> Result<Vec<u8>, String> {
    // It may take the name for an option, or for part of a path.
    if user.starts_with('-') || user.contains(char::is_control) || !file::is_plain(user) {
        return Err(FileError::Name.to_string());
    }
    verify(path)?;
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PATH).current_dir("/");
    if let Some(account) = account {
        let (uid, gid) = ids_of(account)?;
        // Where it is another one, its further groups are left behind, too.
        if uid != own_user() {
            command.uid(uid).gid(gid);
        }
    }
    match arguments {
        [] => command.arg(user),
        arguments => {
            let value = |letter| value(letter, user, offer);
            let expanded: Result<Vec<_>, _> = arguments.iter().map(|text| token::expand(text, value)).collect();
            command.args(expanded?)
        }
    };
    // The file has as much.
    let limit = usize::try_from(LONGEST).unwrap_or(usize::MAX);
    let is_wanted = || presence.is_there();
    program::run(command, limit, PATIENCE, &is_wanted).map(|(text, _complaint)| text).map_err(|error| error.to_string())
}

/// What a token stands for.
fn value(letter: char, user: &str, offer: &Offer) -> Option<String> {
    Some(match letter {
        'u' => user.to_owned(),
        'k' => STANDARD.encode(offer.blob()),
        't' => String::from_utf8_lossy(Reader::new(offer.blob()).string().ok()?).into_owned(),
        'f' => fingerprint(offer.key.blob()),
        _ => return None,
    })
}

/// The numbers of an account and its group, by /etc/passwd: the static binary has no other name services.
pub(super) fn ids_of(account: &str) -> Result<(u32, u32), String> {
    let text = file::read(Path::new("/etc/passwd"), LONGEST).map_err(|error| format!("/etc/passwd: {error}"))?;
    let find = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (name == account).then_some(())?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    };
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(find).ok_or_else(|| format!("there is no user {account:?} in /etc/passwd"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::key::tests::{line, offer};
    use super::{Presence, ids_of, keys, value};

    /// What a shell script prints, of how many lines that are keys.
    fn count(script: &str, user: &str) -> usize {
        let mut count = 0;
        let words = ["/bin/sh", "-c", script, "sh", "%u"].map(str::to_owned);
        let client = Arc::default();
        keys(&words, None, user, (&offer(line()), &Presence::of(&client)), |_| -> Option<()> {
            count += 1;
            None
        });
        count
    }

    #[test]
    fn the_usable_lines_that_are_printed_are_taken() {
        let echo = format!("printf '%%s\\n' '# comment' nonsense 'no-pty {0}' '{0}'", line());
        assert_eq!(count(&echo, "alice"), 2);
        // Not what was printed by one that failed.
        assert_eq!(count(&format!("{echo}; exit 1"), "alice"), 0);
        assert_eq!(count("yes", "alice"), 0);
    }

    #[test]
    fn it_has_little_environment() {
        let only = format!("[ $(env | grep -vc '^PWD=\\|^_=\\|^SHLVL=') = 1 ] && echo '{}'", line());
        assert_eq!(count(&only, "alice"), 1);
    }

    #[test]
    fn names_that_could_be_taken_for_something_else_are_not_given_to_it() {
        let echo = format!("[ \"$1\" ] && echo '{}'", line());
        assert_eq!(count(&echo, "al.ice"), 1);
        for user in ["", "-rf", "a/b", "..", ".ssh", "a\0b", "a\nb", "\x1b[2J"] {
            assert_eq!(count(&echo, user), 0, "{user:?}");
        }
        // No shell is between.
        let (script, user) = (format!("[ \"$1\" = '$(id) %%k;' ] && echo '{}'", line()), "$(id) %k;");
        assert_eq!(count(&script, user), 1);
    }

    #[test]
    fn tokens_tell_of_the_key() {
        let offer = offer(line());
        let mut fields = line().split(' ');
        assert_eq!(value('t', "alice", &offer).as_deref(), fields.next());
        assert_eq!(value('k', "alice", &offer).as_deref(), fields.next());
        assert!(value('f', "alice", &offer).unwrap().starts_with("SHA256:"));
        assert_eq!(value('h', "alice", &offer), None);
    }

    #[test]
    fn accounts_are_found_in_the_passwd_file() {
        assert_eq!(ids_of("root"), Ok((0, 0)));
        assert!(ids_of("no-such-user").unwrap_err().contains("no user"));
    }
}
