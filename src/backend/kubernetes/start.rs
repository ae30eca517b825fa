//! Waiting for a pod's agent.
//!
//! The API tells of a running container up to a second late, for that is how often kubelets look. So once the pod has a
//! node, its agent is called every now and then without being asked to; what the API says serves for everything that goes
//! wrong, and makes the next call the one that has to succeed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde_json::Value as Json;

use super::Error;
use super::api::Api;
use super::call::{Call, WAITER_INTERVAL};
use super::exec::Executed;
use super::outlook::{self, Outlook};
use super::pod;
use super::watch::Watch;
use crate::http::{Deadline, encode};

/// How long is waited between two calls: an eighth of the time that has gone by, within these bounds.
const CALLS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Reasons of events that keep a pod from starting, for as long as they come. Others are only remarks.
const STOPPERS: [&str; 4] = ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedMapVolume"];

/// Reasons of warnings that say nothing of whether a pod starts.
const REMARKS: [&str; 2] = ["MissingClusterDNS", "DNSConfigForming"];

/// A pod that was created.
pub(super) struct Starting<'a> {
    /// The way to its agent.
    pub call: Call<'a>,
    /// As the API server has answered.
    pub created: &'a Json,
    /// How its agent comes into it.
    pub agent: Agent<'a>,
}

/// How an agent comes into a pod.
#[derive(Clone, Copy)]
pub(super) enum Agent<'a> {
    /// By an init container.
    Installed,
    /// This binary is uploaded.
    Uploaded(&'a Path),
    /// There is none: the pod has only to run.
    None,
}

/// What was heard of it.
#[derive(Default)]
struct Heard {
    outlook: Outlook,
    is_deleted: bool,
    /// The last that was not good.
    last: String,
    /// What the user was told.
    told: BTreeSet<String>,
}

impl Starting<'_> {
    /// Waits for the agent; gives its stream, where there is to be one.
    pub(super) fn accept(&self) -> Result<Option<Executed>, Error> {
        let Call { api, place, waiter, deadline, patience } = self.call;
        let metadata = &self.created["metadata"];
        let text = |name: &str| metadata[name].as_str().unwrap_or_default();
        let namespace = encode(&place.namespace);
        let pods = format!("/v1/namespaces/{namespace}/pods");
        let selector = format!("metadata.name={}", place.pod);
        let mut pod = Watch::new("follow the pod", &pods, &selector, Some(text("resourceVersion")));
        let events = format!("/v1/namespaces/{namespace}/events");
        let selector = format!("involvedObject.uid={}", text("uid"));
        let mut events = Some(Watch::new("follow the pod's events", &events, &selector, None));
        let mut heard = Heard::default();
        // What holds it back from the beginning comes with no change.
        self.see(self.created, &mut heard);
        let begin = Instant::now();
        let mut next_call = begin + CALLS.0;
        loop {
            self.hear(api, &mut pod, &mut events, &mut heard)?;
            if let Some(failure) = heard.outlook.failure.take() {
                return Err(failure);
            }
            if heard.is_deleted {
                return Err(Error::Ended { message: outlook::DELETED.into() });
            }
            let may_call = heard.outlook.is_scheduled && !matches!(self.agent, Agent::None);
            if heard.outlook.is_running || may_call && Instant::now() >= next_call {
                // Read before the call: what it says must hold at its begin.
                let must_succeed = heard.outlook.is_running;
                let called = match self.agent {
                    Agent::Installed => self.call.join()?,
                    Agent::Uploaded(binary) => self.call.upload(binary, pod::upload)?,
                    Agent::None => return Ok(None),
                };
                match called {
                    Ok(stream) => return Ok(Some(stream)),
                    Err(error) if must_succeed => return Err(error),
                    Err(error) => log::debug!("{}: not yet: {error}", place.pod),
                }
                next_call = Instant::now() + (begin.elapsed() / 8).clamp(CALLS.0, CALLS.1);
            }
            if waiter.is_gone() {
                return Err(Error::Gone);
            }
            if deadline.has_passed() {
                return Err(match heard.outlook.unscheduled.take() {
                    Some((reason, message)) => Error::NotStarting { reason, message },
                    None => Error::TimedOut { after: patience, last: heard.last },
                });
            }
            let left = if may_call {
                next_call.saturating_duration_since(Instant::now()).min(WAITER_INTERVAL)
            } else {
                WAITER_INTERVAL
            };
            self.wait(&pod, events.as_ref(), left)?;
        }
    }

    /// Takes what the pod says of itself.
    fn see(&self, pod: &Json, heard: &mut Heard) {
        heard.outlook = Outlook::of(pod, &self.call.place.container);
        if let Some((reason, message)) = &heard.outlook.unscheduled {
            heard.last.clone_from(message);
            let line = match reason.as_str() {
                "Unschedulable" => "the cluster has no room for the container yet".to_owned(),
                _ => format!("the cluster gives the container no place yet ({reason})"),
            };
            self.tell(&mut heard.told, line);
        }
    }

    /// Takes what there is to hear.
    fn hear(&self, api: &Api, pod: &mut Watch, events: &mut Option<Watch>, heard: &mut Heard) -> Result<(), Error> {
        while let Some(change) = pod.next(api)? {
            self.see(&change.object, heard);
            heard.is_deleted = change.is_deleted;
        }
        let Some(watch) = events else { return Ok(()) };
        loop {
            match watch.next(api) {
                Ok(Some(change)) => {
                    let event = &change.object;
                    if event["reason"] == "Pulling" {
                        let message = event["message"].as_str().unwrap_or_default();
                        let image = message.split('"').nth(1).unwrap_or("the image");
                        let line = format!("Pulling {image}");
                        // It may be there already, in its newest version.
                        if heard.told.insert(line.clone()) {
                            self.call.waiter.announce(&line);
                        }
                    } else if let Some((reason, message)) = outlook::warning(event)
                        && !REMARKS.contains(&reason.as_str())
                    {
                        let warning = format!("{reason}: {message}");
                        // Kubelets repeat themselves.
                        if heard.last != warning {
                            log::info!("kubernetes: {}: {warning}", self.call.place.pod);
                            heard.last = warning;
                        }
                        if STOPPERS.contains(&reason.as_str()) {
                            self.tell(&mut heard.told, format!("the container does not start yet ({reason})"));
                        }
                    }
                }
                Ok(None) => return Ok(()),
                // They say more, and are not needed.
                Err(error) => {
                    log::warn!("{error}");
                    *events = None;
                    return Ok(());
                }
            }
        }
    }

    fn tell(&self, told: &mut BTreeSet<String>, line: String) {
        if !told.contains(&line) {
            self.call.waiter.progress(&line);
            told.insert(line);
        }
    }

    fn wait(&self, pod: &Watch, events: Option<&Watch>, left: Duration) -> Result<(), Error> {
        let deadline = self.call.deadline.min(Deadline::after(left));
        let on = |fd| (fd, PollFlags::IN);
        let result = match (pod.fd(), events.and_then(Watch::fd)) {
            (Some(pod), Some(events)) => deadline.poll([on(pod), on(events)]).map(drop),
            (Some(one), None) | (None, Some(one)) => deadline.poll([on(one)]).map(drop),
            (None, None) => deadline.poll([]).map(drop),
        };
        result.map_err(|error| Error::Command { step: "follow the pod", detail: error.to_string() })
    }
}
