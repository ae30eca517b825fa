//! An agent that means ill hurts its own connection alone.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use berth::backend::Scope;
use berth::config;
use berth::connection::forward::HostPort;
use berth::connection::frame;
use berth::connection::message::{
    ChannelRequest, GlobalRequest, MAXIMUM_PACKET, Open, OpenFailure, WINDOW, bare, exit_status, number,
    open_confirmation, open_failure,
};
use berth::connection::wire::{Reader, Write};

use crate::harness::{Killed, Played, Server, has_hung_up, text, until};
use crate::port::free_port;

/// For those that look at this process's memory, and for those that take much of it.
static MEMORY: Mutex<()> = Mutex::new(());

/// An open of the agent's.
fn open(channel_type: &str, sender: u32, specific: &[u8]) -> Vec<u8> {
    let channel_type = channel_type.as_bytes();
    Open { channel_type, sender, window: WINDOW, maximum_packet: MAXIMUM_PACKET, specific }.encode()
}

/// What `forwarded-tcpip` adds.
fn forwarded(host: &str, port: u16) -> Vec<u8> {
    let mut specific = Vec::new();
    HostPort { host: host.as_bytes(), port: port.into() }.encode(&mut specific);
    HostPort { host: b"192.0.2.1", port: 5 }.encode(&mut specific);
    specific
}

fn data(recipient: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = bare(number::CHANNEL_DATA, recipient);
    message.put_string(bytes);
    message
}

/// A client that runs a command, and its agent, which has confirmed the session: the client's number.
fn session(server: &Server) -> (Killed, Played, u32) {
    session_with(server, &[])
}

/// As [`session`], with options for the client.
fn session_with(server: &Server, options: &[&str]) -> (Killed, Played, u32) {
    let mut ssh = server.ssh("played", &[options, &["localhost", "command"]].concat());
    let ssh = Killed(ssh.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut agent = server.play();
    agent.greet();
    let message = agent.expect(number::CHANNEL_OPEN);
    let client = Open::decode(&message[1..]).unwrap().sender;
    agent.send(&open_confirmation(client, 0, WINDOW));
    loop {
        let message = agent.expect(number::CHANNEL_REQUEST);
        if ChannelRequest::decode(&message[1..]).unwrap().name == b"exec" {
            agent.send(&bare(number::CHANNEL_SUCCESS, client));
            return (ssh, agent, client);
        }
    }
}

/// A client that has `port` listened on, and its agent, which says that it does.
fn listening(server: &Server, port: u16) -> (Killed, Played) {
    let forward = format!("{port}:localhost:{}", free_port());
    let mut ssh = server.ssh("played", &["-N", "-R", &forward, "localhost"]);
    let ssh = Killed(ssh.stderr(Stdio::null()).spawn().unwrap());
    let mut agent = server.play();
    agent.greet();
    let message = agent.expect(number::GLOBAL_REQUEST);
    assert_eq!(GlobalRequest::decode(&message[1..]).unwrap().name, b"tcpip-forward");
    agent.send(&[number::REQUEST_SUCCESS]);
    (ssh, agent)
}

/// The reason of the refusal that the agent hears next.
fn refusal(agent: &mut Played, sender: u32) -> u32 {
    let message = agent.expect(number::CHANNEL_OPEN_FAILURE);
    let mut fields = Reader::new(&message[1..]);
    assert_eq!(fields.u32(), Ok(sender));
    fields.u32().unwrap()
}

#[test]
fn channels_that_the_client_did_not_ask_for_are_refused_behind_its_back() {
    let server = Server::start();
    let (mut ssh, mut agent, client) = session(&server);
    for channel_type in [
        "session",
        "direct-tcpip",
        "forwarded-tcpip",
        "forwarded-streamlocal@openssh.com",
        "auth-agent@openssh.com",
        "agent-connect",
        "x11",
    ] {
        agent.send(&open(channel_type, 9, &forwarded("localhost", 8080)));
        assert_eq!(refusal(&mut agent, 9), 1, "{channel_type}");
    }
    // Had the client seen any of them, it would have answered, too, or be gone.
    agent.send(&data(client, b"undisturbed"));
    agent.send(&exit_status(client, 0));
    agent.send(&bare(number::CHANNEL_CLOSE, client));
    assert!(ssh.0.wait().unwrap().success());
    assert_eq!(crate::harness::read_to_end(ssh.0.stdout.take().unwrap()), "undisturbed");
}

#[test]
fn only_the_port_that_the_client_asked_for_leads_to_it() {
    let server = Server::start();
    let port = free_port();
    let (_ssh, mut agent) = listening(&server, port);
    for (host, port) in [("localhost", port + 1), ("", port), ("127.0.0.1", port)] {
        agent.send(&open("forwarded-tcpip", 9, &forwarded(host, port)));
        assert_eq!(refusal(&mut agent, 9), 1);
    }
    agent.send(&open("forwarded-tcpip", 9, &forwarded("localhost", port)));
    // Nobody listens where the client is to connect to: its own answer.
    assert_eq!(refusal(&mut agent, 9), 2);
}

#[test]
fn an_agent_that_breaks_the_protocol_loses_its_connection_alone() {
    let server = Server::start();
    let mut long = Vec::new();
    long.put_u32(frame::MAXIMUM as u32 + 1);
    let framed = |message: &[u8]| {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, message);
        bytes
    };
    let cases: [(&str, Vec<u8>); 9] = [
        ("an oversized frame", long),
        ("an empty frame", vec![0; 4]),
        ("an unknown message", framed(&[200])),
        ("a truncated open", framed(&open("forwarded-tcpip", 9, &forwarded("localhost", 1))[..30])),
        ("a truncated confirmation", framed(&[number::CHANNEL_OPEN_CONFIRMATION, 0, 0])),
        ("an answer to no request", framed(&[number::REQUEST_SUCCESS])),
        ("a number of the server's", framed(&open_confirmation(0, 0x8000_0000, WINDOW))),
        ("data for no channel", framed(&data(4711, b"x"))),
        ("a second hello", framed(&[number::CHANNEL_OPEN])),
    ];
    for (what, bytes) in cases {
        let (mut ssh, mut agent, _) = session(&server);
        agent.stream.write_all(&bytes).unwrap();
        agent.ends();
        assert_eq!(ssh.0.wait().unwrap().code(), Some(255), "{what}");
    }
    server.assert_serves_others();
}

#[test]
fn an_agent_that_speaks_on_anothers_channel_loses_its_session_alone() {
    let server = Server::start_as(config::Forwarding::default(), Scope::Session);
    let control = server.directory.join("control");
    let options = ["-S", text(&control)];
    let _master = Killed(server.ssh("played", &[&options[..], &["-M", "-N", "localhost"]].concat()).spawn().unwrap());
    until("the control socket", || control.exists());
    let (mut first, mut good, client) = session_with(&server, &options);
    let (mut second, mut bad, _) = session_with(&server, &options);
    bad.send(&data(client, b"forged"));
    bad.ends();
    assert_eq!(second.0.wait().unwrap().code(), Some(255));
    good.send(&data(client, b"undisturbed"));
    good.send(&exit_status(client, 0));
    good.send(&bare(number::CHANNEL_CLOSE, client));
    assert!(first.0.wait().unwrap().success());
    assert_eq!(crate::harness::read_to_end(first.0.stdout.take().unwrap()), "undisturbed");
}

#[test]
fn an_agent_that_opens_one_number_twice_loses_its_connection() {
    let server = Server::start();
    let port = free_port();
    let (_ssh, mut agent) = listening(&server, port);
    let twice = open("forwarded-tcpip", 9, &forwarded("localhost", port));
    let mut framed = Vec::new();
    // At once, so that the client cannot have answered.
    frame::append(&mut framed, &twice);
    frame::append(&mut framed, &twice);
    agent.stream.write_all(&framed).unwrap();
    agent.ends();
    server.assert_serves_others();
}

#[test]
fn an_agent_that_ends_amid_a_frame_ends_its_connection() {
    let server = Server::start();
    let (mut ssh, mut agent, client) = session(&server);
    agent.send(&data(client, b"half"));
    agent.stream.write_all(&[0, 0, 1, 0, number::CHANNEL_DATA]).unwrap();
    drop(agent);
    assert_eq!(ssh.0.wait().unwrap().code(), Some(255));
    server.assert_serves_others();
}

#[test]
fn an_agent_without_a_hello_is_none() {
    let server = Server::start();
    let mut ssh = server.ssh("played", &["localhost", "command"]);
    let mut ssh = Killed(ssh.stderr(Stdio::null()).spawn().unwrap());
    let mut agent = server.play();
    agent.send(&open("session", 1, b""));
    agent.ends();
    assert_eq!(ssh.0.wait().unwrap().code(), Some(255));
}

#[test]
fn an_agent_that_leaves_before_its_hello_ends_its_connection() {
    let server = Server::start();
    let mut ssh = server.ssh("played", &["localhost", "command"]);
    let mut ssh = Killed(ssh.stderr(Stdio::null()).spawn().unwrap());
    drop(server.play());
    assert_eq!(ssh.0.wait().unwrap().code(), Some(255));
    server.assert_serves_others();
}

#[test]
fn data_beyond_the_clients_window_is_the_clients_to_judge() {
    let server = Server::start();
    let (mut ssh, mut agent, client) = session(&server);
    // Its output is not read meanwhile: so the client opens the window no further.
    let chunk = data(client, &[0; MAXIMUM_PACKET as usize]);
    let mut framed = Vec::new();
    (0..2 * WINDOW / MAXIMUM_PACKET).for_each(|_| frame::append(&mut framed, &chunk));
    frame::append(&mut framed, &exit_status(client, 7));
    frame::append(&mut framed, &bare(number::CHANNEL_CLOSE, client));
    // Newer clients leave before they have heard all, older ones drop what is too much.
    let _ = agent.stream.write_all(&framed);
    crate::harness::read_to_end(ssh.0.stdout.take().unwrap());
    assert!(matches!(ssh.0.wait().unwrap().code(), Some(7 | 255)));
    agent.ends();
    server.assert_serves_others();
}

/// What this process, so the server, has in memory, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Writes `bytes` again and again, until nothing has been taken for a while: all buffers on the way are full. Gives by
/// how much the server has grown meanwhile, in bytes.
fn flood(to: impl AsFd, bytes: &[u8]) -> usize {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    rustix::io::ioctl_fionbio(&to, true).unwrap();
    let before = memory();
    let (mut written, mut waits) = (0, 0);
    // Where a piece is taken, the rest of it has to come next.
    let mut rest = bytes;
    while waits < 100 {
        match rustix::io::write(&to, rest) {
            Ok(count) => {
                written += count;
                waits = 0;
                rest = if count < rest.len() { &rest[count..] } else { bytes };
                assert!(written < 256 << 20, "it takes everything");
            }
            Err(_) => {
                waits += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
    memory().saturating_sub(before)
}

#[test]
fn a_flood_of_opens_that_reads_no_answer_ends_and_is_not_kept() {
    let server = Server::start();
    let (_ssh, mut agent, _) = session(&server);
    let mut opens = Vec::new();
    (0..1000).for_each(|_| frame::append(&mut opens, &open("x11", 1, b"")));
    let before = memory();
    let mut written = 0;
    // Nothing is read: the refusals fill the stream.
    while agent.stream.write_all(&opens).is_ok() {
        written += opens.len();
        assert!(written < 64 << 20, "it goes on for ever");
    }
    until("the stream ends", || has_hung_up(&agent.stream));
    let grown = memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    server.assert_serves_others();
}

#[test]
fn a_flood_of_data_for_a_client_that_reads_nothing_is_not_kept() {
    let server = Server::start();
    let (ssh, agent, client) = session(&server);
    // Stopped, it takes nothing off its socket.
    let pid = rustix::process::Pid::from_child(&ssh.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut flood_of_data = Vec::new();
    (0..8).for_each(|_| frame::append(&mut flood_of_data, &data(client, &[0; MAXIMUM_PACKET as usize])));
    let grown = flood(&agent.stream, &flood_of_data);
    assert!(grown < 8 << 20, "{grown} bytes more");
    server.assert_serves_others();
}

#[test]
fn a_window_without_end_is_not_kept_for_an_agent_that_reads_nothing() {
    let server = Server::start();
    let mut ssh = server.ssh("played", &["localhost", "command"]);
    let ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut ssh, mut agent) = (Killed(ssh), server.play());
    agent.greet();
    let message = agent.expect(number::CHANNEL_OPEN);
    let client = Open::decode(&message[1..]).unwrap().sender;
    agent.send(&open_confirmation(client, 0, u32::MAX));
    let stdin = ssh.0.stdin.take().unwrap();
    let grown = flood(&stdin, &[0; 1 << 16]);
    assert!(grown < 8 << 20, "{grown} bytes more");
    server.assert_serves_others();
}

#[test]
fn a_flood_of_requests_whose_answers_are_not_read_is_not_kept() {
    let server = Server::start();
    let (_ssh, agent, client) = session(&server);
    let request = ChannelRequest { recipient: client, name: b"no-such", want_reply: true, specific: b"" }.encode();
    let mut requests = Vec::new();
    (0..1000).for_each(|_| frame::append(&mut requests, &request));
    let grown = flood(&agent.stream, &requests);
    assert!(grown < 8 << 20, "{grown} bytes more");
    server.assert_serves_others();
}

#[test]
fn an_agent_that_answers_no_open_is_not_sent_them_without_end() {
    const MOST: usize = 1024;
    const MORE: usize = 20;
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    // A socket for each, here as well as in ssh.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    let server = Server::start();
    let (local, log) = (free_port(), server.directory.join("log"));
    let forward = format!("{local}:localhost:1");
    let mut ssh = server.ssh("played", &["-v", "-E", text(&log), "-N", "-L", &forward, "localhost"]);
    let _ssh = Killed(ssh.spawn().unwrap());
    until("ssh listens", || TcpStream::connect(("127.0.0.1", local)).is_ok());
    let mut agent = server.play();
    agent.greet();
    let logged = |words: &str| std::fs::read_to_string(&log).unwrap_or_default().matches(words).count();
    let mut connections = Vec::new();
    for count in 2..=MOST + MORE {
        connections.push(TcpStream::connect(("127.0.0.1", local)).unwrap());
        // As fast as ssh accepts: it has a short queue.
        if count % 64 == 0 {
            until("ssh has accepted them", || logged("requested.") == count);
        }
    }
    until("the last ones are refused", || logged("resource shortage") == MORE);
    let opens: Vec<_> = (0..MOST).map(|_| agent.expect(number::CHANNEL_OPEN)).collect();
    assert!(agent.is_idle());
    // What the agent refuses makes room.
    let first = Open::decode(&opens[0][1..]).unwrap().sender;
    agent.send(&open_failure(first, OpenFailure::ConnectFailed, "no"));
    until("the refusal has come", || logged("connect failed") == 1);
    connections.push(TcpStream::connect(("127.0.0.1", local)).unwrap());
    agent.expect(number::CHANNEL_OPEN);
}
