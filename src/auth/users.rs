//! The users of the configuration file.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::account::Login;
use super::by_name::{ByName, is_pattern};
use super::password::PasswordHash;
use super::{
    Attempt, Authenticator, Busy, Grant, MethodList, Methods, Offer, Presence, Requirements, Restrictions, StrictModes,
    User, UserEnvironment, methods,
};

/// Users by name.
///
/// How long a check takes must not tell whether a user exists. So in place of a user who does not exist, or has no
/// password, another one of the configuration is checked, and the result dropped: the same one for the same name each
/// time, and every one as likely as any other. Where hashes differ in kind or cost, names without a user are thus as
/// slow as those of users are, in the same proportions. One stand-in for all, even the costliest, would mark everybody
/// whose hash differs from it as existing.
pub struct Users {
    users: ByName<User>,
    /// The places of those who have a password.
    with_password: Vec<usize>,
    /// What is asked of users who have nothing of their own for it, where that is said.
    methods: Vec<MethodList>,
    /// By what anybody may begin.
    first_methods: String,
    /// Files of authorities whose certificates are good for all.
    authorities: Vec<PathBuf>,
    /// `permitUserEnvironment`
    user_environment: UserEnvironment,
    /// `strictModes`
    strict_modes: StrictModes,
    /// Makes the choice of a stand-in one that only the server can foretell, and the same after a restart.
    secret: u64,
}

impl Users {
    /// An authenticator for these users, by name or pattern, and for certificates by these authorities (`trustedUserCAKeys`).
    /// All have to prove one of these lists, unless they have their own.
    pub fn new(users: BTreeMap<String, User>, authorities: Vec<PathBuf>, methods: &[MethodList]) -> Self {
        let users = ByName::new(users);
        let entries = users.entries();
        let with_password = (0..entries.len()).filter(|&place| entries[place].1.password.is_some()).collect();
        let mut hasher = DefaultHasher::new();
        for (name, user) in entries {
            name.hash(&mut hasher);
            user.password.as_ref().map(ToString::to_string).hash(&mut hasher);
        }
        let of_users = entries.iter().map(|(_, user)| Methods::of(user, methods));
        let all: Vec<Methods> = of_users.chain([Methods::new(methods)]).collect();
        let first_methods = methods::names(&mut all.iter().flat_map(Methods::next));
        Users {
            users,
            with_password,
            methods: methods.to_vec(),
            first_methods,
            authorities,
            user_environment: UserEnvironment::default(),
            strict_modes: StrictModes::default(),
            secret: hasher.finish(),
        }
    }

    /// The same with keys that may set these variables, by lines that the configuration does not hold.
    pub fn permit(self, user_environment: UserEnvironment) -> Self {
        Users { user_environment, ..self }
    }

    /// The same with files of keys, principals and authorities that these may be able to replace.
    pub fn trust(self, strict_modes: StrictModes) -> Self {
        Users { strict_modes, ..self }
    }

    /// The user whose name differs from this one by case alone, where nobody has this one.
    pub fn namesake(&self, name: &str) -> Option<&str> {
        self.users.namesake(name)
    }

    /// Chooses one of `count` for a name.
    fn choose(&self, name: &str, count: usize) -> Option<usize> {
        let mut hasher = DefaultHasher::new();
        (self.secret, name).hash(&mut hasher);
        // The remainder is below `count`, so it fits.
        hasher.finish().checked_rem(count as u64).map(|index| index as usize)
    }

    /// The hash to check a password for this name against, and whether it is the user's own. None where nobody has a
    /// password, and so nobody differs.
    fn hash_for(&self, name: &str) -> Option<(&PasswordHash, bool)> {
        let stand_in = self.with_password[self.choose(name, self.with_password.len())?];
        let own = self.users.get(name).and_then(|user| user.password.as_ref());
        Some((own.or(self.users.entries()[stand_in].1.password.as_ref())?, own.is_some()))
    }

    /// The user whose keys to look through for this name, under which name, and whether it is the user's own.
    fn account_for<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a User, bool)> {
        let entries = self.users.entries();
        let own = self.users.place(name);
        let (entry, user) = &entries[own.unwrap_or(self.choose(name, entries.len())?)];
        Some((if is_pattern(entry) { name } else { entry }, user, own.is_some()))
    }
}

impl Authenticator for Users {
    fn password(&self, attempt: &Attempt<'_>, password: &[u8]) -> Result<Option<Grant>, Busy> {
        let is_right = self.password(attempt.user, |hash| hash.verify_for(attempt, password))?;
        Ok(is_right.then(|| Grant::new(attempt.user, Restrictions::default())))
    }

    fn public_key(&self, attempt: &Attempt<'_>, offer: &Offer) -> Option<Grant> {
        let restrictions = self.public_key(attempt.user, offer, attempt.client.ip(), attempt.presence);
        restrictions.map(|restrictions| Grant::new(attempt.user, restrictions))
    }

    fn requirements(&self, user: &str) -> Requirements {
        match self.users.get(user) {
            Some(user) => Requirements {
                methods: Methods::of(user, &self.methods),
                has_password: user.password.is_some(),
                has_secret: user.totp.is_used(),
                by_browser: false,
            },
            None => Requirements { methods: Methods::new(&self.methods), ..Requirements::default() },
        }
    }

    fn first_methods(&self) -> String {
        self.first_methods.clone()
    }

    fn code(&self, attempt: &Attempt<'_>, code: &[u8]) -> bool {
        let user = self.users.get(attempt.user).filter(|user| user.totp.is_used());
        user.is_some_and(|user| user.totp.verify(attempt.user, code, u64::try_from(now()).unwrap_or(0)))
    }
}

impl Users {
    fn password(&self, user: &str, verify: impl FnOnce(&PasswordHash) -> Result<bool, Busy>) -> Result<bool, Busy> {
        let Some((hash, is_own)) = self.hash_for(user) else { return Ok(false) };
        Ok(verify(hash)? && is_own)
    }

    fn public_key(&self, user: &str, offer: &Offer, client: IpAddr, presence: &Presence) -> Option<Restrictions> {
        let (name, account, exists) = self.account_for(user)?;
        account.admit(&Login {
            name,
            exists,
            offer,
            client,
            now: now(),
            authorities: &self.authorities,
            user_environment: &self.user_environment,
            strict_modes: self.strict_modes,
            presence,
        })
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::key::tests::{LINES, line, offer};
    use super::{User, Users};
    use crate::auth::{AuthorizedKey, Offer, PasswordHash, Presence, Restrictions};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// Hashes of "alice's" and "bob's", as fast as they can be.
    const HASHES: [&str; 2] = [
        "$6$rounds=1000$salt$bTmRXcu34/9iKimD9HvB9OPg46uYFwYdsvzMMOzBgatSGMVbkHmIF6keJyNIHBoq9rotl5WLbSLaDDTscE2Ro.",
        "$5$rounds=1000$salt$XP4Jhu0/soBtVfUI3PL03nxvgUAiH5axJpcM7vlpCLC",
    ];

    impl Users {
        fn takes(&self, user: &str, password: &[u8]) -> bool {
            self.password(user, |hash| Ok(hash.verify(password))).unwrap()
        }

        fn admits(&self, user: &str, offer: &Offer, client: IpAddr) -> Option<Restrictions> {
            self.public_key(user, offer, client, &Presence::default())
        }
    }

    fn with_password(hash: &str) -> User {
        User { password: Some(PasswordHash::parse(hash).unwrap()), ..User::default() }
    }

    fn with_keys(lines: &[&str]) -> User {
        User {
            authorized_keys: lines.iter().map(|line| AuthorizedKey::parse(line).unwrap()).collect(),
            ..User::default()
        }
    }

    fn users(users: impl IntoIterator<Item = (&'static str, User)>) -> Users {
        Users::new(users.into_iter().map(|(name, user)| (name.to_owned(), user)).collect(), Vec::new(), &[])
    }

    #[test]
    fn only_the_users_own_password_is_right() {
        let users =
            users([("alice", with_password(HASHES[0])), ("bob", with_password(HASHES[1])), ("carol", User::default())]);
        assert!(users.takes("alice", b"alice's"));
        assert!(users.takes("bob", b"bob's"));
        for name in ["alice", "bob", "carol", "dave", ""] {
            let rights: &[&[u8]] = match name {
                "alice" => &[b"bob's", b"alice", b""],
                "bob" => &[b"alice's", b""],
                // Whoever stands in for them, their password is not these users' own.
                _ => &[b"alice's", b"bob's", b""],
            };
            assert!(!rights.iter().any(|password| users.takes(name, password)), "{name}");
        }
    }

    #[test]
    fn in_place_of_a_missing_password_the_same_other_one_is_checked_each_time() {
        let users =
            users([("alice", with_password(HASHES[0])), ("bob", with_password(HASHES[1])), ("carol", User::default())]);
        let text = |name: &str| users.hash_for(name).map(|(hash, is_own)| (hash.to_string(), is_own)).unwrap();
        assert_eq!(text("bob"), (HASHES[1].to_owned(), true));
        assert!(!text("carol").1);
        let mut counts = [0; 2];
        for number in 0..1000 {
            let name = format!("nobody{number}");
            let (hash, is_own) = text(&name);
            assert!(!is_own && text(&name) == (hash.clone(), false));
            counts[HASHES.iter().position(|known| *known == hash).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&count| count > 400), "{counts:?}");
    }

    #[test]
    fn where_nobody_has_a_password_no_password_is_right() {
        for users in [users([]), users([("carol", User::default())])] {
            assert!(users.hash_for("carol").is_none());
            assert!(!users.takes("carol", b""));
            assert_eq!(users.admits("dave", &offer(line()), CLIENT), None);
        }
    }

    #[test]
    fn only_the_users_own_keys_let_in() {
        let lines: Vec<&str> = LINES.lines().collect();
        let users = users([("alice", with_keys(&lines[..2])), ("bob", with_keys(&lines[2..3]))]);
        assert!(users.admits("alice", &offer(lines[1]), CLIENT).is_some());
        assert!(users.admits("bob", &offer(lines[2]), CLIENT).is_some());
        assert_eq!(users.admits("bob", &offer(lines[0]), CLIENT), None);
        // Whoever stands in for an unknown user.
        for number in 0..20 {
            assert_eq!(users.admits(&format!("nobody{number}"), &offer(lines[0]), CLIENT), None);
        }
    }

    #[test]
    fn the_first_line_of_a_key_that_admits_the_client_counts() {
        let option = |options: &str| format!("{options} {}", line());
        let lines = [
            option(r#"from="10.0.0.0/8",command="from""#),
            option(r#"expiry-time="20200101Z",command="expired""#),
            option(r#"from="192.0.2.0/24",expiry-time="99990101Z",no-pty,command="third""#),
            option(r#"command="fourth""#),
        ];
        let users = users([("alice", with_keys(&lines.each_ref().map(String::as_str)))]);
        let command =
            |client: &str| users.admits("alice", &offer(line()), client.parse().unwrap()).unwrap().command.unwrap();
        assert_eq!(command("10.1.2.3"), "from");
        assert_eq!(command("192.0.2.1"), "third");
        assert_eq!(command("2001:db8::1"), "fourth");
    }

    #[test]
    fn a_pattern_stands_for_many_users() {
        let users = users([("student*", with_keys(&[line()])), ("student7", with_password(HASHES[0]))]);
        assert!(users.admits("student1", &offer(line()), CLIENT).is_some());
        // Of another entry than the pattern's.
        assert_eq!(users.admits("student7", &offer(line()), CLIENT), None);
        for name in ["teacher", "student\n", "student\0", ""] {
            assert_eq!(users.admits(name, &offer(line()), CLIENT), None, "{name:?}");
        }
        assert!(users.takes("student7", b"alice's"));
        assert!(!users.takes("student1", b"alice's"));
    }

    #[test]
    fn files_are_read_at_each_login_after_the_inline_keys() {
        let path = std::env::temp_dir().join(format!("berth-auth-users-{}", std::process::id()));
        let file = path.join("alice");
        std::fs::create_dir(&path).unwrap();
        let missing = path.join("missing");
        let user = User {
            authorized_keys_files: vec![missing, path.join("%u")],
            ..with_keys(&[&format!("command=\"inline\" {}", line())])
        };
        let users = users([("alice", user)]);
        let other = LINES.lines().nth(1).unwrap();
        let command = |line| users.admits("alice", &offer(line), CLIENT).map(|restrictions| restrictions.command);
        assert_eq!(command(other), None);
        std::fs::write(&file, format!("no-pty {}\n{}\n", line(), other)).unwrap();
        assert_eq!(command(other), Some(None));
        assert_eq!(command(line()), Some(Some("inline".into())));
        std::fs::write(&file, "").unwrap();
        assert_eq!(command(other), None);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
