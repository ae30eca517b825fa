//! Packets that were changed on their way end the connection, with a reason.

mod common;

use common::{Direction, Link};

const CIPHERS: [&str; 2] = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"];

/// Changes a bit of the packet in which `direction` carries a message.
fn change(cipher: &str, direction: Direction, place: impl Fn(usize) -> usize) -> String {
    let mut link = Link::new(cipher, "hmac-sha2-256");
    link.send(direction, &[2, 0, 0, 0, 4, 1, 2, 3, 4]);
    let mut packet = link.take(direction);
    let place = place(packet.len());
    packet[place] ^= 1;
    link.give(direction, &packet).expect_err("a changed packet is refused").to_string()
}

#[test]
fn a_changed_tag_or_ciphertext_ends_the_connection() {
    for cipher in CIPHERS {
        for direction in [Direction::ToServer, Direction::ToClient] {
            for place in
                [(|_| 4) as fn(usize) -> usize, |length| length - 17, |length| length - 16, |length| length - 1]
            {
                let reason = change(cipher, direction, place);
                assert!(!reason.is_empty(), "{cipher} {direction:?}");
            }
        }
    }
}

#[test]
fn what_was_not_changed_arrives() {
    for cipher in CIPHERS {
        let mut link = Link::new(cipher, "hmac-sha2-256");
        for direction in [Direction::ToServer, Direction::ToClient] {
            for _ in 0..3 {
                link.send(direction, &[2, 0, 0, 0, 0]);
                let packet = link.take(direction);
                link.give(direction, &packet).unwrap();
            }
        }
    }
}
