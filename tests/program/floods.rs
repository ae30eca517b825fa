//! Clients that send without end and read nothing: what they cost is bounded, whatever phase their connection is in.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use serde_json::json;

use crate::common::{Berth, PASSWORD, RawClient, auth_request, connect_from, key, string};

/// A message that nobody knows.
const UNKNOWN: u8 = 200;

/// How many messages are sent.
const MESSAGES: usize = 1_000_000;

/// By how much the server's memory may grow, in kB: docs/architecture.md has the bounds that this is made of.
const GROWTH: usize = 8 * 1024;

/// The most memory that the server has had so far, in kB.
fn peak(berth: &Berth) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", berth.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Asserts that a server's memory stays where it is while this is done.
#[track_caller]
fn is_bounded(flood: impl FnOnce(&Berth)) {
    let berth = Berth::start();
    // What the first login takes stays.
    let mut other = RawClient::connect(berth.port);
    other.log_in(PASSWORD);
    let before = peak(&berth);
    flood(&berth);
    // The kernel counts by pages that it has not told of yet.
    let growth = peak(&berth).saturating_sub(before);
    assert!(growth < GROWTH, "by {growth} kB");
    berth.exec("echo in").run().succeeds().prints("in\n");
}

/// A packet as it is before there are keys, RFC 4253 section 6.
fn plain(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let length = (payload.len() + padding + 1) as u32;
    [&length.to_be_bytes()[..], &[padding as u8], payload, &vec![0; padding]].concat()
}

/// SSH_MSG_KEXINIT, RFC 4253 section 7.1.
fn kexinit() -> Vec<u8> {
    let names = [
        "curve25519-sha256",
        "ssh-ed25519",
        "aes128-ctr",
        "aes128-ctr",
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ];
    [&[20][..], &[7; 16], &names.map(string).concat(), &[0; 5]].concat()
}

/// `ping@openssh.com`, from OpenSSH's PROTOCOL, section 1.8.
fn ping() -> Vec<u8> {
    [&[192][..], &string("a")].concat()
}

/// Writes these bytes again and again before there are keys, until the server is gone or there were enough.
fn flood_plainly(berth: &Berth, beginning: &[u8], bytes: &[u8]) {
    let mut socket = connect_from(Ipv4Addr::LOCALHOST, berth.port);
    socket.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    let many = bytes.repeat((1 << 20) / bytes.len() + 1);
    let _ = socket.write_all(beginning).and_then(|()| (0..40).try_for_each(|_| socket.write_all(&many)));
}

#[test]
fn before_the_key_exchange() {
    for bytes in [&plain(&[UNKNOWN])[..], &plain(&[2, 0, 0, 0, 0]), &plain(&kexinit()), b"x", b"\r\n"] {
        is_bounded(|berth| flood_plainly(berth, b"SSH-2.0-test\r\n", bytes));
    }
    is_bounded(|berth| flood_plainly(berth, b"", b"not SSH at all\r\n"));
}

#[test]
fn in_the_key_exchange() {
    let beginning = [b"SSH-2.0-test\r\n", &plain(&kexinit())[..]].concat();
    for bytes in [plain(&[UNKNOWN]), plain(&[2, 0, 0, 0, 0]), plain(&kexinit())] {
        is_bounded(|berth| flood_plainly(berth, &beginning, &bytes));
    }
}

#[test]
fn before_the_login_by_what_is_answered_by_the_transport() {
    for message in [&[UNKNOWN][..], &[2, 0, 0, 0, 0], &[20]] {
        is_bounded(|berth| {
            RawClient::connect(berth.port).flood(message, MESSAGES);
        });
    }
}

#[test]
fn before_the_login_by_requests_for_the_service() {
    is_bounded(|berth| {
        let mut client = RawClient::connect(berth.port);
        client.flood(&[&[5][..], &string("ssh-userauth")].concat(), MESSAGES);
        berth.log().line("Too many authentication failures");
    });
}

#[test]
fn before_the_login_by_requests_that_are_no_failures() {
    is_bounded(|berth| {
        let public = key("ed25519").public;
        let blob = openssl::base64::decode_block(public.split(' ').nth(1).unwrap()).unwrap();
        let query = [&auth_request("publickey")[..], &[0], &string("ssh-ed25519"), &string(blob)].concat();
        let mut client = RawClient::connect(berth.port);
        client.ask_for_service();
        client.flood(&query, MESSAGES);
        berth.log().line("Too many authentication failures");
    });
}

#[test]
fn after_the_login_by_opens_and_global_requests() {
    let open = [&[90][..], &string("unknown"), &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]].concat();
    let refused = [&[80][..], &string("unknown"), &[1]].concat();
    let alive = [&[80][..], &string("keepalive@openssh.com"), &[1]].concat();
    for message in [open, refused, alive, ping(), vec![UNKNOWN]] {
        is_bounded(|berth| {
            let mut client = RawClient::connect(berth.port);
            client.log_in(PASSWORD);
            client.flood(&message, MESSAGES);
            // It is not read from, and has done nothing wrong.
            berth.has_connections(2);
        });
    }
}

#[test]
fn after_the_login_by_requests_of_a_session() {
    is_bounded(|berth| {
        let mut client = RawClient::connect(berth.port);
        client.log_in(PASSWORD);
        client.send(&[&[90][..], &string("session"), &[0, 0, 0, 1, 0, 32, 0, 0, 0, 0, 128, 0]].concat());
        let channel = client.expect(91)[5..9].to_vec();
        client.flood(&[&[98][..], &channel, &string("unknown"), &[1]].concat(), MESSAGES);
    });
}

#[test]
fn in_a_key_exchange_after_the_login() {
    let alive = [&[80][..], &string("keepalive@openssh.com"), &[1]].concat();
    for message in [kexinit(), alive, ping(), vec![UNKNOWN]] {
        is_bounded(|berth| {
            let mut client = RawClient::connect(berth.port);
            client.log_in(PASSWORD);
            client.send(&kexinit());
            client.flood(&message, MESSAGES);
        });
    }
}

#[test]
fn of_another_ssh_server_that_does_not_read() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let berth = Berth::with(|config| {
        config["backend"] = "sshproxy".into();
        config["sshproxy"] = json!({
            "server": "127.0.0.1",
            "port": port,
            "username": "guest",
            "password": "guest",
            "allowedHostKeyFingerprints": [format!("SHA256:{}", "x".repeat(43))],
            "timeout": "10s",
        });
    });
    let session = |serve: &dyn Fn(std::net::TcpStream)| {
        let running = berth.exec("true").spawn();
        serve(listener.accept().unwrap().0);
        running.wait().exits(255);
        peak(&berth)
    };
    let before = session(&drop);
    let many = plain(&[UNKNOWN]).repeat(1 << 16);
    let after = session(&|mut socket| {
        socket.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let _ = socket.write_all(b"SSH-2.0-test\r\n").and_then(|()| (0..40).try_for_each(|_| socket.write_all(&many)));
    });
    let growth = after.saturating_sub(before);
    assert!(growth < GROWTH, "by {growth} kB");
}
