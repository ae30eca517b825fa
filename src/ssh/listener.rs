//! The listening sockets, and the life of the whole server.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::connection::Connection;
use super::monitor::Monitor;
use super::startups::{Refusal, Startups};
use super::throttle::Throttle;
use super::worker::STACK;
use super::{ServeError, Server};
use crate::logger;
use crate::metrics::{self, Metric};
use crate::random;
use crate::waker::Waker;

/// How many connections the kernel keeps for us.
const BACKLOG: i32 = 128;

/// How often the reaper looks.
const REAPING: Duration = Duration::from_secs(60);

/// When it looks for the second time: what a server that was killed had just asked for may have come into being only now.
const SECOND_REAPING: Duration = Duration::from_secs(5);

/// How long accepting rests where no descriptor or thread is left.
const REST: Duration = Duration::from_millis(200);

/// Serves until SIGTERM or SIGINT, then ends all connections, removes their containers, and returns.
///
/// At a SIGHUP, `reload` gives what further connections are served with, or tells the log why there is nothing new.
pub fn serve(server: Server, reload: impl FnMut() -> Option<Server>) -> Result<(), ServeError> {
    let ending = caught(&[SIGTERM, SIGINT]).map_err(ServeError::System)?;
    let hangups = caught(&[SIGHUP]).map_err(ServeError::System)?;
    let listeners = listen(&server.settings.listen, &[])?;
    let server = Arc::new(server);
    let reaper = Reaper::start(Arc::clone(&server)).map_err(ServeError::System)?;
    let connections = Connections::default();
    let monitor = Monitor::start(&server.monitoring, &Monitor::default(), &connections.0.stop)?;
    let (startups, throttle) = (Startups::default(), Throttle::default());
    let mut acceptor = Acceptor { server, listeners, monitor, reaper, startups, connections, throttle };
    acceptor.run(&ending, hangups, reload);
    let Acceptor { server, listeners, monitor, reaper, connections, .. } = acceptor;
    drop(listeners);
    connections.end(server.stop_time);
    drop((reaper, monitor));
    Ok(())
}

/// A socket that becomes readable with each of these signals.
fn caught(signals: &[i32]) -> io::Result<UnixStream> {
    let (caught, sender) = UnixStream::pair()?;
    caught.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, sender.try_clone()?)?;
    }
    Ok(caught)
}

/// The thread that removes what no live connection owns, at the start, with a new configuration, and from time to time.
/// Ends when dropped.
struct Reaper {
    servers: Option<Sender<Arc<Server>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    fn start(mut server: Arc<Server>) -> io::Result<Self> {
        let (servers, next) = channel();
        let thread = std::thread::Builder::new().name("reaper".into()).stack_size(STACK).spawn(move || {
            for wait in std::iter::once(SECOND_REAPING).chain(std::iter::repeat(REAPING)) {
                match server.services.reap() {
                    Ok(0) => (),
                    Ok(count) => log::warn!("removed {count} containers that no connection owned"),
                    Err(error) => log::error!("containers that no connection owns could not be removed: {}", error.log),
                }
                match next.recv_timeout(wait) {
                    Ok(next) => server = next,
                    Err(RecvTimeoutError::Timeout) => (),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Reaper { servers: Some(servers), thread: Some(thread) })
    }

    fn renew(&self, server: &Arc<Server>) {
        if let Some(servers) = &self.servers {
            // Fails where the thread has ended, by a panic alone.
            let _ = servers.send(Arc::clone(server));
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.servers.take());
        if let Some(thread) = self.thread.take() {
            // It waits for one call of the backend's at most, which has a deadline.
            let _ = thread.join();
        }
    }
}

/// A listening socket.
struct Listener {
    /// As it was configured: its port may be 0.
    address: SocketAddr,
    /// Whether an IPv6 socket leaves IPv4 to another one.
    only_v6: bool,
    socket: TcpListener,
}

/// Listens on these addresses: on those that are listened on already, by the same sockets.
fn listen(addresses: &[SocketAddr], already: &[Listener]) -> Result<Vec<Listener>, ServeError> {
    let listen = |&address: &SocketAddr| -> io::Result<Listener> {
        // Where `[::]` stands alone for its port it takes IPv4 too; beside an IPv4 address it does not, as they would be in
        // each other's way.
        let beside_v4 = addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        let only_v6 = address.is_ipv6() && beside_v4;
        let known = already.iter().find(|known| (known.address, known.only_v6) == (address, only_v6));
        let socket = match known {
            Some(known) => known.socket.try_clone()?,
            None => bind(address, only_v6)?,
        };
        if known.is_none() {
            log::info!("listening on {}", socket.local_addr().unwrap_or(address));
        }
        Ok(Listener { address, only_v6, socket })
    };
    let listen = |address| listen(address).map_err(|error| ServeError::Listen("ssh.listen", *address, error));
    addresses.iter().map(listen).collect()
}

/// A listening socket, non-blocking.
pub fn bind(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// What the accepting thread has.
struct Acceptor {
    /// What the next connection is served with.
    server: Arc<Server>,
    listeners: Vec<Listener>,
    monitor: Monitor,
    reaper: Reaper,
    startups: Startups,
    connections: Connections,
    /// Of clients that are turned away.
    throttle: Throttle,
}

impl Acceptor {
    /// Accepts until `ending` becomes readable.
    fn run(&mut self, ending: &UnixStream, mut hangups: UnixStream, mut reload: impl FnMut() -> Option<Server>) {
        loop {
            let mut fds = vec![PollFd::new(ending, PollFlags::IN), PollFd::new(&hangups, PollFlags::IN)];
            fds.extend(self.listeners.iter().map(|listener| PollFd::new(&listener.socket, PollFlags::IN)));
            // To tell the end of what has a beginning in the log.
            let timeout = self.throttle.is_active().then_some(Timespec { tv_sec: 1, tv_nsec: 0 });
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => (),
                Err(error) => {
                    log::error!("poll: {error}");
                    std::thread::sleep(REST);
                }
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                log::info!("ending");
                return;
            }
            for (index, _) in ready[2..].iter().enumerate().filter(|(_, ready)| **ready) {
                self.accept(index);
            }
            for line in self.throttle.lines(Instant::now()) {
                log::warn!("{line}");
            }
            if ready[1] {
                // However many came, once is enough.
                let _ = hangups.read(&mut [0; 64]);
                self.reload(&mut reload);
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        match self.listeners[listener].socket.accept() {
            Ok((socket, client)) => match self.begin(socket, client) {
                Ok(None) => (),
                Ok(Some(refusal)) => self.turned_away(refusal, client.ip(), "refused"),
                Err(error) => log::error!("{client}: {error}"),
            },
            Err(error) if is_clients_fault(&error) => (),
            Err(error) => {
                log::error!("accept: {error}");
                std::thread::sleep(REST);
            }
        }
    }

    /// Counts a client that gets no further, and tells of the first.
    fn turned_away(&mut self, refusal: Refusal, client: IpAddr, how: &str) {
        let setting = refusal.setting();
        metrics::count(Metric::RefusedConnections, &[("setting", setting)]);
        if self.throttle.first(setting, Instant::now()) {
            log::warn!("{}: {how}, by {setting}; further ones are counted", client.to_canonical());
        }
    }

    /// Starts a connection's thread, where there is a place for the client.
    fn begin(&mut self, mut socket: TcpStream, client: SocketAddr) -> io::Result<Option<Refusal>> {
        let settings = &self.server.settings;
        let waker = Waker::new()?;
        let draw = u32::from_ne_bytes(random::bytes()?) % 100;
        let limits = self.server.limits();
        let admitted = match settings.max_connections {
            most @ 1.. if self.connections.count() >= most => Err(Refusal::MaxConnections),
            _ => self.startups.admit(&limits, client.ip(), Some(waker.clone()), draw, Instant::now()),
        };
        let (startup, displaced) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                // As sshd does. A new connection takes so few bytes at once; whether the client does is its own affair.
                let _ = socket.write(b"Not allowed at this time\r\n");
                return Ok(Some(refusal));
            }
        };
        if let Some(displaced) = displaced {
            self.turned_away(Refusal::MaxStartups, displaced, "lost its place to another one");
        }
        socket.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        let local = socket.local_addr()?;
        let id = random::name()?;
        let server = Arc::clone(&self.server);
        let country = server.country(client.ip()).to_owned();
        let registration = self.connections.register(&id, &waker, country.clone());
        let (startups, stop) = (self.startups.clone(), Arc::clone(&self.connections.0.stop));
        let has_countries = server.geoip.is_some();
        let connection = Connection { server, id, client, local, country, waker, startups, stop };
        log::debug!("{}: {client} connected", connection.id);
        if has_countries {
            log::info!("{}: {client} is in {}", connection.id, connection.country);
        }
        std::thread::Builder::new().name("connection".into()).stack_size(STACK).spawn(move || {
            let _registration = registration;
            connection.run(socket, startup);
        })?;
        Ok(None)
    }

    /// From here on, connections are served with what `reload` gives, if all of that is good.
    fn reload(&mut self, reload: &mut impl FnMut() -> Option<Server>) {
        log::info!("SIGHUP: reading the configuration again");
        match reload().map(|server| self.renew(server)) {
            Some(Ok(())) => return log::info!("new connections are served by the new configuration"),
            Some(Err(error)) => log::error!("{error}"),
            None => {}
        }
        log::error!("the new configuration is not used; the old one stays");
    }

    fn renew(&mut self, server: Server) -> Result<(), ServeError> {
        let listeners = listen(&server.settings.listen, &self.listeners)?;
        let monitor = Monitor::start(&server.monitoring, &self.monitor, &self.connections.0.stop)?;
        // The last that can fail, since there is one log for all.
        logger::install(&server.log).map_err(ServeError::Log)?;
        (self.listeners, self.monitor) = (listeners, monitor);
        self.server = Arc::new(server);
        self.reaper.renew(&self.server);
        Ok(())
    }
}

/// Whether accept failed since the client has gone again.
fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | ConnectionAborted | ConnectionReset | Interrupted)
}

/// All running connections.
#[derive(Clone, Default)]
struct Connections(Arc<Registry>);

#[derive(Default)]
struct Registry {
    stop: Arc<AtomicBool>,
    running: Mutex<HashMap<String, Waker>>,
    ended: Condvar,
}

/// A connection's entry, removed when dropped.
struct Registration {
    id: String,
    country: String,
    connections: Connections,
}

impl Connections {
    fn register(&self, id: &str, waker: &Waker, country: String) -> Registration {
        self.running().insert(id.to_owned(), waker.clone());
        metrics::count(Metric::Connections, &[("country", &country)]);
        metrics::count(Metric::CurrentConnections, &[("country", &country)]);
        Registration { id: id.to_owned(), country, connections: self.clone() }
    }

    fn count(&self) -> usize {
        self.running().len()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waker>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all to end, and waits until they have, for `time` at most.
    fn end(&self, time: Duration) {
        self.0.stop.store(true, Ordering::Relaxed);
        let running = self.running();
        for waker in running.values() {
            waker.wake();
        }
        let result = self.0.ended.wait_timeout_while(running, time, |running| !running.is_empty());
        let left = result.map_or(0, |(running, _)| running.len());
        if left > 0 {
            log::error!("{left} connections have not ended in time; the next start removes their containers");
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.running().remove(&self.id);
        metrics::add(Metric::CurrentConnections, &[("country", &self.country)], -1);
        self.connections.0.ended.notify_all();
    }
}
