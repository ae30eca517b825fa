//! Every cipher with every MAC, in both directions, before and after a re-exchange.

use proptest::prelude::*;

use super::algorithm::Algorithm;
use super::protection::Protection;
use super::{Exchange, Hash, LENGTH, MAX_LENGTH, Opener, PacketError, Sealer, Secret, Side, Use};

const AEAD: [&str; 3] = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];
const CTR: [&str; 3] = ["aes128-ctr", "aes192-ctr", "aes256-ctr"];
const MACS: [&str; 6] = [
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha1-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha1",
];

fn names() -> Vec<(&'static str, &'static str)> {
    let alone = AEAD.iter().map(|cipher| (*cipher, ""));
    alone.chain(CTR.iter().flat_map(|cipher| MACS.iter().map(|mac| (*cipher, *mac)))).collect()
}

fn algorithm((cipher, mac): (&str, &str)) -> Algorithm {
    Algorithm::named(cipher, mac, "zlib@openssh.com").unwrap()
}

fn exchange(number: u8) -> Exchange {
    let hash = vec![number; 32];
    Exchange { secret: Secret::new(vec![0, 0, 0, 1, 7]), hash, identifier: vec![1; 32], function: Hash::Sha256 }
}

/// One direction under one key.
struct Way {
    name: String,
    sealer: Sealer,
    opener: Opener,
    protection: Protection,
}

/// Each algorithm, from the client and from the server, under the first key and under a second one, whose packets' numbers
/// go on.
fn ways() -> impl Iterator<Item = Way> {
    names().into_iter().flat_map(|names| {
        [(Side::Client, Side::Server), (Side::Server, Side::Client)].into_iter().flat_map(move |(sender, receiver)| {
            [1, 2].map(|number| {
                let algorithm = algorithm(names);
                let mut sealer = exchange(number).sealer(sender, algorithm).unwrap();
                let mut opener = exchange(number).opener(receiver, algorithm).unwrap();
                if number == 2 {
                    sealer.continue_from(1234);
                    opener.continue_from(1234);
                }
                let protection = exchange(number).protection(sender, algorithm, true).unwrap();
                Way { name: format!("{names:?} from {sender:?}, key {number}"), sealer, opener, protection }
            })
        })
    })
}

impl Way {
    /// A packet with a message of this length.
    fn packet(&mut self, length: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        self.sealer.seal(&vec![94; length], &mut packet).unwrap();
        packet
    }

    /// A packet that is authentic, with a padding of this length, which may be wrong.
    fn padded(&mut self, padding: u8) -> Vec<u8> {
        let length = 32 - if self.protection.counts_length() { LENGTH } else { 0 };
        let mut packet = vec![0; LENGTH + length + self.protection.tag()];
        packet[..LENGTH].copy_from_slice(&(length as u32).to_be_bytes());
        packet[LENGTH] = padding;
        self.protection.seal(self.opener.sequence(), &mut packet).unwrap();
        packet
    }

    /// Opens all that is there: the messages' lengths, and what ended it.
    fn open(&mut self, data: &[u8]) -> (Vec<usize>, Option<PacketError>) {
        let (mut data, mut place, mut messages) = (data.to_vec(), 0, Vec::new());
        loop {
            match self.opener.open(&mut data[place..]) {
                Ok(Some(opened)) => {
                    messages.push(opened.message.len());
                    place += opened.length;
                }
                Ok(None) => return (messages, None),
                Err(error) => return (messages, Some(error)),
            }
        }
    }

    /// A good packet, then `data`, and much more behind it: so what is changed in a length finds as much as it waits for.
    fn refuses(&mut self, data: &[u8], what: &str) -> PacketError {
        let behind = vec![0x5a; MAX_LENGTH + 1024];
        let (messages, end) = self.open(&[data, &behind].concat());
        assert_eq!(messages.len(), 0, "{}: {what}: a message came", self.name);
        end.unwrap_or_else(|| panic!("{}: {what}: taken", self.name))
    }
}

#[test]
fn what_is_sealed_is_opened() {
    for mut way in ways() {
        let sizes: Vec<_> = (1..=70).chain([1000, 32_768, 200_000]).collect();
        let data: Vec<_> = sizes.iter().flat_map(|size| way.packet(*size)).collect();
        assert_eq!(way.open(&data), (sizes, None), "{}", way.name);
    }
}

#[test]
fn a_changed_bit_ends_the_connection() {
    for bit in [0, 3, 7] {
        // The length, the padding's length, the message, the padding, and the tag.
        for place in ["length", "head", "message", "padding", "tag", "end"] {
            for mut way in ways() {
                let tag = way.protection.tag();
                let before = way.packet(10);
                let mut packet = way.packet(100);
                let end = packet.len() - tag;
                let index = match place {
                    "length" => 3,
                    "head" => LENGTH,
                    "message" => LENGTH + 50,
                    "padding" => end - 1,
                    "tag" => end,
                    _ => packet.len() - 1,
                };
                packet[index] ^= 1 << bit;
                assert_eq!(way.open(&before), (vec![10], None), "{}", way.name);
                let error = way.refuses(&packet, place);
                if place != "length" {
                    assert_eq!(error, PacketError::Mac, "{}: {place}", way.name);
                }
            }
        }
    }
}

#[test]
fn a_wrong_length_is_refused_before_it_is_waited_for() {
    for (wanted, aligned) in
        [(0, true), (1, true), (5, true), (MAX_LENGTH as u32 + 1, true), (u32::MAX, true), (1001, false)]
    {
        for mut way in ways() {
            let mut packet = way.packet(100);
            let whole = packet.len() - LENGTH - way.protection.tag();
            // Where the length is encrypted, it is so by a stream.
            for (byte, change) in packet.iter_mut().zip((whole as u32 ^ wanted).to_be_bytes()) {
                *byte ^= change;
            }
            let expected = if aligned { PacketError::Length(wanted) } else { PacketError::Alignment(wanted) };
            let head = way.protection.head();
            assert_eq!(way.open(&packet[..head]), (vec![], Some(expected)), "{}", way.name);
        }
    }
}

#[test]
fn a_shortened_or_lengthened_packet_ends_the_connection() {
    for mut way in ways() {
        let mut packet = way.packet(100);
        // The next packet's first byte is not the one that is missing.
        let last = packet.pop().unwrap();
        packet.push(!last);
        way.refuses(&packet, "a byte less");
    }
    for mut way in ways() {
        let packet = way.packet(100);
        way.refuses(&[&packet[..40], &[0], &packet[40..]].concat(), "a byte more");
    }
}

#[test]
fn a_repeated_dropped_or_exchanged_packet_ends_the_connection() {
    for mut way in ways() {
        let packet = way.packet(100);
        assert_eq!(way.open(&packet), (vec![100], None));
        way.refuses(&packet, "again");
    }
    for mut way in ways() {
        way.packet(100);
        let second = way.packet(100);
        way.refuses(&second, "the first one is missing");
    }
    for mut way in ways() {
        let (first, second) = (way.packet(100), way.packet(100));
        way.refuses(&[second, first].concat(), "the wrong order");
    }
}

#[test]
fn a_padding_that_is_too_short_or_leaves_no_message_ends_the_connection() {
    for padding in [0, 3, 27, 28, 31, 32, 255] {
        for mut way in ways() {
            let packet = way.padded(padding);
            let longest = packet.len() - LENGTH - way.protection.tag() - 2;
            let (messages, end) = way.open(&packet);
            if (4..=longest).contains(&padding.into()) {
                assert_eq!((messages.len(), end), (1, None), "{}: {padding}", way.name);
            } else {
                assert_eq!((messages.len(), end), (0, Some(PacketError::Padding(padding))), "{}", way.name);
            }
        }
    }
}

#[test]
fn a_key_is_for_one_direction_and_one_exchange() {
    for names in names() {
        let algorithm = algorithm(names);
        for (number, receiver) in [(1, Side::Client), (2, Side::Server)] {
            let mut packet = Vec::new();
            exchange(1).sealer(Side::Client, algorithm).unwrap().seal(&[2; 100], &mut packet).unwrap();
            packet.resize(MAX_LENGTH + 1024, 0);
            let mut opener = exchange(number).opener(receiver, algorithm).unwrap();
            assert!(opener.open(&mut packet).is_err(), "{names:?}");
        }
    }
}

#[test]
fn compressed_messages_come_out_again() {
    for mut way in ways().step_by(9) {
        way.sealer.enable_compression();
        way.opener.enable_compression();
        let sizes = vec![1, 5000, 100, 32_768, 262_144, 1];
        let data: Vec<_> = sizes.iter().flat_map(|size| way.packet(*size)).collect();
        assert!(data.len() < 4000, "{}", data.len());
        assert_eq!(way.open(&data), (sizes, None), "{}", way.name);
    }
}

#[test]
fn what_a_packet_inflates_to_is_bounded() {
    for size in [MAX_LENGTH + 1, 100_000_000] {
        let mut way = ways().next().unwrap();
        way.sealer.enable_compression();
        way.opener.enable_compression();
        let packet = way.packet(size);
        assert_eq!(way.open(&packet), (vec![], Some(PacketError::Compression)));
    }
}

#[test]
fn what_does_not_inflate_ends_the_connection() {
    let mut way = ways().next().unwrap();
    way.opener.enable_compression();
    let packet = way.packet(100);
    assert_eq!(way.open(&packet), (vec![], Some(PacketError::Compression)));
}

#[test]
fn keys_are_exchanged_anew_in_time() {
    let used = |packets, bytes| Use { packets, bytes };
    assert!(!used((1 << 31) - 1, 0).is_much(8) && used(1 << 31, 0).is_much(8));
    assert!(!used(0, (1 << 30) - 1).is_much(8) && used(0, 1 << 30).is_much(8));
    assert!(!used(0, (1 << 36) - 1).is_much(16) && used(0, 1 << 36).is_much(16));
}

#[test]
fn each_methods_hash_is_known() {
    for (method, hash) in [
        ("curve25519-sha256@libssh.org", Hash::Sha256),
        ("ecdh-sha2-nistp256", Hash::Sha256),
        ("ecdh-sha2-nistp384", Hash::Sha384),
        ("ecdh-sha2-nistp521", Hash::Sha512),
        ("diffie-hellman-group16-sha512", Hash::Sha512),
        ("diffie-hellman-group14-sha1", Hash::Sha1),
        ("diffie-hellman-group-exchange-sha256", Hash::Sha256),
        ("mlkem768x25519-sha256", Hash::Sha256),
        ("sntrup761x25519-sha512@openssh.com", Hash::Sha512),
    ] {
        assert_eq!(Hash::of(method), Some(hash), "{method}");
    }
}

proptest! {
    #[test]
    fn packets_come_out_alike_however_they_arrive(
        choice in 0..names().len(),
        sizes in prop::collection::vec(1usize..2000, 1..8),
        cuts in prop::collection::vec(1usize..700, 1..40),
    ) {
        let mut way = ways().nth(choice * 4).unwrap();
        let data: Vec<_> = sizes.iter().flat_map(|size| way.packet(*size)).collect();
        let (mut unread, mut rest, mut messages) = (Vec::new(), &data[..], Vec::new());
        for cut in cuts.into_iter().chain([data.len()]) {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            unread.extend_from_slice(piece);
            while let Some(opened) = way.opener.open(&mut unread).unwrap() {
                messages.push(opened.message.len());
                let length = opened.length;
                unread.drain(..length);
            }
        }
        prop_assert_eq!(messages, sizes);
    }

    #[test]
    fn garbage_gives_no_message(choice in 0..names().len(), data in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut way = ways().nth(choice * 4).unwrap();
        prop_assert!(way.open(&data).0.is_empty());
    }

    #[test]
    fn any_bytes_are_taken(data in prop::collection::vec(any::<u8>(), 0..500)) {
        super::fuzz(&data);
    }
}
