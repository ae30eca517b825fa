//! Commands and shells, as OpenSSH's client sees them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Berth, Client, LONG, much};

/// Every byte value, many times over.
fn all_bytes() -> Vec<u8> {
    (0..=255).cycle().take(1 << 20).collect()
}

/// The container's user is alice, whose shell is bash.
fn as_alice_in_tools(config: &mut Value) {
    let container = &mut config["docker"]["execution"]["container"];
    container["image"] = "berth-test/tools".into();
    container["user"] = "alice".into();
}

#[test]
fn input_reaches_the_command_and_its_output_comes_back_byte_for_byte() {
    let berth = Berth::start();
    let ran = berth.exec("cat").input(all_bytes()).run().succeeds();
    assert!(ran.stdout == all_bytes(), "{} bytes came back", ran.stdout.len());
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_user_at_the_end_of_a_long_passwd_file_is_known() {
    let berth = Berth::start();
    let master = berth.master();
    let fill = "yes user:x:7:7:of a whole site:/home/user:/bin/false | head -n 100000 >/etc/passwd; \
        echo late:x:0:0::/tmp:/bin/sh >>/etc/passwd; ls -l /etc/passwd | awk '{ print ($5 > 4194304) }'";
    master.exec(fill).run().succeeds().prints("1\n");
    master.exec("echo $USER,$LOGNAME,$SHELL").run().succeeds().prints("late,late,/bin/sh\n");
}

#[test]
fn a_home_directory_that_cannot_be_entered_is_told_of_as_by_sshd() {
    let berth = Berth::start();
    let master = berth.master();
    let ran = master.exec("pwd; rm -r /root && echo file >/root").run().succeeds().prints("/root\n");
    assert_eq!(ran.stderr, "");
    let ran = master.exec("pwd; rm /root; ln -s root /root").run().succeeds().prints("/\n");
    assert_eq!(ran.stderr, "Could not chdir to home directory /root: Not a directory\n");
    let ran = master.exec("rm /root").run().succeeds();
    assert_eq!(ran.stderr, "Could not chdir to home directory /root: Too many levels of symbolic links\n");
    let ran = master.exec("true").run().succeeds();
    assert_eq!(ran.stderr, "Could not chdir to home directory /root: No such file or directory\n");
}

#[test]
fn standard_error_is_separate_and_byte_for_byte_too() {
    let berth = Berth::start();
    let running = berth.exec("cat >&2; echo out").input(all_bytes()).spawn();
    let stderr = running.stderr.clone();
    running.wait().succeeds().prints("out\n");
    assert!(stderr.bytes() == all_bytes(), "{} bytes came back", stderr.bytes().len());
}

#[test]
fn much_goes_up_intact() {
    let berth = Berth::start();
    let script = r#"head -c $0 /dev/urandom | tee >(sha256sum >&2) | "$@""#;
    let client = Client::new("bash").args(["-c", script, &much().to_string()]).args(berth.exec("sha256sum").words());
    let ran = client.within(LONG).run().succeeds();
    assert_eq!(ran.text(), ran.stderr);
}

#[test]
fn much_comes_down_intact() {
    let berth = Berth::start();
    let command = format!("mkfifo /tmp/f; sha256sum </tmp/f >&2 & head -c {} /dev/urandom | tee /tmp/f; wait", much());
    let words = berth.exec(&command).words();
    let client = Client::new("bash").args(["-c", r#""$@" | sha256sum"#, "bash"]).args(words);
    let ran = client.within(LONG).run().succeeds();
    assert_eq!(ran.text(), ran.stderr);
}

#[test]
fn data_flows_both_ways_at_once() {
    let berth = Berth::start();
    let script = r#"head -c 300000000 /dev/urandom | tee >(sha256sum >&2) | "$@" | sha256sum"#;
    let client = Client::new("bash").args(["-c", script, "bash"]).args(berth.exec("cat").words());
    let ran = client.within(LONG).run().succeeds();
    assert_eq!(ran.text(), ran.stderr);
}

#[test]
fn the_exit_status_is_the_commands() {
    let berth = Berth::start();
    let master = berth.master();
    for status in 0..=255 {
        master.exec(&format!("exit {status}")).run().exits(status).prints("");
    }
}

#[test]
fn a_command_that_is_not_there_or_not_executable_says_so() {
    let berth = Berth::start();
    berth.exec("no-such-command").run().exits(127).says("no-such-command");
    berth.exec("/etc/passwd").run().exits(126).says("/etc/passwd");
}

#[test]
fn death_by_a_signal_is_status_255_and_an_exit_signal() {
    // Not the shell itself is killed, which ignores SIGQUIT.
    let berth = Berth::with(as_alice_in_tools);
    let master = berth.master();
    for signal in ["ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"] {
        master.exec(&format!("exec /bin/kill -{signal} $$")).run().exits(255);
    }
    berth.ssh(["-v", "-T", "berth", "kill -KILL $$"]).run().exits(255).says("rtype exit-signal");
}

#[test]
fn input_may_be_empty() {
    let berth = Berth::start();
    berth.exec("cat; echo end").stdin(Stdio::null()).run().succeeds().prints("end\n");
}

#[test]
fn input_may_be_closed() {
    let berth = Berth::start();
    let words = berth.exec("cat; echo end").words();
    let ran = Client::new("sh").args(["-c", r#"exec "$@" <&-"#, "sh"]).args(words).run();
    ran.succeeds().prints("end\n");
}

#[test]
fn the_end_of_input_reaches_the_command_whose_output_goes_on() {
    let berth = Berth::start();
    berth.exec("cat; sleep 1; echo late").input("x\n").run().succeeds().prints("x\nlate\n");
}

#[test]
fn the_command_may_close_its_output_and_live_on() {
    let berth = Berth::start();
    let began = Instant::now();
    berth.exec("echo out; exec >&- 2>&-; sleep 2; exit 7").run().exits(7).prints("out\n");
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_background_job_keeps_the_session_until_it_lets_go_of_the_output() {
    let berth = Berth::start();
    berth.exec("(sleep 1; echo late) & exit 3").run().exits(3).prints("late\n");
}

#[test]
fn a_command_may_be_silent_for_longer_than_a_minute() {
    let berth = Berth::start();
    let ran = berth.exec("sleep 66; echo done; exit 9").stdin(Stdio::null()).within(Duration::from_secs(120)).run();
    ran.exits(9).prints("done\n");
}

#[test]
fn ten_sessions_share_a_connection_and_its_container() {
    let berth = Berth::start();
    let master = berth.master();
    let sessions: Vec<_> = (0..10)
        .map(|number| {
            // Each waits for all others: so they do run at the same time.
            let command = format!("touch /tmp/{number}; until [ $(ls /tmp | wc -l) = 10 ]; do sleep 0.1; done; cat");
            master.exec(&command).input(format!("{number}\n").repeat(100_000)).spawn()
        })
        .collect();
    for (number, session) in sessions.into_iter().enumerate() {
        let ran = session.wait().succeeds();
        assert!(ran.text() == format!("{number}\n").repeat(100_000), "session {number}: {ran:?}");
    }
    assert_eq!(berth.containers().len(), 1);
}

#[test]
fn a_stalled_session_does_not_hold_up_its_neighbours() {
    let berth = Berth::start();
    let master = berth.master();
    let (reader, writer) = std::io::pipe().unwrap();
    // Nobody reads what it writes.
    let stalled = master.exec("head -c 100000000 /dev/zero").stdout(writer).spawn();
    for _ in 0..5 {
        let ran = master.exec("head -c 10000000 /dev/zero").run().succeeds();
        assert_eq!(ran.stdout.len(), 10_000_000);
    }
    drop(reader);
    drop(stalled);
}

#[test]
fn endless_input_ends_with_the_command_that_took_enough_of_it() {
    let berth = Berth::start();
    let words = berth.exec("head -c 5; exec <&-; sleep 1; echo; exit 3").words();
    let ran = Client::new("bash").args(["-c", r#"yes | "$@"; exit ${PIPESTATUS[1]}"#, "bash"]).args(words).run();
    ran.exits(3).prints("y\ny\ny\n");
}

#[test]
fn standard_error_waits_for_a_client_that_does_not_read_and_is_whole_in_the_end() {
    let berth = Berth::start();
    let master = berth.master();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let command = "head -c 20000000 /dev/zero >&2; touch /tmp/written; echo out; exit 3";
    let stalled = master.exec(command).stderr(writer).spawn();
    // Others are not held up, and the command is: what is under way is bounded.
    let ran = master.exec("head -c 10000000 /dev/zero >&2; ls /tmp").run();
    ran.succeeds().prints("");
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut all).unwrap();
    assert!(all.len() == 20_000_000 && all.iter().all(|byte| *byte == 0), "{} bytes", all.len());
    stalled.wait().exits(3).prints("out\n");
}

#[test]
fn variables_are_set_where_they_are_accepted() {
    let berth = Berth::with(|config| config["ssh"]["acceptEnv"] = ["LANG", "APP_*"].into());
    let ran = berth
        .ssh(["-T", "-o", "SendEnv=LANG NOT_*", "-o", "SetEnv=APP_X=two", "berth"])
        .arg("echo $LANG-$NOT_THIS-$APP_X")
        .env("LANG", "de_DE.UTF-8")
        .env("NOT_THIS", "one")
        .run();
    ran.succeeds().prints("de_DE.UTF-8--two\n");
}

#[test]
fn what_debians_clients_send_is_accepted_by_default() {
    let berth = Berth::start();
    let option = "SetEnv=LANG=set LC_ALL=set COLORTERM=set NO_COLOR=set EDITOR=set";
    let command = "echo ${LANG-no} ${LC_ALL-no} ${COLORTERM-no} ${NO_COLOR-no} ${EDITOR-no}";
    berth.ssh(["-T", "-o", option, "berth", command]).run().succeeds().prints("set set set set no\n");
}

#[test]
fn the_session_knows_whom_it_talks_to() {
    let berth = Berth::start();
    let ran = berth.exec("echo $SSH_CONNECTION; echo $SSH_CLIENT").run().succeeds();
    let text = ran.text();
    let words: Vec<&str> = text.split_whitespace().collect();
    let port = berth.port.to_string();
    assert_eq!(words[2..], ["127.0.0.1", &port, "127.0.0.1", words[1], &port], "{text}");
}

#[test]
fn a_shell_reads_commands_from_its_input() {
    let berth = Berth::start();
    berth.ssh(["-T", "berth"]).input("echo $0\necho $HOME\nexit 5\n").run().exits(5).prints("-sh\n/root\n");
}

#[test]
fn an_unknown_subsystem_is_refused() {
    let berth = Berth::start();
    berth.ssh(["-s", "berth", "no-such"]).run().exits(255).says("subsystem request failed");
    berth.log().line(": refused: subsystem");
}

#[test]
fn subsystems_are_those_of_the_configuration() {
    let berth = Berth::with(|config| {
        let image = "berth-test/tools";
        config["docker"]["execution"]["container"]["image"] = image.into();
        config["docker"]["execution"]["subsystems"] = serde_json::json!({
            "hello": "echo problem >&2; cat; exit 5",
            // Without the extensions of the agent's own.
            "sftp": "/usr/lib/openssh/sftp-server -P hardlink",
        });
    });
    berth.ssh(["-s", "berth", "hello"]).input("to and fro").run().exits(5).prints("to and fro");
    berth.ssh(["-s", "berth", "other"]).run().exits(255).says("subsystem request failed");
    let sftp =
        |berth: &Berth| berth.openssh("sftp").args(["-b", "-", "berth"]).input("ln /etc/passwd /tmp/hard\n").run();
    sftp(&berth).exits(1);
    // The default; and where the server that is named is not there.
    sftp(&Berth::start()).succeeds();
    let berth = Berth::with(|config| {
        config["docker"]["execution"]["subsystems"]["sftp"] = "/usr/lib/openssh/sftp-server".into();
    });
    sftp(&berth).succeeds();
}

#[test]
fn the_configured_users_shell_home_and_name_are_those_of_passwd() {
    let berth = Berth::with(as_alice_in_tools);
    let ran = berth.exec("id -un; echo $USER $LOGNAME $HOME $SHELL; pwd; echo ${BASH_VERSION:+bash}").run();
    ran.succeeds().prints("alice\nalice alice /home/alice /bin/bash\n/home/alice\nbash\n");
}

#[test]
fn the_images_variables_and_directory_are_the_sessions() {
    let berth = Berth::with(|config| {
        let container = &mut config["docker"]["execution"]["container"];
        container["env"] = ["FROM_IMAGE=yes"].into();
        container["workingDir"] = "/var/tmp".into();
    });
    berth.exec("echo $FROM_IMAGE; pwd").run().succeeds().prints("yes\n/var/tmp\n");
}

#[test]
fn an_image_without_a_shell_runs_its_programs() {
    let berth = Berth::with(|config| {
        config["docker"]["execution"]["container"]["image"] = "berth-test/scratch".into();
    });
    berth.exec("/cat").input("to and fro").run().succeeds().prints("to and fro");
    berth.exec("/no-such").run().exits(127).says("/no-such");
}

#[test]
fn a_command_that_is_too_long_for_the_system_ends_as_with_sshd() {
    let berth = Berth::start();
    // Each is short enough for the client's own call, and both together are not.
    let [word, another] = ["x", "y"].map(|letter| letter.repeat(70_000));
    let ran = berth.ssh(["-T", "berth", "echo", &word, &another]).run().exits(1).prints("");
    assert!(ran.stderr.contains("Argument list too long"), "{}", ran.stderr);
}
