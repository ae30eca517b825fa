//! What is counted, under ContainerSSH's names, in Prometheus' text format.
//!
//! The counts are the process's: they go on over a new configuration.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Connections since the start; by country.
    Connections,
    /// Connections now; by country.
    CurrentConnections,
    /// Connections whose users were let in; by country.
    SuccessfulHandshakes,
    /// Connections that ended before; by country.
    FailedHandshakes,
    /// Connections that were refused, or lost their place to others, before their logins; by the setting.
    RefusedConnections,
    /// Attempts to log in that were good; by method and country.
    AuthSuccesses,
    /// Those that were not; by method and country.
    AuthFailures,
    /// Requests to the servers of webhooks; by what was asked.
    AuthServerRequests,
    /// Those without an answer of use; by what was asked.
    AuthServerFailures,
    /// Requests to the configuration server.
    ConfigServerRequests,
    /// Those without an answer of use.
    ConfigServerFailures,
    /// Containers, pods or connections to another server that were asked for.
    BackendRequests,
    /// Those that did not come about.
    BackendErrors,
}

/// Name, type and help of each, in their order.
const TABLE: [(Metric, &str, &str, &str); 13] = [
    (Metric::Connections, "ssh_connections_total", "counter", "SSH connections since the start"),
    (Metric::CurrentConnections, "ssh_current_connections", "gauge", "SSH connections now"),
    (
        Metric::SuccessfulHandshakes,
        "ssh_successful_handshakes_total",
        "counter",
        "SSH connections whose users were let in",
    ),
    (
        Metric::FailedHandshakes,
        "ssh_failed_handshakes_total",
        "counter",
        "SSH connections that ended before their users were let in",
    ),
    (
        Metric::RefusedConnections,
        "ssh_refused_connections_total",
        "counter",
        "SSH connections that were refused before their users could log in",
    ),
    (Metric::AuthSuccesses, "auth_success_total", "counter", "Attempts to log in that were good"),
    (Metric::AuthFailures, "auth_failures_total", "counter", "Attempts to log in that were not good"),
    (Metric::AuthServerRequests, "auth_server_requests_total", "counter", "Requests to webhooks of authentication"),
    (
        Metric::AuthServerFailures,
        "auth_server_failures_total",
        "counter",
        "Requests to webhooks of authentication without an answer of use",
    ),
    (Metric::ConfigServerRequests, "config_server_requests_total", "counter", "Requests to the configuration server"),
    (
        Metric::ConfigServerFailures,
        "config_server_failures_total",
        "counter",
        "Requests to the configuration server without an answer of use",
    ),
    (Metric::BackendRequests, "backend_requests_total", "counter", "Containers that were asked for"),
    (Metric::BackendErrors, "backend_errors_total", "counter", "Containers that did not come about"),
];

/// The counts, by their labels as they are shown.
static COUNTS: Mutex<BTreeMap<(Metric, String), i64>> = Mutex::new(BTreeMap::new());

/// Adds to a count. The labels' values come out of a small set: each has a line of its own for ever.
pub fn add(metric: Metric, labels: &[(&str, &str)], count: i64) {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry((metric, labels.join(","))).or_default() += count;
}

/// Adds one.
pub fn count(metric: Metric, labels: &[(&str, &str)]) {
    add(metric, labels, 1);
}

/// All counts (<https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4).
pub fn text() -> String {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    for (metric, name, kind, help) in TABLE {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP containerssh_{name} {help}.\n# TYPE containerssh_{name} {kind}");
        for ((_, labels), count) in counts.range((metric, String::new())..).take_while(|((one, _), _)| *one == metric) {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(text, "containerssh_{name}{labels} {count}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Metric, TABLE, count, text};

    #[test]
    fn counts_are_shown_under_their_names_with_their_labels() {
        let country = [("country", "Z\"Z")];
        count(Metric::FailedHandshakes, &country);
        count(Metric::FailedHandshakes, &country);
        let text = text();
        assert!(text.contains("\ncontainerssh_ssh_failed_handshakes_total{country=\"Z\\\"Z\"} 2\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE")).count(), TABLE.len());
        assert!(TABLE.is_sorted_by_key(|(metric, ..)| *metric));
    }
}
