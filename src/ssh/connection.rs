//! One connection's thread.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libssh_server::{Error, Session};
use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::authentication::{Authentication, Login, Progress, UNAVAILABLE};
use super::bridge::{Bridge, End, LIMIT, is_behind};
use super::penalties::Offence;
use super::startups::{Stage, Startup, Startups};
use super::{Server, reason, rotation, stack};
use crate::connection::frame::Queue;
use crate::connection::message::GlobalRequest;
use crate::metrics::{self, Metric};
use crate::turn::{Turn, Turns};
use crate::waker::Waker;

/// A connection on which nothing moves for so long is idle, and gives back its buffers.
const IDLE: Duration = Duration::from_secs(1);

/// How long the last words may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// Turns at key exchanges: a large group takes a tenth of a second.
static EXCHANGES: LazyLock<Turns> = LazyLock::new(|| Turns::for_processors(0));

/// How long a connection may wait for such a turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a connection's thread is given.
pub struct Connection {
    pub server: Arc<Server>,
    /// Unique over all berth processes.
    pub id: String,
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client's, by its code.
    pub country: String,
    pub waker: Waker,
    pub startups: Startups,
    /// Set, and the waker woken, where the server is to end.
    pub stop: Arc<AtomicBool>,
}

impl Connection {
    /// Serves the client until it or the server ends the connection. Its container is removed when this returns.
    pub fn run(self, socket: TcpStream, startup: Startup) {
        let _on_panic = OnPanic(&self);
        let session = match Session::new(socket, &self.server.algorithms, Arc::clone(&self.server.host_keys)) {
            Ok(session) => session,
            Err(error) => return log::error!("{}: {error}", self.id),
        };
        let startup = Arc::new(startup);
        let authentication = Authentication::new(
            Arc::clone(&self.server),
            SocketAddr::new(self.client.ip().to_canonical(), self.client.port()),
            self.waker.clone(),
            self.id.clone(),
            Arc::clone(&startup),
        );
        let settings = &self.server.settings;
        let (grace, began) = (settings.login_grace_time, Instant::now());
        let mut thread = Thread {
            alive: Alive::new(settings.client_alive_interval, settings.client_alive_count_max),
            session,
            queue: Queue::default(),
            phase: Phase::Authentication {
                authentication: Box::new(authentication),
                deadline: (!grace.is_zero()).then(|| began + grace),
                exchange_deadline: Some(began + settings.key_exchange_timeout),
                startup,
            },
            offence: None,
            idle: false,
            connection: &self,
        };
        let end = loop {
            if let Err(end) = thread.round() {
                break end;
            }
        };
        let Thread { mut session, mut phase, offence, .. } = thread;
        let mut is_lost = false;
        if let Phase::Authentication { authentication, startup, .. } = &phase {
            metrics::count(Metric::FailedHandshakes, &[("country", &self.country)]);
            startup.reached(Stage::Gone);
            is_lost = startup.is_lost();
            // Whoever lost a place has been told of that already.
            if !is_lost && !self.stop.load(Ordering::Relaxed) {
                self.penalise(offence.or_else(|| authentication.offence()));
            }
        }
        let farewell = match end {
            End::Session(Error::Protocol(text)) => {
                // In quotes: the words may be the client's.
                log::info!("{}: {text:?}", self.id);
                Some((reason::PROTOCOL_ERROR, text))
            }
            End::Session(Error::Packet(error)) => {
                log::info!("{}: {error}", self.id);
                Some((reason::PROTOCOL_ERROR, "Packet corrupt".into()))
            }
            End::Session(Error::Hybrid(error)) => {
                log::info!("{}: {error}", self.id);
                Some((reason::KEY_EXCHANGE_FAILED, "key exchange failed".into()))
            }
            End::Session(error) => {
                log::info!("{}: {error}", self.id);
                None
            }
            End::Disconnect(reason, text) => {
                // There may be very many that have lost their place.
                let level = if is_lost { Level::Debug } else { Level::Info };
                log::log!(level, "{}: disconnecting: {text}", self.id);
                if !is_lost {
                    session.flush_within(FAREWELL);
                }
                Some((reason, text))
            }
        };
        if let Some((reason, text)) = farewell {
            if let Phase::Bridge(bridge) = &mut phase {
                // In one piece with the message: a client whose last session has ended may hear nothing more.
                let _ = bridge.cut(&mut session);
            }
            session.disconnect(reason, &text);
        }
        // After the client has been told: removing the container takes longer.
        drop(phase);
        log::debug!("{}: done", self.id);
    }

    fn penalise(&self, offence: Option<Offence>) {
        let Some(offence) = offence else { return };
        let client = self.client.ip();
        if let Some(time) = self.startups.penalise(&self.server.limits(), client, offence, Instant::now()) {
            let (id, client, time) = (&self.id, client.to_canonical(), time.as_secs());
            log::warn!("{id}: {client} is refused for {time} s, by ssh.perSourcePenalties");
        }
    }
}

/// Holds it against the client where its connection's thread panics.
struct OnPanic<'a>(&'a Connection);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.penalise(Some(Offence::Crash));
        }
    }
}

/// The state of a running connection.
struct Thread<'a> {
    connection: &'a Connection,
    session: Session,
    /// The client's messages that have not been looked at.
    queue: Queue,
    phase: Phase,
    alive: Alive,
    /// What is held against a client that has not logged in.
    offence: Option<Offence>,
    idle: bool,
}

enum Phase {
    Authentication {
        authentication: Box<Authentication>,
        /// The end of the login grace time.
        deadline: Option<Instant>,
        /// By when keys must have been exchanged, until they are.
        exchange_deadline: Option<Instant>,
        /// Makes room for the next client when all have dropped it.
        startup: Arc<Startup>,
    },
    Bridge(Box<Bridge>),
}

/// What poll has found.
struct Ready {
    client: PollFlags,
    /// By their guests.
    agents: Vec<(u32, PollFlags)>,
}

impl Thread<'_> {
    /// Deals with all that is there, and waits for more.
    fn round(&mut self) -> Result<(), End> {
        self.is_wanted()?;
        self.dispatch()?;
        let ready = self.wait()?;
        if ready.client.contains(PollFlags::OUT) {
            self.session.flush()?;
        }
        if ready.client.contains(PollFlags::IN) {
            self.receive()?;
        } else if ready.client.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP) {
            return Err(End::Session(Error::Closed));
        }
        if let Phase::Bridge(bridge) = &mut self.phase {
            for (guest, flags) in ready.agents {
                bridge.ready(&mut self.session, guest, flags)?;
            }
        }
        Ok(())
    }

    /// Reads from the client, or computes what it has asked for.
    fn receive(&mut self) -> Result<(), End> {
        let turn = if self.session.will_compute() { Some(self.turn()?) } else { None };
        self.session.receive(self.queue.tail())?;
        drop(turn);
        self.alive.heard();
        if let Phase::Authentication { exchange_deadline, startup, .. } = &mut self.phase {
            let has_keys = !self.session.is_exchanging();
            startup.reached(if has_keys { Stage::Authenticating } else { Stage::Exchanging });
            *exchange_deadline = exchange_deadline.filter(|_| !has_keys);
        }
        Ok(())
    }

    /// Waits for a turn at a key exchange.
    fn turn(&self) -> Result<Turn<'static>, End> {
        let Connection { server, client, .. } = self.connection;
        let is_wanted = || self.is_wanted().is_ok();
        let turn = EXCHANGES.take_for(Some(server.source(client.ip())), 0, PATIENCE, &is_wanted);
        let Some(turn) = turn else {
            self.is_wanted()?;
            return Err(End::Disconnect(reason::BY_APPLICATION, UNAVAILABLE.into()));
        };
        Ok(turn)
    }

    /// Whether the client is to be served, or why not.
    fn is_wanted(&self) -> Result<(), End> {
        if self.connection.stop.load(Ordering::Relaxed) {
            return Err(End::Disconnect(reason::BY_APPLICATION, "the server is shutting down".into()));
        }
        // It has lost its place to another one.
        if matches!(&self.phase, Phase::Authentication { startup, .. } if startup.is_lost()) {
            return Err(End::Disconnect(reason::TOO_MANY_CONNECTIONS, "others wait for this place".into()));
        }
        Ok(())
    }

    /// Gives the client's messages to whom they concern.
    fn dispatch(&mut self) -> Result<(), End> {
        if let Phase::Authentication { authentication, deadline, exchange_deadline, .. } = &mut self.phase {
            for (deadline, what) in [(deadline, "authentication"), (exchange_deadline, "the key exchange")] {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    self.offence = Some(Offence::GraceExceeded);
                    return Err(End::Disconnect(reason::BY_APPLICATION, format!("timeout before {what}")));
                }
            }
            let Some(login) = authenticate(authentication, &mut self.session, &mut self.queue)? else { return Ok(()) };
            let Connection { server, id, client, local, country, waker, .. } = self.connection;
            metrics::count(Metric::SuccessfulHandshakes, &[("country", country)]);
            let bridge = Bridge::new(Arc::clone(server), id.clone(), *client, *local, waker.clone(), *login);
            self.phase = Phase::Bridge(Box::new(bridge));
            self.session.send(&rotation::announcement(&server.host_keys))?;
        }
        if let Phase::Bridge(bridge) = &mut self.phase {
            bridge.resume(&mut self.session)?;
            bridge.client_messages(&mut self.session, &mut self.queue)?;
            self.alive.check(&mut self.session)?;
        }
        Ok(())
    }

    /// Waits until something can be done.
    fn wait(&mut self) -> Result<Ready, End> {
        let mut client = PollFlags::empty();
        client.set(PollFlags::OUT, self.session.has_output());
        let (mut may_come, deadline, bridge) = match &self.phase {
            Phase::Authentication { authentication, deadline, exchange_deadline, .. } => {
                let deadline = deadline.iter().chain(exchange_deadline).min().copied();
                // Where nothing is read, its end must show all the same: work for it would go on.
                client.set(PollFlags::RDHUP, authentication.is_waiting());
                (!authentication.is_waiting(), deadline, None)
            }
            Phase::Bridge(bridge) => (true, self.alive.deadline(), Some(bridge)),
        };
        may_come &= self.queue.len() < LIMIT && !is_behind(&self.session);
        client.set(PollFlags::IN, may_come);
        // Poll does not tell of what was read already.
        let has_input = may_come && self.session.has_input();
        let mut timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if !self.idle {
            timeout = Some(timeout.map_or(IDLE, |timeout| timeout.min(IDLE)));
        }
        let socket = self.session.socket();
        let waker = &self.connection.waker;
        let mut fds = vec![PollFd::new(&socket, client), PollFd::new(waker, PollFlags::IN)];
        let mut guests = Vec::new();
        for (guest, stream, flags) in bridge.iter().flat_map(|bridge| bridge.interests(&self.session)) {
            // Only so: a stream that has hung up is always ready, and would keep the loop busy while it is not wanted.
            if !flags.is_empty() {
                guests.push(guest);
                fds.push(PollFd::from_borrowed_fd(stream, flags));
            }
        }
        let timeout = if has_input { Some(Timespec::default()) } else { timeout.map(timespec) };
        let found = match poll(&mut fds, timeout.as_ref()) {
            Ok(found) => found,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(End::Session(Error::Io(error.into()))),
        };
        let agents = guests.into_iter().zip(fds[2..].iter().map(PollFd::revents));
        let mut ready =
            Ready { client: fds[0].revents(), agents: agents.filter(|(_, found)| !found.is_empty()).collect() };
        ready.client.set(PollFlags::IN, has_input || ready.client.contains(PollFlags::IN));
        if !fds[1].revents().is_empty() {
            waker.clear();
        }
        if found == 0 && !has_input && !self.idle {
            self.idle = true;
            self.session.shrink();
            self.queue.shrink();
            if let Phase::Bridge(bridge) = &mut self.phase {
                bridge.shrink();
            }
            stack::trim();
        } else if !ready.client.is_empty() || !ready.agents.is_empty() {
            self.idle = false;
        }
        Ok(ready)
    }
}

fn timespec(duration: Duration) -> Timespec {
    // A millisecond more, so that a deadline has passed when poll returns.
    let duration = duration + Duration::from_millis(1);
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// Takes authentication on as far as it goes now.
fn authenticate(
    authentication: &mut Authentication,
    session: &mut Session,
    queue: &mut Queue,
) -> Result<Option<Box<Login>>, End> {
    let mut progress = authentication.resume(session);
    loop {
        match progress {
            Progress::Continue => (),
            Progress::Done(login) => return Ok(Some(login)),
            Progress::Refuse(reason, text) => return Err(End::Disconnect(reason, text)),
            Progress::Failed(error) => return Err(End::Session(error)),
        }
        if authentication.is_waiting() || is_behind(session) {
            return Ok(None);
        }
        let Ok(Some(message)) = queue.front() else { return Ok(None) };
        progress = authentication.message(session, message);
        queue.pop();
    }
}

/// Whether the client still answers: sshd_config(5), ClientAliveInterval.
struct Alive {
    /// Zero where nothing is asked.
    interval: Duration,
    most: u32,
    unanswered: u32,
    asked_or_heard: Instant,
}

impl Alive {
    fn new(interval: Duration, most: u32) -> Self {
        Alive { interval, most, unanswered: 0, asked_or_heard: Instant::now() }
    }

    fn heard(&mut self) {
        self.unanswered = 0;
        self.asked_or_heard = Instant::now();
    }

    fn deadline(&self) -> Option<Instant> {
        (!self.interval.is_zero()).then(|| self.asked_or_heard + self.interval)
    }

    fn check(&mut self, session: &mut Session) -> Result<(), End> {
        if self.deadline().is_none_or(|deadline| Instant::now() < deadline) {
            return Ok(());
        }
        if self.unanswered >= self.most {
            return Err(End::Disconnect(reason::CONNECTION_LOST, "timeout, client not responding".into()));
        }
        self.unanswered += 1;
        self.asked_or_heard = Instant::now();
        let request = GlobalRequest { name: b"keepalive@openssh.com", want_reply: true, specific: b"" };
        Ok(session.send(&request.encode())?)
    }
}

#[cfg(test)]
mod tests;
