use proptest::prelude::*;

use super::*;

/// A server's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

fn said(input: &[u8]) -> Said {
    decode_all(input, input.len().max(1))
}

/// What is wrong with this input, which must be found.
fn wrong(input: &[u8]) -> Option<Error> {
    said(input).1
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const FIN: u8 = 0x80;

#[test]
fn the_examples_of_the_rfc_are_decoded() {
    // Section 5.7.
    assert_eq!(said(b"\x81\x05Hello"), (vec![(1, b"Hello".to_vec())], None));
    assert_eq!(said(b"\x01\x03Hel\x80\x02lo"), (vec![(1, b"Hello".to_vec())], None));
    assert_eq!(said(b"\x89\x05Hello"), (vec![(9, b"Hello".to_vec())], None));
    let mut masked = Vec::new();
    append(&mut masked, Opcode::Message(Kind::Text), [0x37, 0xfa, 0x21, 0x3d], &[b"Hel", b"lo"]);
    assert_eq!(masked, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let input = [frame(BINARY, b"a"), frame(FIN | 9, b"ping"), frame(0, b""), frame(FIN, b"b")].concat();
    assert_eq!(said(&input), (vec![(9, b"ping".to_vec()), (2, b"ab".to_vec())], None));
}

#[test]
fn what_the_protocol_does_not_allow_is_refused() {
    for bit in [0x40, 0x20, 0x10] {
        assert_eq!(wrong(&frame(FIN | bit | BINARY, b"")), Some(Error::Reserved));
    }
    for opcode in [3, 7, 11, 15] {
        assert_eq!(wrong(&frame(FIN | opcode, b"")), Some(Error::Opcode(opcode)));
    }
    assert_eq!(wrong(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), Some(Error::Masked));
    for long in [&b"\x82\x7e\x00\x7d"[..], b"\x82\x7f\0\0\0\0\0\0\xff\xff", b"\x82\x7f\x80\0\0\0\0\0\0\0"] {
        assert_eq!(wrong(long), Some(Error::Length));
    }
    assert_eq!(wrong(&frame(9, b"")), Some(Error::Control));
    assert_eq!(wrong(&frame(FIN | 9, &[0; 126])), Some(Error::Control));
    assert_eq!(wrong(&frame(FIN, b"")), Some(Error::Continuation));
    assert_eq!(wrong(&[frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat()), Some(Error::Continuation));
}

#[test]
fn text_is_checked_over_its_fragments() {
    let text = "κόσμε 🦀".as_bytes();
    for at in 0..text.len() {
        let (head, tail) = text.split_at(at);
        let input = [frame(TEXT, head), frame(FIN | 9, b""), frame(FIN, tail)].concat();
        assert_eq!(said(&input).0.last(), Some(&(1, text.to_vec())), "{at}");
    }
    // A lone continuation, a surrogate, beyond the last code point, too long a form, and half a character at the end.
    for bad in [&b"a\x80"[..], b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", "🦀".as_bytes().split_at(3).0] {
        assert_eq!(wrong(&frame(FIN | TEXT, bad)), Some(Error::Utf8), "{bad:?}");
        assert_eq!(wrong(&frame(FIN | BINARY, bad)), None);
    }
    // Found before the message has ended.
    assert_eq!(wrong(&frame(TEXT, b"\xff")), Some(Error::Utf8));
}

#[test]
fn a_close_frame_has_no_code_or_a_good_one() {
    let close = |payload: &[u8]| said(&frame(FIN | 8, payload));
    assert_eq!(close(b"").0, [(8, b"None".to_vec())]);
    for code in [1000_u16, 1003, 1007, 1011, 1014, 3000, 4999] {
        assert_eq!(close(&[&code.to_be_bytes(), &b"bye"[..]].concat()).1, None, "{code}");
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(close(&code.to_be_bytes()).1, Some(Error::CloseCode), "{code}");
    }
    assert_eq!(close(b"\x03").1, Some(Error::CloseCode));
    assert_eq!(close(b"\x03\xe8\xff").1, Some(Error::Utf8));
}

/// A fragment, and the pings before it.
type Fragment = (Vec<u8>, Vec<Vec<u8>>);

fn message() -> impl Strategy<Value = (Kind, Vec<Fragment>)> {
    let kind = prop_oneof![Just(Kind::Text), Just(Kind::Binary)];
    let length = prop_oneof![0..300_usize, Just(125), Just(126), Just(65535), Just(65536)];
    // ASCII, which is text wherever it is divided.
    let fragment = (length, 0..128_u8).prop_map(|(length, byte)| vec![byte; length]);
    let pings = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=125), 0..2);
    (kind, prop::collection::vec((fragment, pings), 1..4))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_messages_survive_any_fragmentation_and_any_arrival(
        messages in prop::collection::vec(message(), 0..5),
        step in 1..5000_usize,
    ) {
        let (mut input, mut expected) = (Vec::new(), Vec::new());
        for (kind, fragments) in messages {
            let (mut opcode, mut whole, last) = (Opcode::Message(kind).bits(), Vec::new(), fragments.len() - 1);
            for (number, (fragment, pings)) in fragments.iter().enumerate() {
                for ping in pings {
                    input.extend(frame(FIN | 9, ping));
                    expected.push((9, ping.clone()));
                }
                input.extend(frame(if number == last { FIN | opcode } else { opcode }, fragment));
                opcode = 0;
                whole.extend_from_slice(fragment);
            }
            expected.push((Opcode::Message(kind).bits(), whole));
        }
        prop_assert_eq!(decode_all(&input, step), (expected, None));
    }

    #[test]
    fn what_is_sent_can_be_read_once_it_is_unmasked(
        payload in prop::collection::vec(any::<u8>(), 0..70_000),
        key: [u8; 4],
        at in 0..70_000_usize,
    ) {
        let (head, tail) = payload.split_at(at.min(payload.len()));
        let mut sent = Vec::new();
        append(&mut sent, Opcode::Message(Kind::Binary), key, &[head, tail]);
        prop_assert_ne!(sent[1] & 0x80, 0);
        sent[1] &= 0x7f;
        let masked = sent.split_off(sent.len() - payload.len());
        prop_assert_eq!(sent.split_off(sent.len() - 4), key);
        sent.extend(masked.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]));
        prop_assert_eq!(said(&sent), (vec![(2, payload)], None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_decoder_panic_or_depend_on_their_arrival(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz(&bytes);
    }

    #[test]
    fn no_frames_do_either(
        step: u8,
        frames in prop::collection::vec(
            (prop_oneof![any::<u8>(), prop::sample::select(vec![0, 1, 2, 0x80, 0x81, 0x82, 0x88, 0x89])],
             prop::collection::vec(any::<u8>(), 0..20)),
            0..20,
        ),
    ) {
        let frames = frames.iter().flat_map(|(first, payload)| frame(*first, payload));
        fuzz(&std::iter::once(step).chain(frames).collect::<Vec<_>>());
    }
}
