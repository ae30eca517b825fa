//! Containers without an agent: `docker.execution.disableAgent`.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{Berth, DEADLINE, LONG, Terminal};

fn without_agent(config: &mut Value) {
    config["docker"]["execution"]["disableAgent"] = true.into();
}

fn without_agent_per_session(config: &mut Value) {
    without_agent(config);
    config["docker"]["execution"]["mode"] = "session".into();
}

/// Both modes, each with a server.
fn both() -> [Berth; 2] {
    [Berth::with(without_agent), Berth::with(without_agent_per_session)]
}

#[test]
fn streams_are_separate_and_whole_and_the_exit_status_is_the_commands() {
    for berth in both() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        let ran = berth.exec("cat; echo mistake >&2; exit 41").input(bytes.clone()).run().exits(41);
        assert!(ran.stdout == bytes, "{} bytes", ran.stdout.len());
        assert_eq!(ran.stderr, "mistake\n");
        berth
            .exec("head -c 20000000 /dev/zero | md5sum")
            .run()
            .succeeds()
            .prints("10e4462c9d0b08e7f0b304c4fbfeafa3  -\n");
        berth.exec("cat").stdin(Stdio::null()).run().succeeds().prints("");
        // Its output ends long before it does.
        berth.exec("exec >&- 2>&-; sleep 1; exit 3").run().exits(3);
        berth.exec("sh -c 'kill -9 $$'; exit $?").run().exits(137);
    }
}

#[test]
fn what_a_command_reads_is_whole_wherever_its_output_goes() {
    let berth = Berth::with(without_agent);
    let master = berth.master();
    let bytes: Vec<u8> = (0..=255).cycle().take(50_000_000).collect();
    let sum = "b82cf2f1f81360ace3fb3fb43f6c50c1";
    let upload = |command: &str| master.exec(command).input(bytes.clone()).within(LONG).run();
    // The shell makes room for a command that it ends with: then nobody has the outputs that were there before.
    upload("cat >/tmp/file").succeeds().prints("");
    master.exec("md5sum </tmp/file").run().succeeds().prints(&format!("{sum}  -\n"));
    upload("wc -c 2>/dev/null").succeeds().prints("50000000\n");
    upload("exec >&- 2>&-; md5sum | grep -q ^b82c && exit 7").exits(7);
    let killed = upload("dd of=/tmp/file 2>/dev/null; kill -9 $$").exits(137);
    assert_eq!((killed.text(), killed.stderr), (String::new(), String::new()));
    master.exec("wc -c </tmp/file").run().succeeds().prints("50000000\n");
}

#[test]
fn a_person_has_a_terminal_whose_size_is_the_clients() {
    for berth in both() {
        let command = "stty size; echo $TERM; until [ \"$(stty size)\" = '43 132' ]; do sleep 0.1; done; echo resized; \
            read word; exit $word";
        let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", command]), 24, 80, "");
        terminal.shows("24 80\r\nxterm\r\n");
        terminal.resize(43, 132);
        terminal.shows("resized\r\n");
        terminal.type_in("6\n");
        terminal.wait().exits(6);
        let mut terminal = Terminal::open(&berth.ssh(["berth"]), 24, 80, "");
        terminal.shows("# ");
        terminal.type_in("exit 4\n");
        terminal.wait().exits(4);
    }
}

#[test]
fn a_program_has_its_terminals_size_from_the_beginning() {
    for berth in both() {
        let master = berth.master();
        for columns in 101..109 {
            let size = format!("31 {columns}\r\n");
            let mut terminal =
                Terminal::open(&master.client("ssh").args(["-t", "berth", "stty size"]), 31, columns, "");
            terminal.shows(&size);
            terminal.wait().succeeds();
        }
    }
}

#[test]
fn a_terminal_is_to_be_had_where_there_is_no_stty() {
    let berth = Berth::with(without_agent);
    let master = berth.master();
    master.exec("rm /bin/stty; ! stty size").run().succeeds();
    let command = "tty | head -c 5; echo; read word; exit $word";
    let mut terminal = Terminal::open(&master.client("ssh").args(["-t", "berth", command]), 24, 80, "");
    terminal.shows("/dev/\r\n");
    assert!(!terminal.text().contains("stty"), "{}", terminal.text());
    terminal.type_in("6\n");
    terminal.wait().exits(6);
}

#[test]
fn sftp_takes_the_images_own_server() {
    let berth = Berth::with(|config| {
        without_agent(config);
        config["docker"]["execution"]["container"]["image"] = "berth-test/tools".into();
    });
    let batch = berth.path("batch");
    std::fs::write(berth.path("file"), "over and back").unwrap();
    std::fs::write(&batch, format!("put {0} /tmp/file\nget /tmp/file {0}.back\n", berth.path("file").display()))
        .unwrap();
    berth.openssh("sftp").arg("-b").arg(&batch).arg("berth").run().succeeds();
    assert_eq!(std::fs::read_to_string(berth.path("file.back")).unwrap(), "over and back");
    // This image has none.
    let berth = Berth::with(|config| {
        without_agent(config);
        config["docker"]["execution"]["subsystems"] = json!({"hello": "echo hello; exit 5"});
    });
    berth.ssh(["-s", "berth", "hello"]).run().exits(5).prints("hello\n");
    berth.ssh(["-s", "berth", "other"]).run().exits(255).says("subsystem request failed");
}

#[test]
fn many_sessions_share_a_connections_container() {
    let berth = Berth::with(without_agent);
    let master = berth.master();
    master.exec("echo one >/tmp/shared").run().succeeds();
    let sessions: Vec<_> = (0..5).map(|_| master.exec("cat /tmp/shared; cat").input("two\n").spawn()).collect();
    for session in sessions {
        session.wait().succeeds().prints("one\ntwo\n");
    }
    assert_eq!(berth.containers().len(), 1);
}

#[test]
fn what_takes_an_agent_is_refused() {
    let berth = Berth::with(without_agent);
    let master = berth.master();
    let refused = master.client("ssh").args(["-O", "forward", "-R", "0:localhost:1", "berth"]).run();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    berth.ssh(["-W", "localhost:1", "berth"]).run().exits(255).says("administratively prohibited");
    master.exec("echo on").run().succeeds().prints("on\n");
}

#[test]
fn a_container_that_is_killed_ends_what_ran_in_it() {
    for berth in both() {
        // Not one that ends with its input.
        let running = berth.exec("echo ready; exec sleep 1000").spawn();
        running.stdout.line("ready");
        berth.kill_container(&berth.containers()[0]);
        let ran = running.wait();
        assert_ne!(ran.code, Some(0), "{ran:?}");
    }
}

#[test]
fn a_client_that_is_killed_leaves_no_container() {
    for berth in both() {
        let running = berth.exec("echo ready; cat").stdin(Stdio::piped()).spawn();
        running.stdout.line("ready");
        running.signal(rustix::process::Signal::KILL);
        berth.has_containers(0, DEADLINE);
    }
}

#[test]
fn what_cannot_start_is_told() {
    let berth = Berth::with(|config| {
        without_agent(config);
        config["docker"]["execution"]["container"]["image"] = "berth-test/scratch".into();
    });
    berth.exec("true").run().exits(255).says("berth: the container cannot be started");
    berth.log().line("/bin/sh");
    let berth = Berth::with(|config| {
        without_agent(config);
        config["docker"]["execution"]["shellCommand"] = "/bin/nothing".into();
    });
    let ran = berth.ssh(["-T", "berth"]).run();
    assert!(matches!(ran.code, Some(126 | 127)), "{ran:?}");
}
