//! Clients that send the first message of a key exchange before they know its method (RFC 4253 section 7.1).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use libssh_server::{Algorithms, HostKey, HostKeys, KeyKind, Session};

const METHOD: &str = "curve25519-sha256";

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// A packet as it is before there are keys.
fn packet(message: &[u8]) -> Vec<u8> {
    let padding = 8 - (5 + message.len()) % 8 + 8;
    let length = (1 + message.len() + padding) as u32;
    [&length.to_be_bytes()[..], &[padding as u8], message, &vec![0; padding]].concat()
}

/// SSH_MSG_KEXINIT of a client that has guessed its first method.
fn kexinit(methods: &str) -> Vec<u8> {
    let lists = [methods, "ssh-ed25519", "aes128-ctr", "aes128-ctr", "hmac-sha2-256", "hmac-sha2-256", "none", "none"];
    let lists = lists.into_iter().chain(["", ""]).flat_map(|list| string(list.as_bytes()));
    [&[20][..], &[7; 16], &lists.collect::<Vec<u8>>(), &[1, 0, 0, 0, 0]].concat()
}

/// The numbers of the messages with which a server answers a client that prefers `methods` and sends these messages.
fn answers(methods: &str, messages: &[&[u8]]) -> Vec<u8> {
    let mut keys = HostKeys::default();
    keys.add(HostKey::generate(KeyKind::Ed25519).unwrap());
    let offered = format!("{METHOD},diffie-hellman-group-exchange-sha256");
    let algorithms = Algorithms::new("test_1", &offered, "ssh-ed25519", "aes128-ctr", "hmac-sha2-256", "ssh-ed25519");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut server = Session::new(listener.accept().unwrap().0, &algorithms, Arc::new(keys)).unwrap();
    let packets = messages.iter().flat_map(|message| packet(message));
    client
        .write_all(&[&b"SSH-2.0-test\r\n"[..], &packet(&kexinit(methods)), &packets.collect::<Vec<_>>()].concat())
        .unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    while server.receive(&mut Vec::new()).is_ok() {}
    server.flush_within(Duration::from_secs(30));
    drop(server);
    let mut bytes = Vec::new();
    // Where the server has not read all, its end is a reset.
    let _ = client.read_to_end(&mut bytes);
    let mut rest = &bytes["SSH-2.0-test_1\r\n".len()..];
    let mut numbers = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        numbers.push(behind[1]);
        rest = behind.get(u32::from_be_bytes(*length) as usize..).unwrap_or_default();
    }
    numbers
}

#[test]
fn what_was_sent_by_a_wrong_guess_is_passed_over() {
    let init = [&[30][..], &string(&[&[9][..], &[0; 31]].concat())].concat();
    let request = [&[34][..], &2048u32.to_be_bytes(), &3072u32.to_be_bytes(), &8192u32.to_be_bytes()].concat();
    assert_eq!(answers(METHOD, &[&init]), [20, 31, 21]);
    for guess in [&[30][..], &request, &init] {
        assert_eq!(answers(&format!("unknown,{METHOD}"), &[guess, &init]), [20, 31, 21], "{guess:?}");
    }
    // Preferred by the client alone, and taken all the same.
    let group_exchange = format!("diffie-hellman-group-exchange-sha256,{METHOD}");
    assert_eq!(answers(&group_exchange, &[&request]), [20]);
    assert_eq!(answers(&group_exchange, &[&request, &request]), [20, 31]);
}
