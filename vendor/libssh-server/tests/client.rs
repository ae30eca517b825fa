//! The binding against OpenSSH's client.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libssh_server::{Algorithms, Error, HostKey, HostKeys, KeyKind, Session, number};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const KEX: &str = "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,\
    ecdh-sha2-nistp521,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512";
const KEYS: &str = "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256";
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,\
    aes128-ctr";
const MACS: &str = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512";

/// What the test server saw.
#[derive(Default)]
struct Seen {
    client: String,
    methods: Vec<String>,
    received: usize,
    end: Option<Error>,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// A server that lets everyone in by "none", answers one exec request, counts what it is sent, and echoes
/// `echo` bytes of zeros with exit status 7.
fn serve(socket: TcpStream, keys: Arc<HostKeys>, download: usize) -> Seen {
    let algorithms = Algorithms::new("test_1", KEX, KEYS, CIPHERS, MACS, "ssh-ed25519,rsa-sha2-256");
    let mut session = Session::new(socket, &algorithms, keys).unwrap();
    let mut seen = Seen::default();
    let (mut left, mut window, mut running) = (download, 0, false);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "the client neither went on nor ended");
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, session.has_output());
        let socket = session.socket();
        let mut fds = [PollFd::new(&socket, flags)];
        let busy = running && left > 0 && window > 0 && session.pending() < 100_000 && !session.is_exchanging();
        let has_input = session.has_input();
        let timeout = Timespec { tv_sec: i64::from(!busy && !has_input), tv_nsec: 0 };
        poll(&mut fds, Some(&timeout)).unwrap();
        let events = fds[0].revents();
        if events.contains(PollFlags::OUT)
            && let Err(error) = session.flush()
        {
            seen.end = Some(error);
            return seen;
        }
        let mut messages = Vec::new();
        if (has_input || events.intersects(PollFlags::IN | PollFlags::HUP))
            && let Err(error) = session.receive(&mut messages)
        {
            seen.end = Some(error);
        }
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let (message, after) = rest[4..].split_at(u32_at(rest, 0));
            rest = after;
            match message[0] {
                number::SERVICE_REQUEST => {
                    let mut accept = message.to_vec();
                    accept[0] = number::SERVICE_ACCEPT;
                    session.send(&accept).unwrap();
                }
                number::USERAUTH_REQUEST => {
                    let user = u32_at(message, 1);
                    let service = u32_at(message, 5 + user);
                    let at = 9 + user + service;
                    let method = String::from_utf8(message[at + 4..at + 4 + u32_at(message, at)].to_vec()).unwrap();
                    seen.methods.push(method);
                    assert!(!session.identifier().is_empty());
                    seen.client = session.client().unwrap();
                    session.authenticated().unwrap();
                }
                90 => session
                    .send(&[&[91, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0, 32, 0, 0], &[0, 0, 128, 0]].concat())
                    .unwrap(),
                93 => window += u32_at(message, 5),
                94 => {
                    seen.received += u32_at(message, 5);
                    let adjust = [&[93, 0, 0, 0, 0][..], &message[5..9]].concat();
                    session.send(&adjust).unwrap();
                }
                96 if left == 0 && running => {
                    finish(&mut session);
                    running = false;
                }
                98 if message.windows(4).any(|name| name == b"exec") => {
                    session.send(&[99, 0, 0, 0, 0]).unwrap();
                    running = true;
                    window = 2 * 1024 * 1024;
                }
                _ => (),
            }
        }
        while running && left > 0 && window > 32768 && session.pending() < 200_000 && !session.is_exchanging() {
            let size = left.min(32768);
            let data = [&[94, 0, 0, 0, 0][..], &(size as u32).to_be_bytes(), &vec![0; size]].concat();
            session.send(&data).unwrap();
            (left, window) = (left - size, window - size);
            if left == 0 {
                finish(&mut session);
                running = false;
            }
        }
        if seen.end.is_some() {
            return seen;
        }
    }
}

fn finish(session: &mut Session) {
    let status = [&[98, 0, 0, 0, 0, 0, 0, 0, 11][..], b"exit-status", &[0, 0, 0, 0, 7]].concat();
    session.send(&status).unwrap();
    session.send(&[97, 0, 0, 0, 0]).unwrap();
}

fn keys() -> Arc<HostKeys> {
    let mut keys = HostKeys::default();
    for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
        keys.add(HostKey::generate(kind).unwrap());
    }
    Arc::new(keys)
}

/// Runs `ssh options… exec` against a server that sends `download` bytes.
fn connect(options: &[&str], input: Stdio, download: usize) -> (Output, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server: JoinHandle<Seen> = std::thread::spawn(move || serve(listener.accept().unwrap().0, keys(), download));
    let output = Command::new("ssh")
        .args(["-vvv", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-T", "-p", &port])
        .args(options)
        .args(["user@127.0.0.1", "command"])
        .stdin(input)
        .output()
        .unwrap();
    (output, server.join().unwrap())
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_gets_its_exit_status_and_output() {
    let (output, seen) = connect(&[], Stdio::null(), 1_000_000);
    assert_eq!(output.status.code(), Some(7), "{}", log(&output));
    assert_eq!(output.stdout.len(), 1_000_000);
    assert_eq!(seen.methods, ["none"]);
    assert!(seen.client.starts_with("SSH-2.0-OpenSSH_"), "{}", seen.client);
    assert!(log(&output).contains("remote software version test_1"));
}

#[test]
fn each_algorithm_is_agreed_on() {
    for (option, names) in [("KexAlgorithms", KEX), ("HostKeyAlgorithms", KEYS), ("Ciphers", CIPHERS)] {
        for name in names.split(',') {
            let (output, _) = connect(&["-o", &format!("{option}={name}")], Stdio::null(), 100_000);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 100_000), "{name}: {}", log(&output));
        }
    }
    for mac in MACS.split(',') {
        let (output, _) = connect(&["-c", "aes128-ctr", "-m", mac], Stdio::null(), 100_000);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 100_000), "{mac}: {}", log(&output));
    }
}

#[test]
fn an_algorithm_that_is_not_offered_ends_the_connection() {
    let (output, seen) = connect(&["-c", "aes128-cbc"], Stdio::null(), 10);
    assert_eq!(output.status.code(), Some(255));
    assert!(log(&output).contains("no matching cipher"), "{}", log(&output));
    assert!(seen.end.is_some());
}

#[test]
fn strict_key_exchange_and_signature_algorithms_are_announced() {
    let (output, _) = connect(&[], Stdio::null(), 10);
    assert!(log(&output).contains("will use strict KEX ordering"), "{}", log(&output));
    assert!(log(&output).contains("server-sig-algs=<ssh-ed25519,rsa-sha2-256>"), "{}", log(&output));
}

#[test]
fn keys_are_exchanged_anew_in_the_midst_of_a_download() {
    for cipher in ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr"] {
        let (output, _) = connect(&["-c", cipher, "-o", "RekeyLimit=1M"], Stdio::null(), 20_000_000);
        assert_eq!(output.status.code(), Some(7), "{cipher}: {}", log(&output));
        assert_eq!(output.stdout.len(), 20_000_000);
        assert!(
            log(&output).matches("rekeying in progress").count() > 3
                || log(&output).matches("SSH2_MSG_KEXINIT sent").count() > 10
        );
    }
}

#[test]
fn keys_are_exchanged_anew_in_the_midst_of_an_upload() {
    let file = std::env::temp_dir().join(format!("libssh-server-upload-{}", std::process::id()));
    std::fs::write(&file, vec![7; 20_000_000]).unwrap();
    let input = Stdio::from(std::fs::File::open(&file).unwrap());
    let (output, seen) = connect(&["-o", "RekeyLimit=1M"], input, 0);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", log(&output));
    assert_eq!(seen.received, 20_000_000);
}

#[test]
fn compression_works() {
    let (output, _) = connect(&["-C"], Stdio::null(), 5_000_000);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 5_000_000), "{}", log(&output));
}
