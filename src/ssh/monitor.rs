//! The pages for those who watch over a berth: what is counted, and whether it serves.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ServeError;
use super::listener::bind;
use crate::config::Monitoring;
use crate::http::{Endpoint, FindPage, Page, PageServer};
use crate::{metrics, oauth2};

/// The pages that are served.
#[derive(Default)]
pub struct Monitor {
    sockets: Vec<(SocketAddr, TcpListener)>,
    _server: Option<PageServer>,
}

impl Monitor {
    /// Serves what the settings say; addresses that `already` has keep their sockets. `stop` says that the server ends.
    pub fn start(settings: &Monitoring, already: &Monitor, stop: &Arc<AtomicBool>) -> Result<Self, ServeError> {
        let (mut sockets, mut endpoints) = (Vec::new(), Vec::new());
        let mut add = |key, address: SocketAddr, page: Box<FindPage>| {
            let failed = |error| ServeError::Listen(key, address, error);
            let known = already.sockets.iter().find(|(known, _)| *known == address);
            let socket = match known {
                Some((_, socket)) => socket.try_clone(),
                None => bind(address, false),
            };
            let socket = socket.map_err(failed)?;
            if known.is_none() {
                log::info!("{key}: {}", socket.local_addr().unwrap_or(address));
            }
            endpoints.push(Endpoint { listener: socket.try_clone().map_err(failed)?, page });
            sockets.push((address, socket));
            Ok::<(), ServeError>(())
        };
        if let Some((address, path)) = &settings.metrics {
            let path = path.clone();
            let page = move |asked: &str, _: &str| match asked == path {
                true => Page { status: "200 OK", content_type: "text/plain; version=0.0.4", body: metrics::text() },
                false => Page::line("404 Not Found", "not found"),
            };
            add("metrics.listen", *address, Box::new(page))?;
        }
        if let Some(address) = settings.health {
            let stop = Arc::clone(stop);
            let page = move |_: &str, _: &str| match stop.load(Ordering::Relaxed) {
                false => Page::line("200 OK", "ok"),
                true => Page::line("503 Service Unavailable", "not ok"),
            };
            add("health.listen", address, Box::new(page))?;
        }
        if let Some(address) = settings.redirect {
            let page = |_: &str, query: &str| oauth2::page(query);
            add("auth.keyboardInteractive.oauth2.redirect.listen", address, Box::new(page))?;
        }
        let server = if endpoints.is_empty() { None } else { Some(PageServer::start(endpoints)) };
        Ok(Monitor { sockets, _server: server.transpose().map_err(ServeError::System)? })
    }
}
