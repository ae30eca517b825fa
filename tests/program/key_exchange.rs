//! What clients of different ages agree on, the newest OpenSSH's among them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::certificates::certify_host;
use crate::common::{Berth, Client, DEADLINE, Sshd, newest_openssh};

const HYBRID: &str = "mlkem768x25519-sha256";

/// The newest `ssh`, with its own choice of algorithms; still to come are options, a host and a command.
fn newest_ssh(berth: &Berth) -> Client {
    berth.openssh(&newest_openssh("ssh"))
}

#[test]
fn the_newest_openssh_finds_nothing_to_warn_of() {
    let berth = Berth::start();
    let ran = newest_ssh(&berth).args(["-T", "berth", "echo in"]).run().succeeds().prints("in\n");
    assert_eq!(ran.stderr, "");
    newest_ssh(&berth).args(["-v", "-T", "berth", "true"]).run().says(&format!("kex: algorithm: {HYBRID}"));
    berth.reload(|config| config["ssh"]["kex"] = "curve25519-sha256".into());
    newest_ssh(&berth).args(["-T", "berth", "true"]).run().succeeds().says("post-quantum");
}

/// What a server says of itself behind the first keys, each with what it says of it, but for signature algorithms; and those.
fn announced(ssh: Client) -> (BTreeSet<String>, BTreeSet<String>) {
    let ran = ssh.args(["-vvv", "-T", "berth", "true"]).run().succeeds();
    let said = |start: &str| {
        let said = ran.stderr.lines().filter_map(|line| line.split_once(start));
        said.map(|(_, rest)| rest.trim().to_owned()).collect::<Vec<_>>()
    };
    let extensions = said("kex_ext_info_check_ver: ").into_iter().collect();
    let algorithms = said("server-sig-algs=<").remove(0);
    let algorithms = algorithms.trim_end_matches('>');
    (extensions, algorithms.split(',').map(str::to_owned).collect())
}

#[test]
fn what_sshd_announces_is_announced() {
    let sshd = Sshd::of(&newest_openssh("sshd"), "", "");
    let (extensions, algorithms) = announced(sshd.openssh(&newest_openssh("ssh")));
    let own = announced(newest_ssh(&Berth::start()));
    assert_eq!(own.0, extensions);
    assert!(extensions.contains("agent-forward=<0>"), "{extensions:?}");
    let others: Vec<_> = algorithms.symmetric_difference(&own.1).collect();
    assert_eq!(others, ["webauthn-sk-ecdsa-sha2-nistp256@openssh.com"], "docs/differences.md tells");
}

#[test]
fn later_key_exchanges_are_post_quantum_too() {
    let berth = Berth::with(|config| config["ssh"]["kex"] = HYBRID.into());
    let ssh = newest_ssh(&berth).args(["-v", "-o", "RekeyLimit=1M", "-T", "berth", "cat"]);
    let ran = ssh.input(vec![7; 5_000_000]).run().succeeds();
    assert!(ran.stdout == [7; 5_000_000], "{} bytes came back", ran.stdout.len());
    let exchanges = ran.stderr.matches(&format!("kex: algorithm: {HYBRID}")).count();
    assert!(exchanges > 4, "{exchanges} key exchanges");
}

#[test]
fn a_hosts_certificate_is_shown_in_a_post_quantum_key_exchange() {
    let files = ["host_key", "host_key_ecdsa", "host_key_rsa"];
    let berth = Berth::with(|config| {
        config["ssh"]["hostkeys"] = json!(files);
        config["ssh"]["kex"] = HYBRID.into();
    });
    for file in files {
        certify_host(&berth, file, &["-h", "-n", "127.0.0.1"]);
        berth.reload(|config| config["ssh"]["hostCertificates"] = json!(format!("{file}-cert.pub")));
        let ssh = newest_ssh(&berth).args(["-o", "RekeyLimit=64K", "-T", "berth", "head -c 500000 /dev/zero"]);
        assert_eq!(ssh.run().succeeds().stdout.len(), 500_000);
    }
    // And the keys themselves, to who knows no authority.
    let lines = files.map(|file| format!("* {}", fs::read_to_string(berth.path(&format!("{file}.pub"))).unwrap()));
    fs::write(berth.path("known_hosts"), lines.concat()).unwrap();
    for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"] {
        let ssh = newest_ssh(&berth).args(["-o", &format!("HostKeyAlgorithms={algorithm}"), "-T", "berth", "echo in"]);
        ssh.run().succeeds().prints("in\n");
    }
}

#[test]
fn clients_without_it_agree_on_what_they_have() {
    let berth = Berth::start();
    let ssh = |kex: &str| berth.ssh(["-v", "-o", &format!("KexAlgorithms={kex}"), "-T", "berth", "echo in"]);
    // What OpenSSH has had since 8.5.
    let older = "sntrup761x25519-sha512@openssh.com,curve25519-sha256,ecdh-sha2-nistp256";
    ssh(older).run().succeeds().prints("in\n").says("kex: algorithm: curve25519-sha256\r");
    berth.reload(|config| config["ssh"]["kex"] = HYBRID.into());
    ssh(older).run().exits(255).says("no matching key exchange method found");
}

#[test]
fn group_exchange_is_offered_where_it_is_named() {
    let berth = Berth::start();
    let group_exchange = "diffie-hellman-group-exchange-sha256";
    let ssh = || berth.ssh(["-o", &format!("KexAlgorithms={group_exchange}"), "-T", "berth", "echo in"]);
    ssh().run().exits(255).says("no matching key exchange method found");
    berth.reload(|config| config["ssh"]["kex"] = json!(["curve25519-sha256", group_exchange]));
    ssh().run().succeeds().prints("in\n");
}

/// A packet without encryption, RFC 4253 section 6.
fn packet(message: &[u8]) -> Vec<u8> {
    let padding = 16 - (5 + message.len()) % 8;
    let length = (1 + message.len() + padding) as u32;
    [&length.to_be_bytes()[..], &[padding as u8], message, &vec![0; padding]].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

#[test]
fn keys_that_are_none_end_the_connection_with_a_reason() {
    let berth = Berth::start();
    let both_ways = ["aes128-ctr", "aes128-ctr", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""];
    let lists = [HYBRID, "ssh-ed25519"].into_iter().chain(both_ways);
    // RFC 4253 section 7.1.
    let kexinit = [vec![20; 17], lists.flat_map(|list| string(list.as_bytes())).collect(), vec![0; 5]].concat();
    for (keys, reason) in [
        (vec![0; 1215], "1215 bytes of keys where there must be 1216"),
        (vec![0xff; 1216], "not an ML-KEM-768 encapsulation key"),
        (vec![0; 1216], "an X25519 key of small order"),
    ] {
        let mut socket = TcpStream::connect(("127.0.0.1", berth.port)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let init = [vec![30], string(&keys)].concat();
        socket.write_all(&[b"SSH-2.0-test\r\n", &packet(&kexinit)[..], &packet(&init)].concat()).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        // RFC 4253 section 11.1: SSH_DISCONNECT_KEY_EXCHANGE_FAILED.
        let farewell = [&[1, 0, 0, 0, 3][..], &string(b"key exchange failed")].concat();
        assert!(answer.windows(farewell.len()).any(|bytes| bytes == farewell), "{}", String::from_utf8_lossy(&answer));
        berth.log().line(&format!("key exchange failed: {reason}"));
    }
}
