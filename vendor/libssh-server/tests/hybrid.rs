//! The hybrid key exchange between a server's session and a client's, with the test in between.

mod common;

use common::{Direction, Link};

use Direction::{ToClient, ToServer};

const NAME: &str = "mlkem768x25519-sha256";

/// An encapsulation key and a ciphertext of ML-KEM-768, and the key of X25519 behind each, in bytes.
const ENCAPSULATION_KEY: usize = 1184;
const CIPHERTEXT: usize = 1088;
const X25519: usize = 32;

fn begin() -> Link {
    Link::of(NAME, "aes128-ctr", "hmac-sha2-256")
}

/// The strings in the body of a message that comes first in these plain packets, and the packets behind it.
fn opened(packets: &[u8], number: u8) -> (Vec<Vec<u8>>, Vec<u8>) {
    let length = u32::from_be_bytes(packets[..4].try_into().unwrap()) as usize;
    let (packet, behind) = packets.split_at(4 + length);
    assert_eq!(packet[5], number);
    let mut rest = &packet[6..packet.len() - usize::from(packet[4])];
    let mut strings = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (string, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        strings.push(string.to_vec());
        rest = after;
    }
    (strings, behind.to_vec())
}

/// The opposite.
fn packed(number: u8, strings: &[Vec<u8>], behind: &[u8]) -> Vec<u8> {
    let mut message = vec![number];
    for string in strings {
        message.extend_from_slice(&(string.len() as u32).to_be_bytes());
        message.extend_from_slice(string);
    }
    let padding = 8 - (5 + message.len()) % 8 + 8;
    let mut packet = ((1 + message.len() + padding) as u32).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend_from_slice(&message);
    packet.resize(packet.len() + padding, 0);
    packet.extend_from_slice(behind);
    packet
}

/// Carries identifications and KEXINITs; gives the client's keys, which are still to be carried.
fn begun() -> (Link, Vec<u8>) {
    let mut link = begin();
    for _ in 0..2 {
        let (from_server, from_client) = (link.take(ToClient), link.take(ToServer));
        link.give(ToClient, &from_server).unwrap();
        link.give(ToServer, &from_client).unwrap();
    }
    let keys = link.take(ToServer);
    (link, keys)
}

/// Changes the client's message; gives what the server says of it, or the client of the answer.
fn with_init(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> String {
    let (mut link, keys) = begun();
    let (mut strings, behind) = opened(&keys, 30);
    change(&mut strings);
    if let Err(error) = link.give(ToServer, &packed(30, &strings, &behind)) {
        return format!("server: {error}");
    }
    let answer = link.take(ToClient);
    link.give(ToClient, &answer).map_or_else(|error| format!("client: {error}"), |_| "nothing".into())
}

/// Changes the server's message: its host key, its keys and its signature; gives what the client says of it.
fn with_reply(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> String {
    let (mut link, keys) = begun();
    link.give(ToServer, &keys).unwrap();
    let (mut strings, behind) = opened(&link.take(ToClient), 31);
    assert_eq!(strings.len(), 3);
    change(&mut strings);
    link.give(ToClient, &packed(31, &strings, &behind)).map_or_else(|error| error.to_string(), |_| "nothing".into())
}

#[test]
fn keys_are_exchanged_first_and_again_at_the_wish_of_either_side() {
    let mut link = begin();
    link.settle();
    let first = link.identifier();
    assert_eq!(first.len(), 32);
    link.login();
    for direction in [ToServer, ToClient, ToClient, ToServer] {
        link.exchange_keys(direction);
        assert_eq!(link.identifier(), first);
        for direction in [ToServer, ToClient] {
            let message = [98, 0, 0, 0, 0];
            link.send(direction, &message);
            let packet = link.take(direction);
            assert_eq!(link.give(direction, &packet).unwrap(), [&[0, 0, 0, 5][..], &message].concat());
        }
    }
}

#[test]
fn what_was_not_changed_is_good() {
    assert_eq!((with_init(|_| ()), with_reply(|_| ())), ("nothing".into(), "nothing".into()));
}

#[test]
fn keys_of_another_length_end_the_connection() {
    for length in [0, X25519, ENCAPSULATION_KEY, ENCAPSULATION_KEY + X25519 - 1, ENCAPSULATION_KEY + X25519 + 1, 30_000]
    {
        let reason = with_init(|strings| strings[0].resize(length, 0));
        assert_eq!(reason, format!("server: key exchange failed: {length} bytes of keys where there must be 1216"));
    }
    for length in [0, X25519, CIPHERTEXT, CIPHERTEXT + X25519 - 1, CIPHERTEXT + X25519 + 1, 30_000] {
        let reason = with_reply(|strings| strings[1].resize(length, 0));
        assert_eq!(reason, format!("key exchange failed: {length} bytes of keys where there must be 1120"));
    }
}

#[test]
fn messages_with_more_or_fewer_parts_end_the_connection() {
    let malformed = "key exchange failed: a message has not the parts that it must have";
    assert_eq!(with_init(|strings| strings.clear()), format!("server: {malformed}"));
    assert_eq!(with_init(|strings| strings.push(Vec::new())), format!("server: {malformed}"));
    assert_eq!(with_reply(|strings| drop(strings.pop())), malformed);
    assert_eq!(with_reply(|strings| strings.push(Vec::new())), malformed);
}

#[test]
fn an_encapsulation_key_that_is_none_ends_the_connection() {
    let reason = with_init(|strings| strings[0][..3].fill(0xff));
    assert_eq!(reason, "server: key exchange failed: not an ML-KEM-768 encapsulation key");
}

#[test]
fn an_x25519_key_of_small_order_ends_the_connection() {
    let small = "key exchange failed: an X25519 key of small order";
    assert_eq!(with_init(|strings| strings[0][ENCAPSULATION_KEY..].fill(0)), format!("server: {small}"));
    assert_eq!(with_reply(|strings| strings[1][CIPHERTEXT..].fill(0)), small);
}

#[test]
fn one_bit_changed_in_any_part_fails_the_hosts_signature() {
    let refused = "\"Failed to verify server hostkey signature\"";
    // Of the encapsulation key, its seed: any bytes are one.
    for place in [ENCAPSULATION_KEY - 1, ENCAPSULATION_KEY] {
        assert_eq!(with_init(|strings| strings[0][place] ^= 1), format!("client: {refused}"), "{place}");
    }
    for place in [0, CIPHERTEXT - 1, CIPHERTEXT] {
        assert_eq!(with_reply(|strings| strings[1][place] ^= 1), refused, "{place}");
    }
    // Behind the names of their types.
    assert_eq!(with_reply(|strings| strings[0][20] ^= 1), refused);
    assert_eq!(with_reply(|strings| strings[2][20] ^= 1), refused);
}
