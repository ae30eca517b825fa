//! The sections `metrics` and `health`: pages for those who watch over a berth.

use std::net::{Ipv4Addr, SocketAddr};

use super::kind::{address, parsed, switch};
use super::section::Section;

/// What is served, and where.
#[derive(Clone, Debug, Default)]
pub struct Monitoring {
    /// `metrics`, if it is enabled: where, and the path of the page.
    pub metrics: Option<(SocketAddr, String)>,
    /// `health`, if it is enabled.
    pub health: Option<SocketAddr>,
    /// `auth.keyboardInteractive.oauth2.redirect`: where browsers come back to.
    pub redirect: Option<SocketAddr>,
}

/// Either section as typed.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    is_enabled: bool,
    listen: SocketAddr,
    path: String,
}

impl Endpoint {
    pub fn metrics() -> Self {
        Endpoint::at(9100)
    }

    pub fn health() -> Self {
        Endpoint::at(7000)
    }

    fn at(port: u16) -> Self {
        Endpoint { is_enabled: false, listen: (Ipv4Addr::LOCALHOST, port).into(), path: "/metrics".to_owned() }
    }
}

const TLS: &str = "berth serves this page without TLS: remove it, and listen where only those are who may see the page";

pub(super) fn metrics() -> Section<Endpoint> {
    section().key("path", |endpoint: &mut Endpoint| &mut endpoint.path, parsed("a path", parse_path))
}

pub(super) fn health() -> Section<Endpoint> {
    // For ContainerSSH's own client.
    section().absent("client", super::unavailable::http_client())
}

fn section() -> Section<Endpoint> {
    Section::new()
        .key("enable", |endpoint: &mut Endpoint| &mut endpoint.is_enabled, switch())
        .key("listen", |endpoint| &mut endpoint.listen, address())
        .refused(&["cert", "key", "clientcacert"], TLS)
        .inert(&["tlsVersion", "curves", "cipher"])
}

fn parse_path(text: &str) -> Result<String, &'static str> {
    let good = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if good { Ok(text.to_owned()) } else { Err("must be a path, such as /metrics") }
}

pub(super) fn resolve(metrics: &Endpoint, health: &Endpoint) -> Monitoring {
    Monitoring {
        metrics: metrics.is_enabled.then(|| (metrics.listen, metrics.path.clone())),
        health: health.is_enabled.then_some(health.listen),
        redirect: None,
    }
}
