//! Native mode, `docker.execution.disableAgent`: no agent in the container, whose programs run through the API.
//!
//! The agent's own channel code serves the client, in a thread of the server's; the bridge sees a stream like any
//! other. Behind the channels are programs that Docker executes in the container, or where each session has a
//! container, the container's own command. What takes an agent is refused: forwarding, and signals to what was executed.

mod host;
mod pump;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use super::{Docker, Error, Lease, REMOVE_ATTEMPTS, body, encode, image, present, sidecars};
use crate::agent::{self, Connection, Endpoint, Round};
use crate::backend::{Backend, Container, Request, Scope, Waiter};
use crate::http::Deadline;
use crate::waker::Waker;
use host::{End, Native, Program, Target};

/// Stack of an endpoint's thread and of those that carry its programs' streams, in bytes. Only what is touched costs
/// memory.
const STACK: usize = 512 * 1024;

/// Makes a container, unless each session has its own, and the endpoint that serves its client.
pub(super) fn start(docker: &Docker, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
    let (api, settings) = (&docker.shared.api, &docker.settings);
    let platform = settings.platform.as_deref();
    let image = image::resolve(api, settings, settings.image_pull_policy, waiter)?;
    present(waiter)?;
    let mut lease = Lease::new(&docker.shared, request);
    let settings = &Arc::new(sidecars::start(docker, &mut lease, request, waiter)?);
    let labels = body::labels(&docker.instance, request);
    let create = format!(
        "/containers/create?name={}{}",
        lease.container,
        platform.map_or_else(String::new, |platform| format!("&platform={}", encode(platform)))
    );
    let target = match docker.scope() {
        Scope::Connection => {
            lease.created = true;
            let deadline = Deadline::after(settings.container_start);
            api.call("create the container", "POST", &create, Some(&body::idle(settings, labels)), deadline)?;
            docker.put_files(&lease.container, &request.metadata, deadline)?;
            present(waiter)?;
            let start = format!("/containers/{}/start", lease.container);
            api.call("start the container (docker.execution.idleCommand)", "POST", &start, None, deadline)?;
            Target::Running(lease.container.clone())
        }
        Scope::Session => Target::New {
            create,
            labels,
            has_command: body::has_command(settings, &image),
            metadata: Arc::clone(&request.metadata),
        },
    };
    lease.attempts = REMOVE_ATTEMPTS;
    let failed = |source| Error::Native { step: "make a stream", source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    theirs.set_nonblocking(true).map_err(failed)?;
    let stop = ours.try_clone().map_err(failed)?;
    let waker = Waker::new().map_err(failed)?;
    let (ends, ended) = channel();
    let host = Native::new(Arc::clone(&docker.shared), Arc::clone(settings), target, lease, ends, waker.clone());
    let connection = request.connection.clone();
    let thread = std::thread::Builder::new().name("native".into()).stack_size(STACK);
    let thread = thread.spawn(move || match serve(theirs, host, &waker, &ended) {
        Ok(()) => (),
        Err(error) => log::error!("{connection}: {error}"),
    });
    let thread = thread.map_err(|source| Error::Native { step: "start a thread", source })?;
    Ok(Container { stream: Box::new(ours), lease: Box::new(Served { stop, thread: Some(thread) }) })
}

/// Serves the client until the stream ends, or the container does. Then the container is removed.
fn serve(
    stream: UnixStream,
    host: Native,
    waker: &Waker,
    ended: &Receiver<(Arc<Program>, End)>,
) -> Result<(), agent::Error> {
    let mut endpoint = Endpoint::new(OwnedFd::from(stream).into(), Connection::new(host)?);
    while endpoint.flush()? {
        match endpoint.round(waker.as_fd(), None)? {
            Round::Served(false) => {}
            Round::Served(true) => {
                waker.clear();
                let mut is_lost = false;
                for (program, end) in ended.try_iter() {
                    is_lost |= end.is_lost();
                    endpoint.connection.ended(&program, end.exit());
                }
                if is_lost {
                    endpoint.flush()?;
                    break;
                }
            }
            Round::Ended => break,
        }
    }
    Ok(())
}

/// Ends an endpoint, and waits until its container is removed.
struct Served {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It fails where the thread has ended already.
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
