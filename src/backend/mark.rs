//! The mark of what containers and pods are made with that stay: whether it is still what the configuration says.

use openssl::sha::sha256;
use serde_json::Value;

use crate::hex;

/// The label or annotation that has it.
pub(super) const MARK: &str = "berth.settings";

/// The mark of these settings.
pub(super) fn of(settings: &Value) -> String {
    hex::encode(&sha256(settings.to_string().as_bytes())[..8])
}

/// Whether what has this mark was made with other settings. What has none is older than marks are, and may not have been.
pub(super) fn differs(made: &Value, today: &Value) -> bool {
    made.as_str().is_some_and(|mark| mark != of(today))
}
