//! One-time codes by the clock: RFC 6238, over HOTP, RFC 4226.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use super::{file, spent};
use crate::random;

/// The lengths that a secret may have, in bytes. Some programs make shorter ones than RFC 4226 section 4 asks for.
const SECRET: std::ops::RangeInclusive<usize> = 10..=128;

/// The length of a secret that is made: that of SHA-1's result, as RFC 4226 section 4 recommends.
const NEW_SECRET: usize = 20;

/// How many wrong codes are looked at in one period for one user: RFC 4226 section 7.3 asks for a limit.
const MOST_TRIES: u32 = 5;

/// After so many wrong codes in a row none is looked at for this long, in seconds: ten thousand guesses at six digits take
/// a week and more.
const MOST_WRONG: u32 = 15;
const LOCKED: u64 = 900;

/// The alphabet of base32: RFC 4648 section 6.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The hash function of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TotpAlgorithm {
    /// `SHA1`, which most programs are limited to.
    Sha1,
    /// `SHA256`
    Sha256,
    /// `SHA512`
    Sha512,
}

/// A secret by which codes are made. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct TotpSecret(Vec<u8>);

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret")
    }
}

impl TotpSecret {
    /// Takes base32, in any case, with spaces and hyphens between and padding at the end or without. The text is in no
    /// error.
    pub fn parse(text: &str) -> Result<TotpSecret, &'static str> {
        let mut bytes = Vec::new();
        let (mut bits, mut value) = (0, 0u32);
        for byte in text.trim().trim_end_matches('=').bytes().filter(|byte| !b" -".contains(byte)) {
            let upper = byte.to_ascii_uppercase();
            let digit = ALPHABET.iter().position(|known| *known == upper).ok_or("must be a secret in base32")?;
            // Eleven bits at most are used.
            value = (value << 5 | digit as u32) & 0xfff;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((value >> bits) as u8);
            }
        }
        if !SECRET.contains(&bytes.len()) {
            return Err("a secret must have 10 to 128 bytes: 16 to 205 characters of base32");
        }
        Ok(TotpSecret(bytes))
    }

    /// A new one.
    pub fn make() -> std::io::Result<TotpSecret> {
        Ok(TotpSecret(random::bytes::<NEW_SECRET>()?.into()))
    }

    /// In base32, without padding.
    pub fn text(&self) -> String {
        let digits = self.0.chunks(5).flat_map(|chunk| {
            let value = (0..5).fold(0u64, |value, index| value << 8 | u64::from(*chunk.get(index).unwrap_or(&0)));
            let count = (chunk.len() * 8).div_ceil(5);
            (0..count).map(move |index| char::from(ALPHABET[(value >> (35 - 5 * index) & 31) as usize]))
        });
        digits.collect()
    }

    /// What programs that make codes read, as a QR code or by hand. `account` is shown there.
    pub fn uri(&self, account: &str) -> String {
        let account = crate::http::encode(account).replace('/', "%2F");
        format!("otpauth://totp/berth:{account}?secret={}&issuer=berth&algorithm=SHA1&digits=6&period=30", self.text())
    }
}

/// `totp`: how a user's codes are made.
#[derive(Clone, Debug)]
pub struct Totp {
    /// `secret`
    pub secret: Option<TotpSecret>,
    /// `secretFile`: a file with the secret in its first line, read at each login. `%u` stands for the user's name.
    pub secret_file: Option<PathBuf>,
    /// `algorithm`
    pub algorithm: TotpAlgorithm,
    /// `digits`: how many a code has, 6 to 8.
    pub digits: usize,
    /// `period`: how long a code is the current one, in whole seconds.
    pub period: Duration,
    /// `skew`: how many codes before and after the current one are good, too.
    pub skew: u64,
}

impl Default for Totp {
    fn default() -> Self {
        let (algorithm, period) = (TotpAlgorithm::Sha1, Duration::from_secs(30));
        Totp { secret: None, secret_file: None, algorithm, digits: 6, period, skew: 1 }
    }
}

impl Totp {
    /// Whether the user has to have a secret.
    pub fn is_used(&self) -> bool {
        self.secret.is_some() || self.secret_file.is_some()
    }

    /// Whether a code is the user's at this time, in seconds since 1970. It then is good no more, nor are older ones. After
    /// some wrong codes none is looked at until the next period.
    pub(super) fn verify(&self, user: &str, code: &[u8], now: u64) -> bool {
        let secret = match self.find_secret(user) {
            Ok(secret) => secret,
            Err(error) => {
                log::error!("the TOTP secret of {user:?}: {error}");
                return false;
            }
        };
        let code: Vec<u8> = code.iter().copied().filter(|byte| *byte != b' ').collect();
        let period = now / self.period.as_secs().max(1);
        let mut kept = spent::kept();
        kept.users.retain(|_, spent| spent.until > now);
        let spent = kept.users.entry(user.to_owned()).or_default();
        if spent.locked_until > now {
            log::warn!("codes for {user:?} are locked for {} s", spent.locked_until - now);
            return false;
        }
        let time = (2 * self.skew + 2) * self.period.as_secs();
        spent.until = spent.until.max(now + time.max(LOCKED));
        if spent.tried.0 != period {
            spent.tried = (period, 0);
        }
        spent.tried.1 += 1;
        if spent.tried.1 > MOST_TRIES {
            log::warn!("too many codes for {user:?}: none is looked at before the next one comes");
            return false;
        }
        let mut found = None;
        // All of them, so that the time does not tell which one it is.
        for candidate in period.saturating_sub(self.skew)..=period + self.skew {
            let right = self.code(&secret, candidate).unwrap_or_default();
            let is_right = right.len() == code.len() && !code.is_empty() && memcmp::eq(right.as_bytes(), &code);
            if is_right && candidate >= spent.from {
                found = found.or(Some(candidate));
            }
        }
        if let Some(found) = found {
            spent.from = found + 1;
            spent.tried.1 -= 1;
            spent.wrong = 0;
        } else {
            spent.wrong += 1;
            if spent.wrong >= MOST_WRONG {
                log::warn!("codes for {user:?} are locked for {LOCKED} s, after {MOST_WRONG} wrong ones");
                (spent.wrong, spent.locked_until) = (0, now + LOCKED);
            }
        }
        kept.save();
        found.is_some()
    }

    fn find_secret(&self, user: &str) -> Result<TotpSecret, String> {
        if let Some(secret) = &self.secret {
            return Ok(secret.clone());
        }
        let path = self.secret_file.as_deref().unwrap_or(Path::new(""));
        let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let text = file::of_user(path, user).map_err(|error| failed(&error))?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        TotpSecret::parse(&String::from_utf8_lossy(line)).map_err(|error| failed(&error))
    }

    /// The code of a period: RFC 4226 section 5.3.
    fn code(&self, secret: &TotpSecret, period: u64) -> Result<String, ErrorStack> {
        let digest = match self.algorithm {
            TotpAlgorithm::Sha1 => MessageDigest::sha1(),
            TotpAlgorithm::Sha256 => MessageDigest::sha256(),
            TotpAlgorithm::Sha512 => MessageDigest::sha512(),
        };
        let key = PKey::hmac(&secret.0)?;
        let hash = Signer::new(digest, &key)?.sign_oneshot_to_vec(&period.to_be_bytes())?;
        let offset = usize::from(hash.last().unwrap_or(&0) & 15);
        let bytes = hash.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let number = u32::from_be_bytes(bytes) & 0x7fff_ffff;
        let width = self.digits;
        Ok(format!("{:0width$}", u64::from(number) % 10u64.pow(width as u32)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LOCKED, MOST_TRIES, MOST_WRONG, Totp, TotpAlgorithm, TotpSecret};

    /// RFC 6238 appendix B.
    fn secret(length: usize) -> TotpSecret {
        TotpSecret(b"1234567890".iter().copied().cycle().take(length).collect())
    }

    fn totp() -> Totp {
        Totp { secret: Some(secret(20)), ..Totp::default() }
    }

    fn at(now: u64) -> String {
        totp().code(&secret(20), now / 30).unwrap()
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        for (algorithm, length, codes) in [
            (TotpAlgorithm::Sha1, 20, ["94287082", "07081804", "14050471", "89005924", "69279037", "65353130"]),
            (TotpAlgorithm::Sha256, 32, ["46119246", "68084774", "67062674", "91819424", "90698825", "77737706"]),
            (TotpAlgorithm::Sha512, 64, ["90693936", "25091201", "99943326", "93441116", "38618901", "47863826"]),
        ] {
            let totp = Totp { algorithm, digits: 8, ..Totp::default() };
            let times = [59, 1_111_111_109, 1_111_111_111, 1_234_567_890, 2_000_000_000, 20_000_000_000];
            let made = times.map(|time| totp.code(&secret(length), time / 30).unwrap());
            assert_eq!(made, codes);
        }
        assert_eq!(at(59), "287082");
    }

    #[test]
    fn a_code_is_good_once_and_for_some_time() {
        let good = |code: &str, now| totp().verify("once", code.as_bytes(), now);
        let now = 1_000_000_000;
        assert!(!good(&at(now - 60), now) && !good(&at(now + 60), now));
        assert!(good(&at(now - 30), now));
        assert!(!good(&at(now - 30), now));
        assert!(good(&at(now + 30), now + 30));
        // Older than one that was used.
        assert!(!good(&at(now), now + 30));
        // As it is shown.
        let next = at(now + 90);
        assert!(good(&format!("{} {}", &next[..3], &next[3..]), now + 90));
        assert!(totp().verify("another", at(now).as_bytes(), now));
    }

    #[test]
    fn after_some_codes_none_is_looked_at_until_the_next_period() {
        let now = 1_000_000_000;
        let good = |code: &str, now| totp().verify("guessed", code.as_bytes(), now);
        for _ in 0..MOST_TRIES {
            assert!(!good("0", now));
        }
        assert!(!good(&at(now), now));
        assert!(good(&at(now), now + 30));
    }

    #[test]
    fn after_many_wrong_codes_in_a_row_none_is_looked_at_for_long() {
        let good = |code: &str, now| totp().verify("locked", code.as_bytes(), now);
        let mut now = 2_000_000_000;
        // With a right one between, it is not in a row.
        for tries in [MOST_WRONG - 1, MOST_WRONG] {
            for _ in 0..tries {
                assert!(!good("0", now));
                now += 30;
            }
            if tries < MOST_WRONG {
                assert!(good(&at(now), now));
                now += 30;
            }
        }
        assert!(!good(&at(now), now));
        now += LOCKED;
        assert!(good(&at(now), now));
    }

    #[test]
    fn what_is_no_code_is_wrong() {
        for (number, code) in ["", "28708", "2870822", "28708a", "\u{0662}87082"].into_iter().enumerate() {
            assert!(!totp().verify(&format!("none{number}"), code.as_bytes(), 59), "{code:?}");
        }
        assert!(!Totp { secret_file: Some("/nonexistent/%u".into()), ..Totp::default() }.verify("file", b"287082", 59));
    }

    #[test]
    fn secrets_are_in_base32() {
        let secret = TotpSecret::parse("gezd-gnbv gy3t QOJQ GEZDGNBVGY3TQOJQ").unwrap();
        assert_eq!(secret.0, b"12345678901234567890");
        assert_eq!(secret.text(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(TotpSecret::parse("GEZDGNBVGY3TQOJ1").is_err() && TotpSecret::parse("GEZDGNBV").is_err());
        assert!(!format!("{secret:?}").contains("123"));
        let uri = secret.uri("alice@berth/x");
        assert!(uri.starts_with("otpauth://totp/berth:alice%40berth%2Fx?secret=GEZDGNBV"), "{uri}");
    }

    proptest! {
        #[test]
        fn base32_goes_there_and_back(bytes in proptest::collection::vec(any::<u8>(), 10..128)) {
            let secret = TotpSecret(bytes);
            prop_assert_eq!(TotpSecret::parse(&secret.text()).unwrap(), secret);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = TotpSecret::parse(&text);
        }
    }
}
