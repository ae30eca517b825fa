//! API servers before Kubernetes 1.30, whose protocol for programs cannot say that no more input comes.

use std::process::Stdio;

use serde_json::Value;

use crate::common::cluster::OlderServer;
use crate::common::{Berth, Terminal};
use crate::with;

/// A server that reaches its pods by an older API server, which ends after it.
fn by_older(change: impl FnOnce(&mut Value)) -> (OlderServer, Berth) {
    let server = OlderServer::start();
    let berth = with(|kubernetes| {
        kubernetes["connection"] = server.connection();
        change(&mut kubernetes["pod"]);
    });
    (server, berth)
}

const IS_OLDER: &str = "the API server takes nothing newer than v4.channel.k8s.io";

#[test]
fn an_agent_makes_up_for_it() {
    let (_server, berth) = by_older(|_| ());
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let ran = berth.exec("cat; echo mistake >&2; exit 41").input(bytes.clone()).run().exits(41);
    assert!(ran.stdout == bytes, "{} bytes", ran.stdout.len());
    assert_eq!(ran.stderr, "mistake\n");
    let mut terminal =
        Terminal::open(&berth.ssh(["-t", "berth", "stty size; read word; stty size; exit $word"]), 24, 80, "");
    terminal.shows("24 80\r\n");
    terminal.resize(43, 132);
    terminal.type_in("6\n");
    terminal.shows("43 132\r\n");
    terminal.wait().exits(6);
    berth.log().line(IS_OLDER);
}

#[test]
fn without_an_agent_programs_have_their_streams_status_and_terminal_but_no_end_of_input() {
    let (_server, berth) = by_older(|pod| pod["disableAgent"] = true.into());
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let command = format!("head -c {}; echo mistake >&2; exit 41", bytes.len());
    let ran = berth.exec(&command).input(bytes.clone()).run().exits(41);
    assert!(ran.stdout == bytes, "{} bytes", ran.stdout.len());
    assert_eq!(ran.stderr, "mistake\n");
    // What does not read is not concerned.
    berth.exec("sleep 1; echo out; exit 5").stdin(Stdio::null()).run().exits(5).prints("out\n");
    // Docker's tests wait for the size, too.
    let command = "size() { until [ \"$(stty size)\" = \"$1\" ]; do sleep 0.1; done; echo is $1; }; size '24 80'; \
        size '43 132'; read word; exit $word";
    let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", command]), 24, 80, "");
    terminal.shows("is 24 80\r\n");
    terminal.resize(43, 132);
    terminal.shows("is 43 132\r\n");
    terminal.type_in("6\n");
    terminal.wait().exits(6);
    let reads_on = berth.exec("cat").input("hello\n").spawn();
    reads_on.stdout.line("hello");
    berth.log().line("a program cannot be told that its input has ended");
    berth.log().line(IS_OLDER);
}

#[test]
fn without_an_agent_sftp_ends_with_its_input() {
    let (_server, berth) = by_older(|pod| {
        pod["disableAgent"] = true.into();
        pod["spec"]["containers"][0]["image"] = "berth-test/tools".into();
    });
    let (batch, file) = (berth.path("batch"), berth.path("file"));
    std::fs::write(&file, "over and back").unwrap();
    std::fs::write(&batch, format!("put {0} /tmp/file\nget /tmp/file {0}.back\n", file.display())).unwrap();
    berth.openssh("sftp").arg("-b").arg(&batch).arg("berth").run().succeeds();
    assert_eq!(std::fs::read_to_string(berth.path("file.back")).unwrap(), "over and back");
    berth.log().line(IS_OLDER);
}
