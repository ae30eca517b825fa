//! The log, and whoever reads it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::Signal;

use crate::common::{Berth, Client, DEADLINE, eventually};

/// A named pipe, open at both ends, that nobody has to wait for.
fn fifo(path: &std::path::Path) -> File {
    Client::new("mkfifo").arg(path).run().succeeds();
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// Reads what there is, and then what comes until these words have.
fn reads(pipe: &mut File, words: &str) -> String {
    let mut text = Vec::new();
    eventually(words, DEADLINE, || {
        let mut piece = [0; 4096];
        while let Ok(count) = pipe.read(&mut piece) {
            text.extend_from_slice(&piece[..count]);
        }
        String::from_utf8_lossy(&text).contains(words)
    });
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn whoever_does_not_read_the_log_holds_up_neither_logins_nor_the_end() {
    let mut berth = Berth::start();
    let mut pipe = fifo(&berth.path("log"));
    let file = berth.path("config.yaml");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["log"]["destination"] = "file".into();
    config["log"]["file"] = berth.path("log").to_str().unwrap().into();
    std::fs::write(&file, config.to_string()).unwrap();
    berth.hang_up();
    reads(&mut pipe, "new connections are served by the new configuration");
    let fill = |pipe: &mut File| {
        for piece in [4096, 1] {
            while pipe.write(&vec![b'x'; piece]).is_ok() {}
        }
        assert_eq!(pipe.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
    };
    fill(&mut pipe);
    berth.exec("true").run().succeeds();
    berth.exec("true").run().succeeds();
    // Nothing of it is lost, while it is not too much.
    let text = reads(&mut pipe, ": done");
    assert!(text.contains("accepted publickey"), "{text}");
    fill(&mut pipe);
    berth.exec("true").run().succeeds();
    berth.end(Signal::TERM).succeeds();
}
