//! Keys of an authentication agent that may be used for some servers alone (`ssh-add -h`), berth behind another one.

use std::fs;
use std::process::Stdio;

use crate::common::{Berth, Client, DEADLINE, LONG, Running, Sshd, eventually, key};

/// An agent with a key that may be used along this way alone.
fn agent(sshd: &Sshd, berth: &Berth, way: &[&str]) -> (Running, String) {
    let path = |name: &str| sshd.path(name).to_str().unwrap().to_owned();
    let socket = path(&format!("agent-{}", way.len()));
    let agent = Client::new("ssh-agent").args(["-D", "-a", &socket]).stdin(Stdio::null()).within(LONG).spawn();
    eventually("the agent's socket", DEADLINE, || std::path::Path::new(&socket).exists());
    let first = fs::read_to_string(sshd.path("host_key.pub")).unwrap();
    let second = fs::read_to_string(berth.path("known_hosts")).unwrap();
    let known = format!("first {}\nsecond {}\n", first.trim(), second.trim().trim_start_matches("* "));
    fs::write(path("known"), known).unwrap();
    let key = key("ed25519").path;
    let constraints = way.iter().flat_map(|hop| ["-h", hop]);
    let add = Client::new("ssh-add").args(["-q", "-H", &path("known")]).args(constraints).arg(key);
    add.env("SSH_AUTH_SOCK", &socket).run().succeeds();
    (agent, socket)
}

#[test]
fn a_key_for_berth_alone_is_used_over_a_forwarded_agent() {
    let (sshd, berth) = (Sshd::start("", ""), Berth::start());
    let config = berth.path("ssh_config");
    let hop = format!("ssh -F {} -o IdentitiesOnly=no berth echo in", config.display());
    let through = |socket: &str| {
        let ssh = sshd.openssh("ssh").args(["-A", "-o", &format!("IdentityAgent={socket}"), "berth", &hop]);
        ssh.stdin(Stdio::null()).run()
    };
    let (_agent, socket) = agent(&sshd, &berth, &["first", "first>second"]);
    through(&socket).succeeds().prints("in\n");
    // For the first server alone it is of no use to berth, and the agent says so.
    let (_agent, socket) = agent(&sshd, &berth, &["first"]);
    let ran = through(&socket);
    assert!(ran.code == Some(255) && ran.text().is_empty(), "{ran:?}");
}
