//! Password hashes in crypt(5)'s forms.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::LazyLock;
use std::time::Duration;

use argon2::password_hash::{self, phc};
use argon2::{Argon2, MIN_SALT_LEN, Params, PasswordHasher, PasswordVerifier, Version};
use sha_crypt::ShaCrypt;

use super::{Attempt, Busy};
use crate::random;
use crate::turn::Turns;

/// The longest password, in bytes. A longer one is wrong without a look at it.
pub const LONGEST_PASSWORD: usize = 1024;

/// The most memory that an argon2id hash may ask for, in KiB.
const ARGON2_MEMORY: u32 = 1024 * 1024;
/// The most that an argon2id hash may ask for in memory times passes, in KiB: some seconds of work.
const ARGON2_WORK: u64 = 4 * 1024 * 1024;
/// The costs that a bcrypt hash may have: from bcrypt's lowest to some seconds of work. Each step doubles it.
const BCRYPT_COST: RangeInclusive<u32> = 4..=16;
/// The rounds that a sha-crypt hash may have: from crypt(5)'s fewest to some seconds of work, with the longest password.
const SHA_CRYPT_ROUNDS: RangeInclusive<u32> = 1_000..=1_000_000;

/// The memory that all checks of the process may take together, in KiB. One that takes more runs alone.
const MEMORY: u32 = 256 * 1024;
/// How long a check may wait for its turn, before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Turns at checks.
static TURNS: LazyLock<Turns> = LazyLock::new(|| Turns::for_processors(MEMORY));

/// A password's hash in crypt(5)'s form: `$argon2id$`, bcrypt (`$2b$`, `$2a$`, `$2y$`) or sha-crypt (`$6$`, `$5$`).
///
/// How much work a check is has been bounded when it was parsed: a typo in a configuration cannot hang a login.
#[derive(Clone)]
pub struct PasswordHash {
    text: String,
    scheme: Scheme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// With the memory that a check takes, in KiB.
    Argon2id(u32),
    Bcrypt,
    ShaCrypt,
}

/// Why a text is no usable password hash. The text itself is in no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashError {
    /// It has none of the known forms.
    Form,
    /// It is argon2i or argon2d.
    Argon2Variant(&'static str),
    /// It begins in this form, but does not keep to it.
    Malformed(&'static str),
    /// It asks for more than a login may cost, or for less than its form allows.
    Cost {
        /// The parameter that does.
        parameter: &'static str,
        /// What it may be.
        limits: String,
    },
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashError::Form => {
                f.write_str("not a password hash of a known form ($argon2id$, $2b$, $2a$, $2y$, $6$, $5$)")?
            }
            HashError::Argon2Variant(variant) => {
                write!(f, "{variant} is not for passwords; of argon2, use $argon2id$")?
            }
            HashError::Malformed(form) => write!(f, "not a whole {form} hash: part of it is missing or changed")?,
            HashError::Cost { parameter, limits } => write!(f, "{parameter} of a password hash must be {limits}")?,
        }
        f.write_str("; make one with 'berth keygen -t password'")
    }
}

impl std::error::Error for HashError {}

impl PasswordHash {
    /// Takes a hash as crypt(5) writes it.
    pub fn parse(text: &str) -> Result<PasswordHash, HashError> {
        let form = text.strip_prefix('$').and_then(|rest| rest.split_once('$')).map(|(form, _)| form);
        let scheme = match form {
            Some("argon2id") => argon2id(text)?,
            Some("argon2i") => return Err(HashError::Argon2Variant("argon2i")),
            Some("argon2d") => return Err(HashError::Argon2Variant("argon2d")),
            Some("2a" | "2b" | "2y") => bcrypt_scheme(text)?,
            Some("5") => sha_crypt_scheme(text, "$5$", 43)?,
            Some("6") => sha_crypt_scheme(text, "$6$", 86)?,
            _ => return Err(HashError::Form),
        };
        Ok(PasswordHash { text: text.to_owned(), scheme })
    }

    /// Hashes a password with argon2id, 19 MiB and two passes, and a new salt.
    pub fn make(password: &[u8]) -> Result<PasswordHash, MakeError> {
        let salt = random::bytes::<{ argon2::RECOMMENDED_SALT_LEN }>();
        let salt = salt.map_err(|error| MakeError(error.to_string()))?;
        let hash = Argon2::default().hash_password_with_salt(password, &salt);
        let text = hash.map_err(|error| MakeError(error.to_string()))?.to_string();
        Ok(PasswordHash { text, scheme: Scheme::Argon2id(Params::DEFAULT_M_COST) })
    }

    /// Whether this is the password's hash. The comparison takes the same time wherever they differ.
    ///
    /// Waits for its turn: of all checks in the process, no more run at once than there are processors, and than fit
    /// into 256 MiB.
    ///
    /// # Errors
    /// It has waited for 30 seconds, or its client has gone.
    pub fn verify_for(&self, attempt: &Attempt<'_>, password: &[u8]) -> Result<bool, Busy> {
        let memory = if let Scheme::Argon2id(memory) = self.scheme { memory } else { 0 };
        let Some(_turn) = TURNS.take_for(Some(attempt.source), memory, PATIENCE, &|| attempt.presence.is_there())
        else {
            if attempt.presence.is_there() {
                log::error!("{}: too many passwords to check: one was not looked at", attempt.connection);
            }
            return Err(Busy);
        };
        Ok(self.verify(password))
    }

    /// Whether this is the password's hash, at once. The comparison takes the same time wherever they differ.
    pub fn verify(&self, password: &[u8]) -> bool {
        let verdict = match self.scheme {
            Scheme::Argon2id(_) => Argon2::default().verify_password(password, self.text.as_str()),
            Scheme::ShaCrypt => ShaCrypt::default().verify_password(password, self.text.as_str()),
            Scheme::Bcrypt => return bcrypt::verify(password, &self.text).unwrap_or_default(),
        };
        match verdict {
            Ok(()) => true,
            Err(password_hash::Error::PasswordInvalid) => false,
            Err(error) => {
                log::error!("a password could not be checked: {error}");
                false
            }
        }
    }
}

/// The crypt(5) text.
impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Without the hash: a log is no place for it.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.scheme)
    }
}

/// Why a password could not be hashed.
#[derive(Clone, Debug)]
pub struct MakeError(String);

impl fmt::Display for MakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the password could not be hashed: {}", self.0)
    }
}

impl std::error::Error for MakeError {}

fn argon2id(text: &str) -> Result<Scheme, HashError> {
    let malformed = HashError::Malformed("$argon2id$");
    let hash = phc::PasswordHash::new(text).map_err(|_| malformed.clone())?;
    let params = Params::try_from(&hash).map_err(|_| malformed.clone())?;
    // A hash without a version is of the first one, for which the crate takes the last.
    let is_known = hash.version.is_some_and(|version| Version::try_from(version).is_ok());
    let has_salt = hash.salt.as_ref().is_some_and(|salt| salt.len() >= MIN_SALT_LEN);
    if !is_known || !has_salt || hash.hash.is_none() {
        return Err(malformed);
    }
    let memory = params.m_cost();
    if memory > ARGON2_MEMORY {
        return Err(HashError::Cost { parameter: "memory (m=)", limits: format!("{ARGON2_MEMORY} KiB at most") });
    }
    if u64::from(memory) * u64::from(params.t_cost()) > ARGON2_WORK {
        let limits = format!("{} at most with this memory", ARGON2_WORK / u64::from(memory));
        return Err(HashError::Cost { parameter: "passes (t=)", limits });
    }
    Ok(Scheme::Argon2id(memory))
}

fn bcrypt_scheme(text: &str) -> Result<Scheme, HashError> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| HashError::Malformed("bcrypt"))?;
    within("cost", parts.get_cost(), &BCRYPT_COST)?;
    Ok(Scheme::Bcrypt)
}

/// `$5$[rounds=N$]SALT$HASH`, and `$6$` likewise.
fn sha_crypt_scheme(text: &str, form: &'static str, hash_length: usize) -> Result<Scheme, HashError> {
    let fields: Vec<&str> = text[form.len()..].split('$').collect();
    let (rounds, hash) = match fields[..] {
        [_salt, hash] => (None, hash),
        [parameter, _salt, hash] => (Some(parameter), hash),
        _ => return Err(HashError::Malformed(form)),
    };
    if let Some(parameter) = rounds {
        let rounds = parameter.strip_prefix("rounds=").ok_or(HashError::Malformed(form))?;
        within("rounds", rounds.parse().map_err(|_| HashError::Malformed(form))?, &SHA_CRYPT_ROUNDS)?;
    }
    if hash.len() != hash_length || sha_crypt::PasswordHashRef::new(text).is_err() {
        return Err(HashError::Malformed(form));
    }
    Ok(Scheme::ShaCrypt)
}

fn within(parameter: &'static str, value: u32, limits: &RangeInclusive<u32>) -> Result<(), HashError> {
    if limits.contains(&value) {
        return Ok(());
    }
    Err(HashError::Cost { parameter, limits: format!("from {} to {}", limits.start(), limits.end()) })
}

/// A hash as a configuration has it. It is not tried: that may take a second.
pub(crate) fn fuzz(text: &[u8]) {
    let _ = PasswordHash::parse(&String::from_utf8_lossy(text));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{HashError, PasswordHash, TURNS};
    use crate::auth::{Attempt, Presence};

    /// Hashes of "Hello world!", made with argon2(1), htpasswd, mkpasswd, `openssl passwd` and crypt(3).
    const KNOWN: [&str; 9] = [
        "$argon2id$v=19$m=256,t=2,p=2$c2FsdHNhbHQxMjM0NTY3OA$BGIIzg9ZSppZlmh2aiypBl/oqq77apmYDEQRBOnptLA",
        "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQxMjM0NTY3OA$EiZ+s/7L54mb1kPagUCkZEHW9wBfUaqU",
        "$2a$05$abcdefghijklmnopqrstuu7nFISH/8YdwlXD3lw69A4iBUf6fvWAW",
        "$2b$05$1UN31jNnSg5QH3q5FywH2u7bYRelTDfBAR6ndcRFlbpesY/0bWdvy",
        "$2y$05$UmrytptG.WhfKhTAgXLh6.N3/N.tns3Qo2e9fXxLYLjB5UUI.mPH.",
        "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
        "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        "$6$rounds=2000$abcdefgh$OkbMuiwb5KZrA3oCRdym9UufhN/9vb3I6MuNmWZA6jNUxnCGiB.ifczzzj5QWvPo71hQtw/bygYIP3SiVB1XH1",
    ];

    fn error(text: &str) -> HashError {
        PasswordHash::parse(text).expect_err(text)
    }

    #[test]
    fn known_hashes_verify_their_password_and_no_other() {
        for text in KNOWN {
            let hash = PasswordHash::parse(text).unwrap();
            assert!(hash.verify(b"Hello world!"), "{text}");
            for wrong in [&b"Hello world"[..], b"hello world!", b"Hello world!!", b"", b"\xff"] {
                assert!(!hash.verify(wrong), "{text} {wrong:?}");
            }
        }
    }

    #[test]
    fn networks_take_turns_at_checks() {
        let alive = Arc::default();
        let attempt = Attempt {
            user: "alice",
            client: "[2001:db8::1:2:3:4]:22".parse().unwrap(),
            source: "2001:db8::".parse().unwrap(),
            connection: "0123",
            version: "SSH-2.0-Test",
            presence: &Presence::of(&alive),
        };
        let hash = PasswordHash::parse(KNOWN[0]).unwrap();
        let all = TURNS.all();
        std::thread::scope(|scope| {
            let check = scope.spawn(|| hash.verify_for(&attempt, b"Hello world!"));
            let end = Instant::now() + Duration::from_secs(30);
            while !TURNS.is_awaited_by(attempt.source) {
                assert!(Instant::now() < end && !check.is_finished());
                std::thread::yield_now();
            }
            drop(all);
            assert_eq!(check.join().unwrap(), Ok(true));
        });
    }

    #[test]
    fn a_made_hash_is_parsed_and_verifies() {
        let hash = PasswordHash::make(b"secret").unwrap();
        let parsed = PasswordHash::parse(&hash.to_string()).unwrap();
        assert_eq!(parsed.scheme, hash.scheme);
        assert!(parsed.verify(b"secret") && !parsed.verify(b"Secret"));
        assert_ne!(PasswordHash::make(b"secret").unwrap().to_string(), hash.to_string());
    }

    #[test]
    fn a_hash_of_another_form_is_an_error_that_names_the_way_out() {
        for text in
            ["", "secret", "$1$salt$pJRLJCy/s0g2pLkZpZLHE.", "$y$j9T$abc$def", "$2x$05$", "*", "!", "$6", "{SHA}x"]
        {
            assert_eq!(error(text), HashError::Form, "{text}");
        }
        let text = error("secret").to_string();
        assert!(text.contains("$argon2id$") && text.contains("berth keygen -t password"), "{text}");
        assert!(!text.contains("secret"));
        let other = "v=19$m=256,t=2,p=2$c2FsdHNhbHQxMjM0NTY3OA$Hn1HRtWN2VEqMNRl+mW7S814REVeo3gevohg5x2OqI0";
        for variant in ["argon2i", "argon2d"] {
            assert_eq!(error(&format!("${variant}${other}")), HashError::Argon2Variant(variant));
        }
    }

    #[test]
    fn a_cut_or_changed_hash_is_malformed() {
        for text in KNOWN {
            // A shorter argon2 hash is a hash too, of that length.
            let shortest = if text.contains("argon2") { text.rfind('$').unwrap() + 1 } else { text.len() - 1 };
            for end in text[1..].find('$').unwrap() + 2..=shortest {
                assert!(matches!(error(&text[..end]), HashError::Malformed(_)), "{}", &text[..end]);
            }
            for changed in [
                format!("{text}$"),
                format!("{text} "),
                text.replacen("5", "\u{665}", 1) + "!",
                text[..text.len() - 1].to_owned() + ":",
            ] {
                assert!(PasswordHash::parse(&changed).is_err(), "{changed}");
            }
        }
        for text in [
            // Without a version, with an unknown one, with too short a salt.
            "$argon2id$m=64,t=1,p=1$c2FsdHNhbHQxMjM0NTY3OA$EiZ+s/7L54mb1kPagUCkZEHW9wBfUaqU",
            "$argon2id$v=20$m=64,t=1,p=1$c2FsdHNhbHQxMjM0NTY3OA$EiZ+s/7L54mb1kPagUCkZEHW9wBfUaqU",
            "$argon2id$v=19$m=64,t=1,p=1$c2FsdA$EiZ+s/7L54mb1kPagUCkZEHW9wBfUaqU",
        ] {
            assert!(matches!(error(text), HashError::Malformed(_)), "{text}");
        }
    }

    #[test]
    fn a_hash_that_asks_for_too_much_is_refused() {
        let argon2 =
            |cost: &str| format!("$argon2id$v=19${cost},p=1$c2FsdHNhbHQxMjM0NTY3OA$EiZ+s/7L54mb1kPagUCkZEHW9wBfUaqU");
        let sha = |rounds: &str| KNOWN[8].replace("2000", rounds);
        let bcrypt = |cost: &str| KNOWN[3].replace("$05$", cost);
        for good in [argon2("m=1048576,t=4"), argon2("m=65536,t=3"), sha("1000"), sha("1000000"), bcrypt("$16$")] {
            assert!(PasswordHash::parse(&good).is_ok(), "{good}");
        }
        for bad in [
            argon2("m=1048577,t=1"),
            argon2("m=1048576,t=5"),
            argon2("m=4294967295,t=4294967295"),
            argon2("m=8,t=4294967295"),
            sha("999"),
            sha("1000001"),
            bcrypt("$17$"),
            bcrypt("$03$"),
            bcrypt("$31$"),
        ] {
            assert!(matches!(error(&bad), HashError::Cost { .. }), "{bad}: {}", error(&bad));
        }
        assert!(matches!(error(&sha("99999999999")), HashError::Malformed(_)));
    }

    #[test]
    fn no_log_line_has_the_hash_in_it() {
        let hash = PasswordHash::parse(KNOWN[7]).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(ShaCrypt)");
    }
}
