//! Packets that were changed on their way end the connection with a reason, before and after keys were exchanged anew. Each
//! algorithm by itself has its tests beside the code: src/packet/tests.rs.

mod common;

use common::{Direction, Link};
use libssh_server::{Error, PacketError, number};

const ALGORITHMS: [(&str, &str); 6] = [
    ("aes128-gcm@openssh.com", ""),
    ("aes256-gcm@openssh.com", ""),
    ("chacha20-poly1305@openssh.com", ""),
    ("aes256-ctr", "hmac-sha2-256-etm@openssh.com"),
    ("aes128-ctr", "hmac-sha2-256"),
    ("aes192-ctr", "hmac-sha2-512"),
];

const DIRECTIONS: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

/// SSH_MSG_GLOBAL_REQUEST, which is for the session's owner.
const MESSAGE: &[u8] = &[80, 0, 0, 0, 1, b'x', 0];

/// Links of all algorithms on which a user is logged in, each before and after a key exchange that one side began.
fn links() -> impl Iterator<Item = (String, Direction, Link)> {
    ALGORITHMS.into_iter().flat_map(|(cipher, mac)| {
        let mac = if mac.is_empty() { "hmac-sha2-256" } else { mac };
        DIRECTIONS.into_iter().flat_map(move |direction| {
            [None, Some(Direction::ToServer), Some(Direction::ToClient)].map(|anew| {
                let mut link = Link::new(cipher, mac);
                link.login();
                if let Some(side) = anew {
                    link.exchange_keys(side);
                }
                (format!("{cipher} {mac} {direction:?}, anew: {anew:?}"), direction, link)
            })
        })
    })
}

fn packet(link: &mut Link, direction: Direction) -> Vec<u8> {
    link.send(direction, MESSAGE);
    link.take(direction)
}

/// What ended the receiver's session. What is changed in a length may have it wait for more.
fn end(link: &mut Link, direction: Direction, bytes: &[u8]) -> Error {
    let mut result = link.give(direction, bytes);
    for _ in 0..40 {
        match result {
            Ok(messages) => assert!(messages.is_empty(), "a message came"),
            Err(error) => return error,
        }
        result = link.give(direction, &[0x5a; 8192]);
    }
    panic!("the connection goes on");
}

#[test]
fn what_was_not_changed_arrives() {
    for (name, direction, mut link) in links() {
        for _ in 0..3 {
            let bytes = packet(&mut link, direction);
            let framed = [&(MESSAGE.len() as u32).to_be_bytes(), MESSAGE].concat();
            assert_eq!(link.give(direction, &bytes).unwrap(), framed, "{name}");
        }
    }
}

#[test]
fn a_changed_bit_ends_the_connection() {
    for place in [4, 12, -17, -1] {
        for (name, direction, mut link) in links() {
            let mut bytes = packet(&mut link, direction);
            let index = if place < 0 { bytes.len().strict_add_signed(place) } else { place as usize };
            bytes[index] ^= 1;
            let error = end(&mut link, direction, &bytes);
            assert!(matches!(error, Error::Packet(PacketError::Mac)), "{name}: {error}");
            assert_eq!(error.to_string(), "Corrupted MAC on input.");
        }
    }
}

#[test]
fn a_changed_length_ends_the_connection() {
    for (place, bit) in [(0, 0x80), (3, 1), (3, 0x20), (2, 1)] {
        for (name, direction, mut link) in links() {
            let mut bytes = packet(&mut link, direction);
            bytes[place] ^= bit;
            let error = end(&mut link, direction, &bytes);
            assert!(matches!(error, Error::Packet(_)), "{name}: {error}");
        }
    }
}

#[test]
fn a_repeated_or_dropped_packet_ends_the_connection() {
    for (name, direction, mut link) in links() {
        let bytes = packet(&mut link, direction);
        assert!(!link.give(direction, &bytes).unwrap().is_empty());
        let error = end(&mut link, direction, &bytes);
        assert!(matches!(error, Error::Packet(_)), "{name}: {error}");
    }
    for (name, direction, mut link) in links() {
        packet(&mut link, direction);
        let bytes = packet(&mut link, direction);
        let error = end(&mut link, direction, &bytes);
        assert!(matches!(error, Error::Packet(_)), "{name}: {error}");
    }
}

#[test]
fn the_peer_is_told_that_the_connection_ends() {
    let mut link = Link::new("aes128-gcm@openssh.com", "hmac-sha2-256");
    let mut bytes = packet(&mut link, Direction::ToServer);
    *bytes.last_mut().unwrap() ^= 1;
    end(&mut link, Direction::ToServer, &bytes);
    let farewell = link.disconnect_server(2, "Packet corrupt");
    let error = link.give(Direction::ToClient, &farewell).unwrap_err();
    assert_eq!(error.to_string(), "\"Received SSH_MSG_DISCONNECT: 2:Packet corrupt\"");
}

#[test]
fn messages_wait_for_a_key_exchange_in_their_order() {
    for cipher in ["aes128-gcm@openssh.com", "aes256-ctr"] {
        for direction in DIRECTIONS {
            let mut link = Link::new(cipher, "hmac-sha2-256");
            link.login();
            link.begin_exchange(direction);
            for number in 0..5 {
                link.send(direction, &[80, 0, 0, 0, 1, number, 0]);
            }
            assert!(link.pending(direction) > 5 * 7);
            let messages = link.settle();
            let numbers: Vec<_> = messages.chunks(11).map(|message| message[9]).collect();
            assert_eq!(numbers, [0, 1, 2, 3, 4], "{cipher} {direction:?}");
        }
    }
}

#[test]
fn a_message_put_in_before_the_first_keys_ends_the_connection() {
    for direction in DIRECTIONS {
        for number in [2, 4, 200] {
            let mut link = Link::unsettled("chacha20-poly1305@openssh.com", "hmac-sha2-256");
            link.insert_after_identification(direction, &[0, 0, 0, 12, 6, number, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]);
            let error = link.try_settle().expect_err("an injected packet is refused");
            assert_eq!(error.to_string(), "strict key exchange violation", "{direction:?} {number}");
        }
    }
}

#[test]
fn a_client_that_speaks_no_ssh_is_told_so_in_text() {
    for (line, answer) in [
        ("GET / HTTP/1.0\r\n", "Invalid SSH identification string.\r\n"),
        ("SSH-1.5-old\r\n", "Protocol major versions differ.\r\n"),
    ] {
        let mut link = Link::unsettled("aes128-ctr", "hmac-sha2-256");
        let greeting = link.take(Direction::ToClient);
        assert_eq!(greeting, b"SSH-2.0-test_1\r\n");
        let error = link.give(Direction::ToServer, line.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), answer.trim_end());
        assert_eq!(link.disconnect_server(2, "not to be heard"), answer.as_bytes());
    }
}

#[test]
fn a_ping_is_answered_with_what_it_says_and_a_malformed_one_ends_the_connection() {
    for (name, direction, mut link) in links().filter(|(_, direction, _)| *direction == Direction::ToServer) {
        for says in ["", "abc"] {
            let length = says.len() as u32;
            link.send(direction, &[&[number::PING], &length.to_be_bytes()[..], says.as_bytes()].concat());
            let bytes = link.take(direction);
            assert!(link.give(direction, &bytes).unwrap().is_empty(), "{name}");
            // A client of this crate's knows no PONG, and says so: as it would of nothing else that may come now.
            let answer = link.take(Direction::ToClient);
            assert!(link.give(Direction::ToClient, &answer).unwrap().is_empty(), "{name}");
            let unknown = link.take(direction);
            assert!(!unknown.is_empty(), "{name}");
            link.give(direction, &unknown).unwrap();
        }
        link.send(direction, &[number::PING, 0, 0, 0, 2, b'x']);
        let bytes = link.take(direction);
        let error = link.give(direction, &bytes).unwrap_err();
        assert!(matches!(error, Error::Packet(PacketError::Message(number::PING))), "{name}: {error}");
    }
}
