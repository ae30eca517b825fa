//! The stream to the server, and its end.

use std::io::Write as _;
use std::process::Command;

use berth::connection::frame::{HELLO, STOPPING};
use berth::connection::message::{GlobalRequest, MAXIMUM_PACKET, number};

use crate::harness::{Outcome, Server, is_running, number_in, wait_for_end};

#[test]
fn a_malformed_or_oversized_frame_ends_the_stream() {
    for bytes in [&[0, 0, 0, 2, 90, 0][..], &[0, 0, 0, 0], &[0xff; 8], &[0, 0, 0, 5, 97, 0, 0, 0, 9]] {
        let mut server = Server::start();
        server.stream.write_all(bytes).unwrap();
        let (status, complaint) = server.wait();
        assert_eq!(status.code(), Some(1));
        assert!(complaint.starts_with("berth agent: "), "{complaint}");
    }
}

#[test]
fn another_version_is_refused_in_words() {
    let mut server = Server::connect();
    server.send(&GlobalRequest { name: HELLO, want_reply: false, specific: &[0, 0, 0, 99, 0, 0, 0, 0] }.encode());
    let (status, complaint) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("version 99"), "{complaint}");
}

#[test]
fn a_terminal_is_hung_up_when_the_stream_ends_and_other_sessions_go_on() {
    let mut server = Server::start();
    let [plain, terminal] = [false, true].map(|terminal| {
        let channel = server.open();
        assert!(!terminal || server.pty(channel, 80, 24, &[0]));
        server.exec(channel, "echo $$; exec sleep 100");
        let mut outcome = Outcome::default();
        server.until(&mut outcome, "\n");
        number_in(&outcome.text())
    });
    server.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(server.wait().0.code(), Some(0));
    wait_for_end(terminal);
    assert!(is_running(plain));
    assert!(Command::new("kill").arg(plain.to_string()).status().unwrap().success());
    wait_for_end(plain);
}

#[test]
fn sigterm_hangs_sessions_up_tells_their_clients_and_ends_the_agent() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "echo ready; exec sleep 100");
    server.until(&mut Outcome::default(), "ready");
    assert!(Command::new("kill").arg(server.agent.id().to_string()).status().unwrap().success());
    let stopping = server.expect(&[number::GLOBAL_REQUEST]);
    assert_eq!(GlobalRequest::decode(&stopping[1..]).unwrap().name, STOPPING);
    let outcome = server.outcome();
    assert!(outcome.events().contains("exit 255"), "{outcome:?}");
    assert_eq!(outcome.error(), "berth: the container is being stopped\n");
    server.close(channel);
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn what_is_said_of_the_containers_end_stays_within_the_clients_window() {
    let mut server = Server::start();
    let channel = server.open_with(10, MAXIMUM_PACKET);
    server.exec(channel, "printf ready; exec sleep 100");
    server.until(&mut Outcome::default(), "ready");
    assert!(Command::new("kill").arg(server.agent.id().to_string()).status().unwrap().success());
    server.expect(&[number::GLOBAL_REQUEST]);
    assert_eq!(server.outcome().error(), "berth");
}
