//! Windows, and many channels at once.

use std::io::Write as _;
use std::time::Instant;

use berth::connection::frame;
use berth::connection::message::{ChannelRequest, MAXIMUM_PACKET, WINDOW, bare, number, window_adjust};
use berth::connection::wire::Write;

use crate::harness::{DEADLINE, Outcome, Server};

#[test]
fn output_stops_at_the_window_and_continues_with_it() {
    let mut server = Server::start();
    let channel = server.open_with(1000, 300);
    server.exec(channel, "head -c 2500 /dev/zero; echo err >&2");
    let mut outcome = Outcome::default();
    let mut granted = 1000;
    while granted < 4000 {
        while outcome.stdout.len() + outcome.stderr.len() < granted.min(2504) {
            let before = outcome.stdout.len();
            server.step(&mut outcome);
            assert!(outcome.stdout.len() - before <= 300);
            assert!(outcome.stdout.len() + outcome.stderr.len() <= granted);
        }
        server.send(&window_adjust(channel, 500));
        granted += 500;
    }
    let rest = server.outcome();
    assert_eq!((outcome.stdout.len(), outcome.stderr.as_slice()), (2500, &b"err\n"[..]));
    assert!(rest.stdout.is_empty() && rest.events().ends_with("close"));
}

#[test]
fn a_window_of_zero_does_not_hide_the_end() {
    let mut server = Server::start();
    let channel = server.open_with(0, MAXIMUM_PACKET);
    server.exec(channel, "exit 4");
    assert!(server.outcome().events().contains("exit 4"));
    let channel = server.open_with(3, MAXIMUM_PACKET);
    server.exec(channel, "echo ab; exit 6");
    assert!(server.outcome().events().contains("exit 6"));
}

#[test]
fn output_that_waits_for_the_window_outlives_its_program() {
    let mut server = Server::start();
    let channel = server.open_with(3, MAXIMUM_PACKET);
    server.exec(channel, "echo abcdef; exit 6");
    let mut outcome = Outcome::default();
    while outcome.events() != "exit 6" || outcome.stdout != b"abc" {
        server.step(&mut outcome);
    }
    assert!(!server.request(channel, "barrier", b""));
    server.send(&window_adjust(channel, 100));
    assert_eq!(server.outcome().stdout, b"def\n");
}

#[test]
fn input_beyond_the_window_ends_the_stream() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "sleep 100");
    for _ in 0..WINDOW / MAXIMUM_PACKET {
        server.data(channel, &[0; MAXIMUM_PACKET as usize]);
    }
    assert!(!server.request(channel, "barrier", b""), "a window's worth is taken");
    // The pipe took some, which came back as window; this is more than any pipe takes.
    let mut packet = bare(number::CHANNEL_DATA, channel);
    packet.put_string([0; MAXIMUM_PACKET as usize]);
    let mut framed = Vec::new();
    (0..WINDOW / MAXIMUM_PACKET).for_each(|_| frame::append(&mut framed, &packet));
    let _ = server.stream.write_all(&framed);
    let (status, complaint) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("window"), "{complaint}");
}

#[test]
fn many_channels_run_at_once() {
    let mut server = Server::start();
    let channels: Vec<u32> = (0..100).map(|_| server.open()).collect();
    for channel in &channels {
        server.exec(*channel, "cat; exit 9");
    }
    for channel in &channels {
        server.data(*channel, b"12345");
        server.eof(*channel);
    }
    let mut outcome = Outcome::default();
    while outcome.events.iter().filter(|event| *event == "close").count() < channels.len() {
        server.step(&mut outcome);
    }
    assert_eq!(outcome.stdout, b"12345".repeat(100));
    assert_eq!(outcome.events.iter().filter(|event| *event == "exit 9").count(), 100);
}

#[test]
fn busy_channels_do_not_starve_another() {
    let mut server = Server::start();
    let busy: Vec<u32> = (0..8).map(|_| server.open_with(u32::MAX, MAXIMUM_PACKET)).collect();
    let other = server.open();
    for channel in &busy {
        server.exec(*channel, "exec cat /dev/zero");
    }
    server.exec(other, "echo here; cat");
    let mut outcome = Outcome::default();
    // Cheaper than collecting the zeros.
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < DEADLINE, "the other channel starves");
        let message = server.next();
        if message[0] == number::CHANNEL_DATA && message.ends_with(b"here\n") {
            break;
        }
    }
    for channel in &busy {
        assert!(server.string_request(*channel, "signal", "KILL"));
    }
    server.eof(other);
    while outcome.events.iter().filter(|event| *event == "close").count() < 9 {
        server.step(&mut outcome);
    }
}

#[test]
fn end_of_write_closes_the_programs_output() {
    let mut server = Server::start();
    let channel = server.open_with(100_000, MAXIMUM_PACKET);
    server.exec(channel, "trap '' PIPE; cat /dev/zero; echo status $? >&2");
    server.expect(&[number::CHANNEL_DATA]);
    server.send(
        &ChannelRequest { recipient: channel, name: b"eow@openssh.com", want_reply: false, specific: b"" }.encode(),
    );
    server.send(&window_adjust(channel, 100_000));
    let outcome = server.outcome();
    assert!(outcome.error().ends_with("status 1\n"), "{}", outcome.error());
}

#[test]
fn a_program_that_reads_no_input_does_not_stop_the_client() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "exec <&-; echo closed; while :; do sleep 0.1; done");
    server.until(&mut Outcome::default(), "closed");
    // Ten windows, each of which is given back.
    let mut window = WINDOW;
    for _ in 0..10 * WINDOW / MAXIMUM_PACKET {
        while window < MAXIMUM_PACKET {
            let message = server.expect(&[number::CHANNEL_WINDOW_ADJUST]);
            window += u32::from_be_bytes(message[5..9].try_into().unwrap());
        }
        server.data(channel, &[0; MAXIMUM_PACKET as usize]);
        window -= MAXIMUM_PACKET;
    }
    assert!(server.string_request(channel, "signal", "KILL"));
}

/// The bytes that are sent through `cat`.
struct Stream(u64);

impl Stream {
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes()[..eight.len()]);
        }
    }
}

#[test]
fn a_hundred_megabytes_pass_both_ways_byte_for_byte() {
    const PACKET: usize = MAXIMUM_PACKET as usize;
    let mut server = Server::start();
    let channel = server.open_with(WINDOW, MAXIMUM_PACKET);
    server.exec(channel, "cat");
    let (mut sent, mut received) = (Stream(1), Stream(1));
    let (mut to_send, mut window, mut total) = (100 << 20, 0, 0usize);
    let (mut packet, mut expected, mut held) = (vec![0; PACKET], vec![0; PACKET], Vec::new());
    loop {
        while to_send > 0 && window >= PACKET {
            sent.fill(&mut packet);
            server.data(channel, &packet);
            to_send -= PACKET;
            window -= PACKET;
            if to_send == 0 {
                server.eof(channel);
            }
        }
        let message = server.next();
        match message[0] {
            number::CHANNEL_WINDOW_ADJUST => {
                window += u32::from_be_bytes(message[5..9].try_into().unwrap()) as usize;
            }
            number::CHANNEL_DATA => {
                held.extend_from_slice(&message[9..]);
                total += message.len() - 9;
                server.send(&window_adjust(channel, message.len() as u32 - 9));
                let whole = held.len() / PACKET * PACKET;
                for chunk in held[..whole].chunks(PACKET) {
                    received.fill(&mut expected);
                    assert!(chunk == expected, "a difference before byte {total}");
                }
                held.drain(..whole);
            }
            number::CHANNEL_CLOSE => break,
            _ => {}
        }
    }
    assert_eq!(total, 100 << 20);
}
