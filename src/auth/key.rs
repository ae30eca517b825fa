//! Lines of authorized keys.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Restrictions;
use crate::connection::wire::Reader;

/// A line of an authorized keys file: sshd(8), AUTHORIZED_KEYS FILE FORMAT.
#[derive(Clone, Debug)]
pub struct AuthorizedKey {
    blob: Vec<u8>,
    restrictions: Restrictions,
}

/// Why a line holds no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLineError(String);

impl fmt::Display for KeyLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyLineError {}

impl AuthorizedKey {
    /// Takes a line: options, type, key in base64, comment.
    pub fn parse(line: &str) -> Result<AuthorizedKey, KeyLineError> {
        let mut words = line.split_ascii_whitespace();
        let (Some(kind), Some(text)) = (words.next(), words.next()) else {
            return Err(KeyLineError("not a line 'TYPE BASE64 COMMENT'".into()));
        };
        let blob = STANDARD.decode(text).map_err(|_| KeyLineError("the key is not in base64".into()))?;
        if Reader::new(&blob).string() != Ok(kind.as_bytes()) {
            return Err(KeyLineError(format!("the key is not of the type {kind:?}")));
        }
        Ok(AuthorizedKey { blob, restrictions: Restrictions::default() })
    }

    /// What its options hold the user to, where this is the key.
    pub(super) fn matches(&self, blob: &[u8]) -> Option<Restrictions> {
        (self.blob == blob).then(|| self.restrictions.clone())
    }
}
