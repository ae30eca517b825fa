//! X11 forwarding.

use std::io::Write as _;
use std::net::TcpStream;

use berth::connection::forward::HostPort;
use berth::connection::message::WINDOW;
use berth::connection::wire::{Reader, Write};

use crate::harness::{Outcome, Server};

const COOKIE: &str = "00112233445566778899aabbccddeeff";

fn request(single: bool, cookie: &str) -> Vec<u8> {
    let mut specific = Vec::new();
    specific.put_boolean(single);
    specific.put_string("MIT-MAGIC-COOKIE-1");
    specific.put_string(cookie);
    specific.put_u32(1);
    specific
}

/// A session with a display: its channel, and the display's port.
fn session(server: &mut Server, single: bool) -> (u32, u16) {
    let channel = server.open();
    assert!(server.request(channel, "x11-req", &request(single, COOKIE)));
    server.exec(channel, "echo $DISPLAY; cat");
    let mut outcome = Outcome::default();
    server.until(&mut outcome, "\n");
    let text = outcome.text();
    let number = text.strip_prefix("localhost:").unwrap().strip_suffix(".1\n").unwrap();
    (channel, 6000 + number.parse::<u16>().unwrap())
}

#[test]
fn a_display_leads_to_the_client_and_goes_with_its_session() {
    let mut server = Server::start();
    let (channel, port) = session(&mut server, false);
    assert!(port >= 6010);
    for address in ["127.0.0.1", "::1"] {
        let mut socket = TcpStream::connect((address, port)).unwrap();
        let (channel_type, connection, specific) = server.opened();
        assert_eq!(channel_type, "x11");
        let originator = HostPort { host: address.as_bytes(), port: socket.local_addr().unwrap().port().into() };
        assert_eq!(HostPort::decode(&mut Reader::new(&specific)), Ok(originator));
        server.confirm(connection);
        socket.write_all(b"setup").unwrap();
        server.until(&mut Outcome::default(), "setup");
    }
    server.eof(channel);
    server.outcome();
    server.close(channel);
    assert!(server.global_request("barrier", b"").is_none());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn each_session_has_a_display_of_its_own() {
    let mut server = Server::start();
    let (_, one) = session(&mut server, false);
    let (_, two) = session(&mut server, false);
    assert_ne!(one, two);
}

#[test]
fn a_single_connection_is_forwarded_and_no_other() {
    let mut server = Server::start();
    let (_, port) = session(&mut server, true);
    let _socket = TcpStream::connect(("::1", port)).unwrap();
    server.opened();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn xauth_finds_the_cookie_that_the_client_made_up() {
    let mut server = Server::start();
    let file = server.directory.join("Xauthority");
    let xauth = |arguments: &str| {
        let mut command = std::process::Command::new("xauth");
        let output = command.arg("-f").arg(&file).args(arguments.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    xauth("add 192.0.2.1:7 MIT-MAGIC-COOKIE-1 abcd");
    let (_, port) = session(&mut server, false);
    let list = xauth("list");
    assert!(list.contains("192.0.2.1:7  MIT-MAGIC-COOKIE-1  abcd\n"), "{list}");
    assert!(list.contains(&format!("/unix:{}  MIT-MAGIC-COOKIE-1  {COOKIE}\n", port - 6000)), "{list}");
}

#[test]
fn a_second_display_and_a_cookie_that_is_none_are_refused() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(!server.request(channel, "x11-req", &request(false, "no digits; rm -rf /")));
    assert!(server.request(channel, "x11-req", &request(false, COOKIE)));
    assert!(!server.request(channel, "x11-req", &request(false, COOKIE)));
}

#[test]
fn a_display_without_a_client_that_asked_is_none() {
    let mut server = Server::start();
    assert_eq!(server.run("echo $DISPLAY").text(), "\n");
    assert!(server.open_channel("x11", WINDOW, b"").is_err(), "a client opens none");
}
