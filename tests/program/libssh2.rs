//! libssh2, by the crate ssh2: a library that other programs are made of, whose every call is told apart here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use ssh2::{
    Channel, ErrorCode, FileStat, KeyboardInteractivePrompt, OpenFlags, OpenType, Prompt, PtyModeOpcode, PtyModes,
    RenameFlags, Session,
};

use crate::common::{Berth, DEADLINE, PASSWORD, Way, docker, key};

/// A client that has not authenticated.
pub fn connect(berth: &Berth) -> Session {
    let mut session = Session::new().unwrap();
    session.set_timeout(DEADLINE.as_millis() as u32);
    session.set_tcp_stream(TcpStream::connect(("127.0.0.1", berth.port)).unwrap());
    session.handshake().unwrap();
    session
}

/// A client that is in.
fn login(berth: &Berth) -> Session {
    let session = connect(berth);
    session.userauth_pubkey_file("alice", None, &key("ed25519").path, None).unwrap();
    session
}

fn exec(session: &Session, command: &str) -> Channel {
    let mut channel = session.channel_session().unwrap();
    channel.exec(command).unwrap();
    channel
}

fn text(source: &mut impl Read) -> String {
    let mut text = String::new();
    source.read_to_string(&mut text).unwrap();
    text
}

struct Answers(&'static str);

impl KeyboardInteractivePrompt for Answers {
    fn prompt(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt]) -> Vec<String> {
        assert_eq!((prompts.len(), &*prompts[0].text, prompts[0].echo), (1, "Password: ", false));
        vec![self.0.to_owned()]
    }
}

#[test]
fn every_method_lets_in_and_what_is_wrong_does_not() {
    let berth = Berth::start();
    let session = connect(&berth);
    assert_eq!(session.auth_methods("alice").unwrap(), "publickey,password,keyboard-interactive");
    assert!(session.userauth_password("alice", "wrong").is_err());
    assert!(session.userauth_keyboard_interactive("alice", &mut Answers("wrong")).is_err());
    assert!(session.userauth_pubkey_file("alice", None, &key("ed25519-stranger").path, None).is_err());
    assert!(!session.authenticated());
    session.userauth_password("alice", PASSWORD).unwrap();
    assert!(session.authenticated());
    let session = connect(&berth);
    session.userauth_keyboard_interactive("alice", &mut Answers(PASSWORD)).unwrap();
    assert_eq!(text(&mut exec(&login(&berth), "echo in")), "in\n");
}

#[test]
fn a_name_cannot_make_up_the_rest_of_a_line_in_the_log() {
    let berth = Berth::start();
    let name = "x\" from 192.0.2.1 port 1\n";
    assert!(connect(&berth).userauth_password(name, "wrong").is_err());
    let line = berth.log().line("failed password");
    assert!(line.contains(r#"for "x\" from 192.0.2.1 port 1\n" from 127.0.0.1 port "#), "{line}");
}

#[test]
fn a_command_ends_with_its_status_after_its_last_output() {
    let berth = Berth::start();
    let session = login(&berth);
    let mut channel = exec(&session, "cat; echo problem >&2; exit 7");
    channel.write_all(b"input").unwrap();
    channel.send_eof().unwrap();
    assert_eq!(text(&mut channel), "input");
    assert_eq!(text(&mut channel.stderr()), "problem\n");
    assert!(channel.eof());
    channel.wait_close().unwrap();
    assert_eq!(channel.exit_status().unwrap(), 7);
    assert_eq!(channel.exit_signal().unwrap().exit_signal, None);
}

#[test]
fn a_command_that_a_signal_ends_says_which() {
    let berth = Berth::start();
    let session = login(&berth);
    let mut channel = exec(&session, "kill -KILL $$");
    assert_eq!(text(&mut channel), "");
    channel.wait_close().unwrap();
    assert_eq!(channel.exit_signal().unwrap().exit_signal.as_deref(), Some("KILL"));
}

#[test]
fn a_container_that_ends_under_a_session_is_no_success() {
    let berth = Berth::with(|config| config["docker"]["execution"]["mode"] = "session".into());
    let session = login(&berth);
    // Podman kills at once unless it is told how long to wait.
    let stop = |_: &Berth, container: &str| drop(docker(&["stop", "-t", "10", container]));
    let ends: &[fn(&Berth, &str)] = match Way::of_this_run() {
        Way::Kubernetes => &[Berth::kill_container],
        _ => &[Berth::kill_container, stop],
    };
    for end in ends {
        let mut channel = exec(&session, "echo ready; exec sleep 1000");
        let mut line = [0; 6];
        channel.read_exact(&mut line).unwrap();
        let container = berth.containers()[0].clone();
        std::thread::scope(|scope| {
            scope.spawn(|| end(&berth, &container));
            text(&mut channel);
            channel.wait_close().unwrap();
        });
        assert_eq!(channel.exit_status().unwrap(), 255);
        assert_eq!(channel.exit_signal().unwrap().exit_signal, None);
        berth.has_containers(0, DEADLINE);
    }
}

#[test]
fn a_terminal_has_the_size_that_was_asked_for() {
    let berth = Berth::start();
    let session = login(&berth);
    let mut channel = session.channel_session().unwrap();
    channel.request_pty("vt220", None, Some((100, 40, 0, 0))).unwrap();
    channel.exec("stty size; read line; stty size; echo $TERM").unwrap();
    let mut first = [0; 8];
    channel.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"40 100\r\n");
    channel.request_pty_size(50, 20, None, None).unwrap();
    channel.write_all(b"\n").unwrap();
    assert_eq!(text(&mut channel), "\r\n20 50\r\nvt220\r\n");
}

#[test]
fn a_terminal_may_have_any_size_and_modes() {
    let berth = Berth::start();
    let session = login(&berth);
    for ((columns, rows), seen) in [
        // What busybox says of a terminal without a size.
        ((0, 0), "stty: standard input"),
        ((20_000, 10_000), "rows 10000; columns 20000;"),
        // Busybox takes what is above 30000 for a mistake; berth for as much as a terminal can have.
        ((100_000, u32::MAX), "rows 24; columns 80;"),
    ] {
        let mut channel = session.channel_session().unwrap();
        channel.request_pty("x", None, Some((columns, rows, u32::MAX, u32::MAX))).unwrap();
        channel.exec("stty -a").unwrap();
        let shown = text(&mut channel);
        assert!(shown.contains(seen), "{shown}");
    }
    // Without echo, and nothing in the place of what is typed.
    let mut modes = PtyModes::new();
    modes.set_boolean(PtyModeOpcode::ECHO, false);
    modes.set_u32(PtyModeOpcode::VINTR, 255);
    let mut channel = session.channel_session().unwrap();
    channel.request_pty("x", Some(modes), None).unwrap();
    channel.exec("read line; echo $line; stty -a | grep -c -- '-echo '; stty -a | grep -c 'intr = <undef>'").unwrap();
    channel.write_all(b"typed\n").unwrap();
    assert_eq!(text(&mut channel), "typed\r\n1\r\n1\r\n");
}

#[test]
fn many_channels_are_open_at_once() {
    let berth = Berth::start();
    let session = login(&berth);
    let mut channels: Vec<_> = (0..10).map(|_| exec(&session, "cat")).collect();
    for (number, channel) in channels.iter_mut().enumerate() {
        channel.write_all(number.to_string().as_bytes()).unwrap();
        channel.send_eof().unwrap();
    }
    for (number, channel) in channels.iter_mut().enumerate().rev() {
        assert_eq!(text(channel), number.to_string());
        channel.close().unwrap();
        channel.wait_close().unwrap();
    }
}

#[test]
fn requests_that_are_refused_say_so() {
    let berth = Berth::start();
    let session = login(&berth);
    let mut channel = session.channel_session().unwrap();
    assert!(channel.setenv("LD_PRELOAD", "x").is_err());
    channel.setenv("LC_ALL", "C").unwrap();
    channel.exec("echo $LC_ALL$LD_PRELOAD").unwrap();
    assert_eq!(text(&mut channel), "C\n");
    assert!(session.channel_session().unwrap().subsystem("no-such").is_err());
    let refused = session.channel_direct_tcpip("127.0.0.1", 1, None).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::Session(-21), "{refused}");
}

#[test]
fn files_are_written_read_listed_and_moved() {
    let berth = Berth::start();
    let session = login(&berth);
    let sftp = session.sftp().unwrap();
    let directory = Path::new("/tmp/directory");
    let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    sftp.mkdir(directory, 0o750).unwrap();
    sftp.create(&directory.join("file")).unwrap().write_all(&content).unwrap();
    let mut read = Vec::new();
    sftp.open(directory.join("file")).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == content);
    sftp.symlink(Path::new("file"), &directory.join("link")).unwrap();
    assert_eq!(sftp.readlink(&directory.join("link")).unwrap(), Path::new("file"));
    assert!(sftp.lstat(&directory.join("link")).unwrap().file_type().is_symlink());
    assert_eq!(sftp.realpath(Path::new(".")).unwrap(), Path::new("/root"));

    let mut names: Vec<_> = sftp.readdir(directory).unwrap().into_iter().map(|(path, _)| path).collect();
    names.sort();
    assert_eq!(names, [directory.join("file"), directory.join("link")]);
    sftp.rename(&directory.join("file"), &directory.join("moved"), Some(RenameFlags::empty())).unwrap();
    let truncated = FileStat { size: Some(1000), uid: None, gid: None, perm: Some(0o600), atime: None, mtime: None };
    sftp.setstat(&directory.join("moved"), truncated).unwrap();
    let stat = sftp.stat(&directory.join("moved")).unwrap();
    assert_eq!((stat.size, stat.perm.map(|mode| mode & 0o777)), (Some(1000), Some(0o600)));
    let exclusive = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    assert!(sftp.open_mode(directory.join("moved"), exclusive, 0o600, OpenType::File).is_err());
    sftp.unlink(&directory.join("link")).unwrap();
    sftp.unlink(&directory.join("moved")).unwrap();
    sftp.rmdir(directory).unwrap();
    // LIBSSH2_FX_NO_SUCH_FILE
    assert_eq!(sftp.stat(directory).unwrap_err().code(), ErrorCode::SFTP(2));
}

#[test]
fn files_are_carried_by_scp_too() {
    let berth = Berth::start();
    let session = login(&berth);
    let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let path = Path::new("/tmp/file");
    let mut sending =
        session.scp_send(path, 0o640, content.len() as u64, Some((1_000_000_000, 1_000_000_000))).unwrap();
    sending.write_all(&content).unwrap();
    sending.send_eof().unwrap();
    sending.wait_eof().unwrap();
    sending.close().unwrap();
    sending.wait_close().unwrap();
    let (mut receiving, stat) = session.scp_recv(path).unwrap();
    assert_eq!((stat.size(), stat.mode() & 0o777), (content.len() as u64, 0o640));
    let mut received = vec![0; content.len()];
    receiving.read_exact(&mut received).unwrap();
    assert!(received == content);
    assert!(session.scp_recv(Path::new("/tmp/nothing")).is_err());
}

#[test]
fn a_port_is_listened_on_and_connected_to() {
    let berth = Berth::start();
    let session = login(&berth);
    let (mut listener, port) = session.channel_forward_listen(0, Some("127.0.0.1"), None).unwrap();
    let mut inside = exec(&session, &format!("echo question | nc 127.0.0.1 {port}"));
    let mut accepted = listener.accept().unwrap();
    assert_eq!(text(&mut accepted), "question\n");
    accepted.write_all(b"answer").unwrap();
    accepted.close().unwrap();
    assert_eq!(text(&mut inside), "answer");
    // And the other way, to itself.
    let mut out = session.channel_direct_tcpip("localhost", port, None).unwrap();
    let mut back = listener.accept().unwrap();
    out.write_all(b"to and fro").unwrap();
    out.send_eof().unwrap();
    assert_eq!(text(&mut back), "to and fro");
}
