//! Calling an agent: a program is executed in a container, whose standard input and output become the agent's stream.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;

use super::Error;
use super::api::Api;
use super::exec::{End, Executed, Place};
use super::pod;
use crate::backend::Waiter;
use crate::http::Deadline;
use crate::metadata::Metadata;

/// How often it is looked whether the user is still there.
pub(super) const WAITER_INTERVAL: Duration = Duration::from_millis(250);

const STEP: &str = "reach the agent in the pod";
const PUT: &str = "put a file into the pod";

/// Where an agent is to be called, and for whom.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub api: &'a Api,
    pub place: &'a Place,
    pub waiter: &'a dyn Waiter,
    /// When the agent must be there, and how long that is from the beginning.
    pub deadline: Deadline,
    pub patience: Duration,
}

/// The agent's stream, or why it cannot be reached now; that may change.
pub(super) type Called = Result<Executed, Error>;

impl Call<'_> {
    /// Joins an agent that is there.
    pub(super) fn join(&self) -> Result<Called, Error> {
        match Executed::start(self.api, STEP, self.place, &pod::JOIN, self.deadline) {
            Ok(stream) => self.listen(stream),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Uploads the agent's binary to what `script` says for its size, which then is the agent, or joins it.
    pub(super) fn upload(&self, agent: &Path, script: impl Fn(u64) -> [String; 3]) -> Result<Called, Error> {
        let failed = |source| Error::Agent { path: agent.to_owned(), source };
        let mut file = File::open(agent).map_err(failed)?;
        let words = script(file.metadata().map_err(failed)?.len());
        let words = words.each_ref().map(String::as_str);
        let mut stream = match Executed::start(self.api, STEP, self.place, &words, self.deadline) {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        match stream.feed(&mut file, self.deadline) {
            Ok(()) => self.listen(stream),
            Err(error) => Ok(Err(broken(error))),
        }
    }

    /// Puts the user's files into the container, by its shell.
    pub(super) fn put_files(&self, metadata: &Metadata) -> Result<(), Error> {
        for (path, file) in &metadata.files {
            if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
                return Err(Error::Settings(format!("a webhook has given a file at an impossible path: {path:?}")));
            }
            // It can be counted everywhere, and not everywhere be said that no more comes.
            let script = format!(
                "umask 077; mkdir -p \"${{0%/*}}/\" && rm -f \"$0\" && head -c {} >\"$0\" && chmod {} \"$0\" && echo",
                file.value.len(),
                if file.sensitive { "600" } else { "644" },
            );
            let words = ["/bin/sh", "-c", &script, path];
            let failed = |detail| Error::Command { step: PUT, detail: format!("{path:?}: {detail}") };
            let mut stream = Executed::start(self.api, PUT, self.place, &words, self.deadline)?;
            stream.feed(&mut &*file.value, self.deadline).map_err(|error| failed(error.to_string()))?;
            self.listen(stream)?.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Waits for the first words of what was executed.
    fn listen(&self, mut stream: Executed) -> Result<Called, Error> {
        loop {
            match stream.listen() {
                Ok(true) => return Ok(Ok(stream)),
                Ok(false) => {
                    let detail = match stream.end() {
                        Some(End::Exit(status)) => format!("it ended with exit status {status}"),
                        Some(End::Failed(message)) => message.clone(),
                        None => "it says nothing".to_owned(),
                    };
                    return Ok(Err(Error::Command { step: STEP, detail }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Ok(Err(broken(error))),
            }
            if self.waiter.is_gone() {
                return Err(Error::Gone);
            }
            let soon = self.deadline.min(Deadline::after(WAITER_INTERVAL));
            soon.poll([(stream.as_fd(), PollFlags::IN)]).map_err(broken)?;
            if self.deadline.has_passed() {
                return Err(Error::TimedOut { after: self.patience, last: "its agent does not answer".into() });
            }
        }
    }
}

fn broken(error: io::Error) -> Error {
    Error::Command { step: STEP, detail: error.to_string() }
}
