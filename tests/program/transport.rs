//! SSH's transport: addresses, algorithms, key re-exchange, and clients that are none.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use serde_json::{Value, json};

use crate::common::{Berth, Client, DEADLINE, directory_of, eventually, key};

/// Connects, and has read the server's identification.
fn connect(berth: &Berth) -> (TcpStream, String) {
    let socket = TcpStream::connect(("127.0.0.1", berth.port)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut identification = String::new();
    // One byte at a time, so that what follows is left in the socket.
    BufReader::with_capacity(1, &socket).read_line(&mut identification).unwrap();
    (socket, identification)
}

/// The lists in the server's SSH_MSG_KEXINIT, RFC 4253 section 7.1.
fn offer(berth: &Berth) -> Vec<Vec<String>> {
    let (mut socket, _) = connect(berth);
    socket.write_all(b"SSH-2.0-test\r\n").unwrap();
    let mut head = [0; 5];
    socket.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    let mut packet = vec![0; length - 1];
    socket.read_exact(&mut packet).unwrap();
    assert_eq!(packet[0], 20);
    let mut rest = &packet[17..];
    (0..10)
        .map(|_| {
            let (length, after) = rest.split_first_chunk().unwrap();
            let (list, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            rest = after;
            String::from_utf8_lossy(list).split(',').map(str::to_owned).collect()
        })
        .collect()
}

/// So many bytes without a pattern.
fn noise(count: usize) -> Vec<u8> {
    let mut noise = vec![0; count];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    noise
}

/// An SSH message in a packet that is not encrypted: RFC 4253 section 6.
fn packet(message: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (message.len() + 9) % 8) % 8;
    let mut packet = u32::try_from(message.len() + 1 + padding).unwrap().to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend_from_slice(message);
    packet.resize(packet.len() + padding, 0);
    packet
}

#[test]
fn what_a_client_says_as_it_leaves_cannot_be_taken_for_the_servers_words() {
    let berth = Berth::start();
    let (mut socket, _) = connect(&berth);
    socket.write_all(b"SSH-2.0-test\r\n").unwrap();
    let words = "bye\" 0123: accepted \u{202e}\u{2028}\n\x1b[2Jpassword";
    let mut message = vec![1, 0, 0, 0, 11];
    for text in [words, ""] {
        message.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        message.extend_from_slice(text.as_bytes());
    }
    socket.write_all(&packet(&message)).unwrap();
    let line = berth.log().line("bye");
    assert!(line.contains(r#"bye\" 0123: accepted \u{202e}\u{2028}"#), "{line}");
    assert!(line.ends_with("password\""), "{line}");
}

#[test]
fn the_server_identifies_itself() {
    let berth = Berth::start();
    assert_eq!(connect(&berth).1, format!("SSH-2.0-berth_{}\r\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_client_that_keeps_host_keys_learns_all_and_forgets_what_is_no_more() {
    let berth = Berth::with(|config| config["ssh"]["hostkeys"] = json!(["host_key", "host_key_ecdsa", "host_key_rsa"]));
    let kept = berth.path("kept");
    let host = format!("[127.0.0.1]:{}", berth.port);
    let public = |name: &str| fs::read_to_string(berth.path(name)).unwrap();
    let old = key("rsa").public;
    fs::write(&kept, format!("{host} {}{host} {old}\n", public("host_key.pub"))).unwrap();
    let options = ["-o", "UpdateHostKeys=yes", "-o", &format!("UserKnownHostsFile={}", kept.display())];
    let session = berth.openssh("ssh").args(options).args(["-T", "berth", "cat"]).stdin(Stdio::piped()).spawn();
    let word = |line: &str| line.split(' ').nth(2).map(str::to_owned);
    let expected = ["host_key.pub", "host_key_ecdsa.pub", "host_key_rsa.pub"]
        .map(|name| public(name).split_whitespace().nth(1).map(str::to_owned));
    eventually("the keys", DEADLINE, || {
        let kept = fs::read_to_string(&kept).unwrap_or_default();
        let mut keys: Vec<_> = kept.lines().map(word).collect();
        keys.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        keys == expected
    });
    session.wait().succeeds();
}

#[test]
fn nothing_weak_is_offered() {
    let berth = Berth::start();
    let offer = offer(&berth);
    for name in offer.iter().flatten() {
        for weak in ["sha1", "cbc", "3des", "arcfour", "md5", "dss", "umac-64", "group14", "none,"] {
            assert!(!name.contains(weak), "{name}");
        }
    }
    assert!(!offer[1].contains(&"ssh-rsa".to_owned()), "{:?}", offer[1]);
    assert!(offer[0].contains(&"kex-strict-s-v00@openssh.com".to_owned()), "{:?}", offer[0]);
}

#[test]
fn a_client_with_only_weak_algorithms_is_told() {
    let berth = Berth::start();
    for (option, words) in [
        ("KexAlgorithms=diffie-hellman-group14-sha1", "no matching key exchange method found"),
        ("Ciphers=aes128-cbc", "no matching cipher found"),
        ("HostKeyAlgorithms=ssh-rsa", "no matching host key type found"),
    ] {
        berth.ssh(["-o", option, "berth", "echo in"]).run().exits(255).says(words);
    }
    // An authenticated cipher has no use for a MAC.
    let options = ["-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1"];
    berth.ssh(options).args(["berth", "echo in"]).run().exits(255).says("no matching MAC found");
}

#[test]
fn every_key_exchange_that_is_offered_works() {
    let berth = Berth::start();
    let known = Client::new("ssh").args(["-Q", "kex"]).run().succeeds().text();
    let mut tried = 0;
    for kex in offer(&berth)[0].iter().filter(|kex| known.lines().any(|line| line == *kex)) {
        let ssh = berth.openssh_without_key("ssh").args(["-v", "-o", &format!("KexAlgorithms={kex}"), "berth"]);
        ssh.run().exits(255).says(&format!("kex: algorithm: {kex}")).says("Permission denied");
        tried += 1;
    }
    assert!(tried >= 5, "only {tried}");
}

/// Makes a key of these options' in the directory of the server that will have this configuration.
fn make_host_key(config: &Value, name: &str, options: &[&str]) {
    let keygen = Client::new("ssh-keygen").args(["-q", "-N", ""]).args(options);
    keygen.arg("-f").arg(directory_of(config).join(name)).run().succeeds();
}

#[test]
fn every_kind_of_host_key_works() {
    let names = ["host_key", "host_ecdsa", "host_rsa", "p384", "p521"];
    let berth = Berth::with(|config| {
        make_host_key(config, "p384", &["-t", "ecdsa", "-b", "384"]);
        make_host_key(config, "p521", &["-t", "ecdsa", "-b", "521"]);
        config["ssh"]["hostkeys"] = json!(names);
    });
    let keys = names.map(|name| {
        assert_eq!(fs::metadata(berth.path(name)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::read_to_string(berth.path(&format!("{name}.pub"))).unwrap()
    });
    fs::write(berth.path("known_hosts"), keys.map(|key| format!("* {key}")).concat()).unwrap();
    let ecdsa = ["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
    let offered = offer(&berth)[1].clone();
    for algorithm in ecdsa.into_iter().chain(["ssh-ed25519", "rsa-sha2-256", "rsa-sha2-512"]) {
        assert!(offered.iter().any(|offered| offered == algorithm), "{offered:?}");
        let option = format!("HostKeyAlgorithms={algorithm}");
        let ssh = berth.openssh_without_key("ssh").args(["-v", "-o", &option, "berth"]);
        ssh.run().exits(255).says(&format!("kex: host key algorithm: {algorithm}")).says("Permission denied");
    }
}

#[test]
fn the_next_host_key_of_a_type_is_learnt_before_it_serves() {
    let types: [(&str, &[&str]); 3] = [
        ("ed25519", &["-t", "ed25519"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
    ];
    let berth = Berth::with(|config| {
        for (name, options) in types {
            make_host_key(config, &format!("old_{name}"), options);
            make_host_key(config, &format!("new_{name}"), options);
        }
        config["ssh"]["hostkeys"] = json!(["host_key"]);
    });
    let host = format!("[127.0.0.1]:{}", berth.port);
    for (name, _) in types {
        let [old, new] = ["old", "new"].map(|age| format!("{age}_{name}"));
        let public = |name: &str| {
            let text = fs::read_to_string(berth.path(&format!("{name}.pub"))).unwrap();
            text.split(' ').take(2).collect::<Vec<_>>().join(" ")
        };
        let serve = |names: &[&str]| berth.reload(|config| config["ssh"]["hostkeys"] = json!(names));
        let kept = berth.path(&format!("kept_{name}"));
        fs::write(&kept, format!("{host} {}\n", public(&old))).unwrap();
        let known = format!("UserKnownHostsFile={}", kept.display());
        let ssh =
            |update: &str| berth.ssh(["-o", &format!("UpdateHostKeys={update}"), "-o", &known, "-T", "berth", "cat"]);
        let keeps = |names: &[&str]| {
            let session = ssh("yes").stdin(Stdio::piped()).spawn();
            let expected: BTreeSet<String> = names.iter().map(|name| format!("{host} {}", public(name))).collect();
            eventually("the keys", DEADLINE, || {
                let text = fs::read_to_string(&kept).unwrap_or_default();
                text.lines().map(str::to_owned).collect::<BTreeSet<_>>() == expected
            });
            session.wait().succeeds();
        };
        // Only the old one serves, to who knows it alone.
        serve(&[&old, &new]);
        ssh("no").run().succeeds();
        keeps(&[&old, &new]);
        serve(&[&new, &old]);
        keeps(&[&old, &new]);
        serve(&[&new]);
        keeps(&[&new]);
    }
}

#[test]
fn the_host_key_is_made_once() {
    let mut berth = Berth::start();
    let before = fs::read_to_string(berth.path("host_key")).unwrap();
    berth.end(Signal::TERM).succeeds();
    berth.restart();
    assert_eq!(fs::read_to_string(berth.path("host_key")).unwrap(), before);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn every_cipher_and_mac_carries_data() {
    let berth = Berth::start();
    let offer = offer(&berth);
    let data = noise(1 << 20);
    let ciphers = offer[2].iter().map(|cipher| (cipher.as_str(), "hmac-sha2-256"));
    let macs = offer[4].iter().map(|mac| ("aes128-ctr", mac.as_str()));
    for (cipher, mac) in ciphers.chain(macs) {
        let options = [format!("Ciphers={cipher}"), format!("MACs={mac}")];
        let ran = berth.ssh(["-T", "-o", &options[0], "-o", &options[1], "berth", "cat"]).input(data.clone()).run();
        assert!(ran.code == Some(0) && ran.stdout == data, "{cipher}, {mac}: {} bytes came back", ran.stdout.len());
    }
}

#[test]
fn key_exchange_is_strict() {
    let berth = Berth::start();
    berth.ssh(["-vvv", "-T", "berth", "true"]).run().succeeds().says("will use strict KEX ordering");
}

#[test]
fn keys_are_exchanged_again_and_again_under_load() {
    let berth = Berth::start();
    let data = noise(24 << 20);
    for cipher in ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes128-ctr"] {
        let option = format!("Ciphers={cipher}");
        let ssh = berth.ssh(["-vv", "-T", "-o", "RekeyLimit=1M", "-o", &option, "berth", "cat"]);
        let ran = ssh.input(data.clone()).run();
        assert!(ran.code == Some(0) && ran.stdout == data, "{cipher}: {} bytes came back", ran.stdout.len());
        let exchanges = ran.stderr.matches("SSH2_MSG_NEWKEYS received").count();
        assert!(exchanges > 24, "{cipher}: {exchanges} exchanges");
    }
}

#[test]
fn keys_are_exchanged_again_in_quiet_sessions_too() {
    let berth = Berth::start();
    let command = "for n in 1 2 3 4; do echo $n; sleep 1; done";
    let ran = berth.ssh(["-vv", "-T", "-o", "RekeyLimit=1M 1s", "berth", command]).run().succeeds();
    assert!(ran.stderr.matches("SSH2_MSG_NEWKEYS received").count() >= 3, "{ran:?}");
    ran.prints("1\n2\n3\n4\n");
}

#[test]
fn data_may_be_compressed() {
    let berth = Berth::start();
    // The first half compresses well.
    let data = [vec![b'x'; 8 << 20], noise(8 << 20)].concat();
    let ssh = berth.ssh(["-v", "-C", "-T", "-o", "RekeyLimit=1M", "berth", "cat"]);
    let ran = ssh.input(data.clone()).run().says("zlib@openssh.com");
    assert!(ran.code == Some(0) && ran.stdout == data, "{} bytes came back", ran.stdout.len());
}

#[test]
fn several_addresses_are_listened_on() {
    let berth = Berth::with(|config| config["ssh"]["listen"] = ["127.0.0.1:0", "[::1]:0", "127.0.0.2:0"].into());
    for (address, brackets) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")] {
        let line = berth.log().line(&format!("listening on {brackets}:"));
        let (host, port) = (format!("HostName={address}"), line.rsplit(':').next().unwrap().to_owned());
        let ran = berth.ssh(["-T", "-o", &host, "-p", &port, "berth", "echo ${SSH_CONNECTION#* * }"]).run();
        ran.succeeds().prints(&format!("{address} {port}\n"));
    }
}

#[test]
fn the_banner_is_shown_before_the_login() {
    let berth = Berth::with(|config| config["ssh"]["banner"] = "No trespassing.\nReally.\n".into());
    berth.exec("true").run().succeeds().says("No trespassing.\nReally.\n");
}

#[test]
fn what_is_no_ssh_client_is_sent_away() {
    let berth = Berth::start();
    let mut long_packet = b"SSH-2.0-test\r\n".to_vec();
    long_packet.extend([255, 255, 255, 255]);
    long_packet.extend(vec![0; 100_000]);
    let mut wrong_packet = b"SSH-2.0-test\r\n".to_vec();
    // A message that is not for now: SSH_MSG_CHANNEL_OPEN.
    wrong_packet.extend([0, 0, 0, 12, 10, 90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for words in [
        &b"GET / HTTP/1.1\r\nHost: berth\r\n\r\n"[..],
        b"SSH-1.5-ancient\r\n",
        b"\r\n\r\n\r\n",
        &[0; 100_000],
        &vec![b'a'; 1_000_000],
        &long_packet,
        &wrong_packet,
    ] {
        let (mut socket, _) = connect(&berth);
        // It may be sent away before it has said all of it.
        let _ = socket.write_all(words);
        let _ = socket.read_to_end(&mut Vec::new());
    }
    // These just leave, at any point.
    for words in [&b""[..], b"SSH-2.0", b"SSH-2.0-test\r\n", &[b"SSH-2.0-test\r\n\0\0".as_slice()].concat()] {
        connect(&berth).0.write_all(words).unwrap();
    }
    berth.has_connections(0);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn what_speaks_no_ssh_is_told_so_in_text_as_by_sshd() {
    let berth = Berth::start();
    for (words, answer) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "Invalid SSH identification string.\r\n"),
        (b"\n", "Invalid SSH identification string.\r\n"),
        (b"SSH-1.5-ancient\r\n", "Protocol major versions differ.\r\n"),
    ] {
        let (mut socket, _) = connect(&berth);
        socket.write_all(words).unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        assert_eq!(String::from_utf8_lossy(&heard), answer);
    }
}

/// Carries one connection to the server, until `stopped` is set: then nothing more passes, and nobody is told.
fn carry(berth: &Berth, stopped: &Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), berth.port);
    let stopped = Arc::clone(stopped);
    std::thread::spawn(move || {
        let near = listener.accept().unwrap().0;
        let far = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let pump = |mut from: TcpStream, mut to: TcpStream| {
            let stopped = Arc::clone(&stopped);
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                // Once it has stopped, it keeps both sockets, for as long as the test runs.
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    while stopped.load(Ordering::Relaxed) {
                        std::thread::park();
                    }
                    if to.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        };
        pump(near.try_clone().unwrap(), far.try_clone().unwrap());
        pump(far, near);
    });
    port
}

#[test]
fn a_client_whose_packets_vanish_is_left_even_in_the_middle_of_a_flood() {
    let berth = Berth::with(|config| {
        config["ssh"]["clientAliveInterval"] = "1s".into();
        config["ssh"]["clientAliveCountMax"] = 2.into();
    });
    for command in ["echo in; sleep 100", "echo in; cat /dev/zero"] {
        let stopped = Arc::new(AtomicBool::new(false));
        let port = carry(&berth, &stopped).to_string();
        let running = berth.ssh(["-p", &port, "-T", "berth", command]).spawn();
        running.stdout.find(0, "in\n").unwrap();
        berth.has_containers(1, DEADLINE);
        stopped.store(true, Ordering::Relaxed);
        berth.has_containers(0, Duration::from_secs(15));
    }
    assert_eq!(berth.log().text().matches("client not responding").count(), 2);
}

#[test]
fn a_client_that_no_longer_answers_is_left() {
    let berth = Berth::with(|config| {
        config["ssh"]["clientAliveInterval"] = "1s".into();
        config["ssh"]["clientAliveCountMax"] = 2.into();
    });
    let running = berth.exec("echo in; sleep 100").spawn();
    running.stdout.line("in");
    // One that answers stays.
    berth.exec("sleep 5").run().succeeds();
    berth.has_containers(1, DEADLINE);
    running.signal(Signal::STOP);
    berth.log().line("client not responding");
    berth.has_containers(0, Duration::from_secs(5));
}
