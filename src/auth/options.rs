//! The options of an authorized key.

use std::net::IpAddr;

use super::key::KeyLineError;
use super::source::Sources;
use super::{ForwardAddress, Restrictions};
use crate::{clock, pattern};

/// The variables that a key may set, as many as OpenSSH takes: each is compared with those before it.
const MOST_VARIABLES: usize = 1024;

/// Which variables keys may set whose lines the configuration does not hold: sshd_config(5), PermitUserEnvironment. Who
/// writes these lines may be the user, and a variable such as BASH_ENV or LD_PRELOAD is a way around a forced command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEnvironment(Vec<String>);

impl UserEnvironment {
    /// Takes `yes`, `no`, or patterns separated by commas, of which `!` negates one.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let is_pattern = |pattern: &str| {
            let pattern = pattern.strip_prefix('!').unwrap_or(pattern);
            !pattern.is_empty() && pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_*?".contains(&byte))
        };
        match text {
            "no" | "false" => Ok(UserEnvironment::default()),
            "yes" | "true" => Ok(UserEnvironment(vec!["*".into()])),
            list if list.split(',').all(is_pattern) => {
                Ok(UserEnvironment(list.split(',').map(str::to_owned).collect()))
            }
            _ => Err("must be yes, no, or names of variables separated by commas, with *, ? and !"),
        }
    }

    /// Whether keys may set this variable.
    pub fn permits(&self, name: &str) -> bool {
        let is_in = |negated: bool| {
            let patterns = self.0.iter().map(|entry| entry.strip_prefix('!').map_or((false, &**entry), |p| (true, p)));
            let mut wanted = patterns.filter(|(is_negated, _)| *is_negated == negated);
            wanted.any(|(_, pattern)| pattern::matches(pattern.as_bytes(), name.as_bytes()))
        };
        is_in(false) && !is_in(true)
    }
}

/// The options of a line of authorized keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// What the key's user is held to.
    pub restrictions: Restrictions,
    /// `from=`
    pub from: Option<Sources>,
    /// `expiry-time=`, in seconds since 1970.
    pub expires: Option<i64>,
    /// `cert-authority`: the key signs certificates, and lets nobody in by itself.
    pub cert_authority: bool,
    /// `principals=`: whose certificates count, in place of those of the user's own name.
    pub principals: Option<Vec<String>>,
}

impl Options {
    /// Takes the options as they stand before the key: separated by commas, names without regard to case.
    pub(super) fn parse(text: &str) -> Result<Self, KeyLineError> {
        let mut options = Options::default();
        let mut rest = text;
        loop {
            let end = rest.find([',', '=']).unwrap_or(rest.len());
            let has_value = rest[end..].starts_with('=');
            let (name, after) = rest.split_at(if has_value { end + 1 } else { end });
            let name = name.to_ascii_lowercase();
            let (value, after) = if has_value {
                unquote(after).map_err(|reason| KeyLineError::option(&name, reason))?
            } else {
                (String::new(), after)
            };
            // Like sshd, this passes over an option of no characters.
            if !name.is_empty() {
                options.set(&name, value)?;
            }
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(options),
                None => return Err(KeyLineError::option(&name, "a comma must follow the value")),
            }
        }
    }

    /// Whether they let in a client with this address at the time `now`, in seconds since 1970; or why not.
    pub(super) fn admit(&self, client: IpAddr, now: i64) -> Result<(), &'static str> {
        if self.expires.is_some_and(|time| time < now) {
            return Err("it has expired");
        }
        if self.from.as_ref().is_some_and(|sources| !sources.allow(client)) {
            return Err("its from= does not allow the address");
        }
        Ok(())
    }

    /// Takes one option. The name of one with a value ends in `=`.
    fn set(&mut self, name: &str, value: String) -> Result<(), KeyLineError> {
        let restrictions = &mut self.restrictions;
        let result = match name {
            "restrict" => {
                restrictions.no_pty = true;
                restrictions.no_port_forwarding = true;
                restrictions.no_agent_forwarding = true;
                restrictions.no_x11_forwarding = true;
                Ok(())
            }
            "pty" | "no-pty" => switch(&mut restrictions.no_pty, name),
            "port-forwarding" | "no-port-forwarding" => switch(&mut restrictions.no_port_forwarding, name),
            "agent-forwarding" | "no-agent-forwarding" => switch(&mut restrictions.no_agent_forwarding, name),
            "x11-forwarding" | "no-x11-forwarding" => switch(&mut restrictions.no_x11_forwarding, name),
            "touch-required" | "no-touch-required" => switch(&mut restrictions.no_touch_required, name),
            "verify-required" | "no-verify-required" => {
                restrictions.verify_required = name == "verify-required";
                Ok(())
            }
            // Nothing here runs ~/.ssh/rc.
            "user-rc" | "no-user-rc" => Ok(()),
            "command=" => set_once(&mut restrictions.command, value),
            "from=" => Sources::parse(&value).and_then(|list| set_once(&mut self.from, list)),
            "expiry-time=" => match clock::parse(&value) {
                Some(time) => {
                    // Of several, the earliest one holds.
                    self.expires = Some(self.expires.map_or(time, |other| other.min(time)));
                    Ok(())
                }
                None => Err("a time must be YYYYMMDD[HHMM[SS]][Z]"),
            },
            "environment=" if restrictions.environment.len() >= MOST_VARIABLES => Err("too many variables"),
            "environment=" => match value.split_once('=') {
                Some((variable, value)) if is_variable(variable) => {
                    // Of several for one variable, the first one holds.
                    if !restrictions.environment.iter().any(|(other, _)| other == variable) {
                        restrictions.environment.push((variable.to_owned(), value.to_owned()));
                    }
                    Ok(())
                }
                _ => Err("a variable must be NAME=VALUE, with a name of letters, digits and '_'"),
            },
            "permitopen=" => match ForwardAddress::parse(&value) {
                Some(address) => push(&mut restrictions.permit_open, address),
                None => Err("a destination must be HOST:PORT, where '*' stands for any"),
            },
            "permitlisten=" => match ForwardAddress::parse_listener(&value) {
                Some(address) => push(&mut restrictions.permit_listen, address),
                None => Err("a listener must be [HOST:]PORT, where '*' stands for any"),
            },
            "cert-authority" => {
                self.cert_authority = true;
                Ok(())
            }
            "principals=" if value.is_empty() => Err("it names nobody"),
            "principals=" => set_once(&mut self.principals, value.split(',').map(str::to_owned).collect()),
            "tunnel=" => Err("there are no tunnel devices"),
            _ => Err("there is no such option"),
        };
        result.map_err(|reason| KeyLineError::option(name, reason))
    }
}

/// Reads a value in double quotes, in which `\"` stands for a quote and nothing else is special. Gives what follows it
/// too.
fn unquote(text: &str) -> Result<(String, &str), &'static str> {
    let mut rest = text.strip_prefix('"').ok_or("a value must be in double quotes")?;
    let mut value = String::new();
    loop {
        let end = rest.find('"').ok_or("the closing quote is missing")?;
        let (part, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        match part.strip_suffix('\\') {
            Some(part) => {
                value.push_str(part);
                value.push('"');
            }
            None => {
                value.push_str(part);
                return Ok((value, rest));
            }
        }
    }
}

fn switch(forbidden: &mut bool, name: &str) -> Result<(), &'static str> {
    *forbidden = name.starts_with("no-");
    Ok(())
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("given twice"),
    }
}

fn push<T>(list: &mut Option<Vec<T>>, item: T) -> Result<(), &'static str> {
    list.get_or_insert_default().push(item);
    Ok(())
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Options, UserEnvironment, unquote};
    use crate::auth::key::KeyLineError;
    use crate::auth::{ForwardAddress, Restrictions};

    fn restrictions(text: &str) -> Restrictions {
        Options::parse(text).unwrap().restrictions
    }

    fn reason(text: &str) -> &'static str {
        match Options::parse(text).unwrap_err() {
            KeyLineError::Option(_, reason) => reason,
            other => panic!("{text}: {other}"),
        }
    }

    #[test]
    fn restrict_forbids_all_and_a_later_option_allows_again() {
        let all = Restrictions {
            no_pty: true,
            no_port_forwarding: true,
            no_agent_forwarding: true,
            no_x11_forwarding: true,
            ..Restrictions::default()
        };
        assert_eq!(restrictions("restrict"), all);
        assert_eq!(restrictions("no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding"), all);
        assert_eq!(restrictions("restrict,pty"), Restrictions { no_pty: false, ..all.clone() });
        assert_eq!(restrictions("pty,restrict"), all);
        assert_eq!(
            restrictions("RESTRICT,Port-Forwarding,agent-forwarding,x11-forwarding,user-rc"),
            Restrictions { no_pty: true, ..Restrictions::default() }
        );
        assert_eq!(restrictions("no-user-rc,,"), Restrictions::default());
    }

    #[test]
    fn values_are_kept_as_they_are_written() {
        let text = r#"command="echo \"a,b\" \n\\ ",environment="A=1=2",Environment="B=",environment="A=3""#;
        let restrictions = restrictions(text);
        assert_eq!(restrictions.command.unwrap(), r#"echo "a,b" \n\\ "#);
        assert_eq!(restrictions.environment, [("A".into(), "1=2".into()), ("B".into(), String::new())]);
    }

    #[test]
    fn keys_may_set_what_is_permitted_and_not_negated() {
        let permitted = |text: &str| {
            let permitted = UserEnvironment::parse(text).unwrap();
            ["LANG", "LC_ALL", "LC_X", "BASH_ENV"].map(|name| permitted.permits(name))
        };
        assert_eq!(permitted("no"), [false; 4]);
        assert_eq!(permitted("yes"), [true; 4]);
        assert_eq!(permitted("LANG,LC_*"), [true, true, true, false]);
        assert_eq!(permitted("!LC_X,L*"), [true, true, false, false]);
        assert_eq!(permitted("!LC_X"), [false; 4]);
        for text in ["", ",", "A,,B", "A B", "A=B", "!"] {
            assert!(UserEnvironment::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn there_are_no_more_variables_than_opensshs() {
        let variables =
            |count: usize| (0..count).map(|number| format!("environment=\"V{number}=\",")).collect::<String>();
        assert_eq!(restrictions(&variables(1024)).environment.len(), 1024);
        assert_eq!(reason(&variables(1025)), "too many variables");
    }

    #[test]
    fn forwardings_are_limited_to_addresses() {
        let address = |host: Option<&str>, port| ForwardAddress { host: host.map(str::to_owned), port };
        let restrictions = restrictions(
            r#"permitopen="db:5432",permitopen="[::1]:*",permitopen="*:80",permitlisten="8080",permitlisten="localhost:*""#,
        );
        let (open, listen) = (restrictions.permit_open.unwrap(), restrictions.permit_listen.unwrap());
        assert_eq!(open, [address(Some("db"), Some(5432)), address(Some("::1"), None), address(None, Some(80))]);
        assert_eq!(listen, [address(None, Some(8080)), address(Some("localhost"), None)]);
        for text in [r#"permitopen="80""#, r#"permitopen="h:0""#, r#"permitopen="::1:80""#, r#"permitlisten="h:ssh""#] {
            reason(text);
        }
    }

    #[test]
    fn of_touch_and_verification_the_last_word_holds() {
        let options = |text: &str| {
            let restrictions = restrictions(text);
            (restrictions.no_touch_required, restrictions.verify_required)
        };
        assert_eq!(options("restrict"), (false, false));
        assert_eq!(options("no-touch-required,Verify-Required"), (true, true));
        assert_eq!(options("no-touch-required,verify-required,touch-required,no-verify-required"), (false, false));
    }

    #[test]
    fn of_several_expiry_times_the_earliest_holds() {
        let options = Options::parse(r#"expiry-time="20300101Z",expiry-time="19700102Z""#).unwrap();
        assert_eq!(options.expires, Some(86400));
        reason(r#"expiry-time="tomorrow""#);
    }

    #[test]
    fn what_cannot_be_taken_is_an_error_with_a_reason() {
        for (text, expected) in [
            ("no-ptty", "there is no such option"),
            ("no-restrict", "there is no such option"),
            ("pty=\"\"", "there is no such option"),
            ("command", "there is no such option"),
            ("command=date", "a value must be in double quotes"),
            ("command=\"date", "the closing quote is missing"),
            ("command=\"a\"b", "a comma must follow the value"),
            ("command=\"a\",command=\"b\"", "given twice"),
            ("from=\"::1\",from=\"::1\"", "given twice"),
            ("from=\"10.0.0.1/8\"", "a network's address goes on behind its prefix"),
            ("environment=\"A-B=1\"", "a variable must be NAME=VALUE, with a name of letters, digits and '_'"),
            ("cert-authority=\"yes\"", "there is no such option"),
            ("principals=\"\"", "it names nobody"),
            ("principals=\"a\",principals=\"b\"", "given twice"),
            ("tunnel=\"0\"", "there are no tunnel devices"),
        ] {
            assert_eq!(reason(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_read_back(value in "\\PC*", after in "\\PC*") {
            // A backslash before the closing quote would make it part of the value: it cannot be written.
            prop_assume!(!value.ends_with('\\') && !value.contains("\\\""));
            let text = format!("\"{}\"{after}", value.replace('"', "\\\""));
            prop_assert_eq!(unquote(&text), Ok((value, after.as_str())));
        }

        #[test]
        fn no_options_panic(text in "((restrict|no-pty|command|from|expiry-time|environment|permitopen|permitlisten|[=,\"\\\\!/:*]|\\PC)*)") {
            let _ = Options::parse(&text);
        }
    }
}
