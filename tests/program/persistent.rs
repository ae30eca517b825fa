//! Containers that are there before and after: `docker.execution.mode: persistent`.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Berth, Client, DEADLINE, Terminal, docker, eventually, key, unique};

/// A container that is none of berth's. Removed when dropped.
struct Existing(String);

impl Existing {
    /// Runs an image, with further options of `docker run`. One without a program of its own just has to be running.
    fn run(image: &str, options: &[&str]) -> Self {
        let name = unique();
        let image = format!("berth-test/{image}");
        let run = ["run", "--detach", "--init", "--network", "none", "--name", &name];
        docker(&[&run[..], options, &[&image, "sleep", "1000"]].concat());
        Existing(name)
    }

    /// A server whose users get into this container.
    fn serve(&self, change: impl FnOnce(&mut Value)) -> Berth {
        Berth::with(|config| {
            config["docker"]["execution"] = json!({"mode": "persistent", "containername": self.0});
            change(config);
        })
    }

    /// What a program in it prints.
    fn exec(&self, command: &str) -> String {
        docker(&["exec", "--user", "0", &self.0, "sh", "-c", command])
    }

    /// The files that are not in its image.
    fn files(&self) -> String {
        let all = docker(&["diff", &self.0]);
        // Podman goes on saying that there was something.
        all.lines().filter(|line| *line != "C /tmp").collect::<Vec<_>>().join("\n")
    }

    /// The files that are not in its image, and its processes but the one that looks.
    fn traces(&self) -> (String, String) {
        let processes =
            "for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || cat $p/cmdline 2>/dev/null; done | tr '\\0' ' '";
        (self.files(), self.exec(processes))
    }
}

impl Drop for Existing {
    fn drop(&mut self) {
        Client::new("docker").args(["rm", "--force", "--volumes", &self.0]).run();
    }
}

#[test]
fn users_get_into_a_container_that_is_there_and_leave_it_as_it_was() {
    let existing = Existing::run("busybox", &["--env", "COLOUR=green"]);
    let berth = existing.serve(|_| ());
    let before = existing.traces();
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let ran = berth.exec("cat; echo mistake >&2; exit 41").input(bytes.clone()).run().exits(41);
    assert!(ran.stdout == bytes, "{} bytes", ran.stdout.len());
    assert_eq!(ran.stderr, "mistake\n");
    berth
        .exec("hostname; echo $COLOUR")
        .run()
        .succeeds()
        .prints(&format!("{}green\n", existing.exec("hostname") + "\n"));
    let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", "stty size; read word; exit $word"]), 24, 80, "");
    terminal.shows("24 80\r\n");
    terminal.type_in("6\n");
    terminal.wait().exits(6);
    let (file, back) = (berth.path("file"), berth.path("back"));
    std::fs::write(&file, &bytes).unwrap();
    for option in ["-s", "-O"] {
        berth.openssh("scp").arg(option).arg(&file).arg("berth:/tmp/there").run().succeeds();
        berth.openssh("scp").arg(option).arg("berth:/tmp/there").arg(&back).run().succeeds();
        assert!(std::fs::read(&back).unwrap() == bytes);
    }
    berth.exec("rm /tmp/there").run().succeeds();
    eventually("the container is as it was", DEADLINE, || existing.traces() == before);
    assert_eq!(berth.containers().len(), 0);
}

#[test]
fn what_a_session_leaves_running_goes_on_after_its_connection() {
    let existing = Existing::run("busybox", &[]);
    let mut berth = existing.serve(|_| ());
    let runs = |program: &str| existing.traces().1.contains(program);
    berth.exec("setsid sleep 1001 >/dev/null 2>&1 </dev/null &").run().succeeds();
    // Whoever goes without a word takes along no more than a terminal does.
    let session = berth.exec("echo in; exec sleep 1002").spawn();
    session.stdout.line("in");
    let command = "(trap '' HUP; exec sleep 1003) >/dev/null 2>&1 </dev/null & echo in; sleep 1004";
    let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", command]), 24, 80, "");
    terminal.shows("in\r\n");
    eventually("the terminal's program", DEADLINE, || runs("sleep 1004"));
    let gone = |agents: usize| {
        eventually("the agents have gone", DEADLINE, || existing.traces().1.matches("agent --stdio").count() == agents);
    };
    session.signal(Signal::KILL);
    gone(1);
    terminal.type_in("\r~.");
    terminal.wait().exits(255);
    eventually("the terminal has hung up", DEADLINE, || !runs("sleep 1004"));
    gone(0);
    // Nor does the end of the server.
    let session = berth.exec("echo in; exec sleep 1005").spawn();
    session.stdout.line("in");
    berth.end(Signal::KILL);
    gone(0);
    for program in ["sleep 1001", "sleep 1002", "sleep 1003", "sleep 1005"] {
        eventually(program, DEADLINE, || runs(program));
    }
}

#[test]
fn an_image_without_anything_will_do_and_so_will_users_who_may_not_write() {
    let name = unique();
    let create = ["create", "--init", "--network", "none", "--name", &name, "--entrypoint", "/opt/busybox"];
    docker(&[&create[..], &["berth-test/scratch", "sleep", "1000"]].concat());
    let existing = Existing(name);
    let busybox = Client::new("sh").args(["-c", "command -v busybox"]).run().succeeds().text();
    let script = r#"mkdir -p "$0/opt" && cp "$1" "$0/opt/busybox" && tar -C "$0" -c opt | docker cp - "$2:/""#;
    let berth = existing.serve(|config| config["docker"]["execution"]["container"]["user"] = "1000:1000".into());
    Client::new("sh").args(["-c", script]).arg(berth.path("tree")).args([busybox.trim(), &existing.0]).run().succeeds();
    docker(&["start", &existing.0]);
    let before = existing.files();
    berth.exec("/opt/busybox id -u").run().succeeds().prints("1000\n");
    let batch = berth.path("batch");
    std::fs::write(&batch, "ls /opt\n").unwrap();
    let ran = berth.openssh("sftp").arg("-b").arg(&batch).arg("berth").run().succeeds();
    assert!(ran.text().contains("/opt/busybox"), "{ran:?}");
    eventually("the container is as it was", DEADLINE, || existing.files() == before);
}

#[test]
fn the_container_is_found_by_the_users_name_or_by_labels() {
    let label = unique();
    let existing = Existing::run("busybox", &["--label", &format!("{label}=alice")]);
    let other = Existing::run("busybox", &["--label", &format!("{label}=bob")]);
    let prints_its_name = |berth: &Berth| {
        berth.exec("hostname").run().succeeds().prints(&(existing.exec("hostname") + "\n"));
    };
    prints_its_name(&existing.serve(|config| {
        let execution = &mut config["docker"]["execution"];
        execution.as_object_mut().unwrap().remove("containername");
        execution["containerLabels"] = json!([format!("{label}=%u")]);
    }));
    let both = existing.serve(|config| {
        let execution = &mut config["docker"]["execution"];
        execution.as_object_mut().unwrap().remove("containername");
        execution["containerLabels"] = json!([label]);
    });
    both.exec("true").run().exits(255).says("berth: there is more than one container for you");
    docker(&["stop", "--time", "0", &other.0]);
    prints_its_name(&both);
    let renamed = format!("{}-alice", existing.0);
    docker(&["rename", &existing.0, &renamed]);
    let berth =
        existing.serve(|config| config["docker"]["execution"]["containername"] = format!("{}-%u", existing.0).into());
    berth.exec("echo in").run().succeeds().prints("in\n");
    docker(&["rename", &renamed, &existing.0]);
}

#[test]
fn users_choose_among_the_containers_that_they_may_have() {
    let existing = Existing::run("busybox", &[]);
    let berth = existing.serve(|config| {
        let execution = &mut config["docker"]["execution"];
        execution.as_object_mut().unwrap().remove("containername");
        let half = &existing.0[..existing.0.len() - 1];
        execution["selectableContainers"] = json!([format!("{half}*"), "missing"]);
    });
    let choose = |name: &str| berth.ssh(["-l", &format!("alice+{name}"), "berth", "hostname"]).run();
    choose(&existing.0).succeeds().prints(&(existing.exec("hostname") + "\n"));
    for name in ["missing", "other", "../images", ""] {
        choose(name).exits(255).says("berth: there is no container for ");
    }
    // An id is no name.
    choose(&docker(&["inspect", "--format", "{{.Id}}", &existing.0])).exits(255).says("there is no container for");
    berth.exec("true").run().exits(255).says("berth: there is no container for alice");
}

#[test]
fn a_user_may_have_a_choice_that_others_have_not() {
    let existing = Existing::run("busybox", &[]);
    let berth = existing.serve(|config| {
        let teacher = json!({"execution": {"selectableContainers": [existing.0]}});
        config["auth"]["users"]["teacher"] = config["auth"]["users"]["alice"].clone();
        config["auth"]["users"]["teacher"]["docker"] = teacher;
    });
    let key = key("ed25519").path.display().to_string();
    let choose =
        |user: &str| berth.ssh(["-T", "-i", &key, "-l", &format!("{user}+{}", existing.0), "berth", "hostname"]).run();
    choose("teacher").succeeds().prints(&(existing.exec("hostname") + "\n"));
    // Nobody is called that.
    choose("alice").exits(255).says("Permission denied");
    berth.exec("hostname").run().succeeds();
}

#[test]
fn a_container_that_cannot_be_entered_is_told_of() {
    let existing = Existing::run("busybox", &["--read-only"]);
    let berth = existing.serve(|_| ());
    berth.exec("true").run().exits(255).says("is read-only, and cannot be entered");
    let existing = Existing::run("busybox", &["--read-only", "--volume", "/tmp"]);
    existing.serve(|_| ()).exec("echo in").run().succeeds().prints("in\n");
    let existing = Existing::run("busybox", &["--tmpfs", "/tmp"]);
    let berth = existing.serve(|_| ());
    berth.exec("echo in").run().succeeds().prints("in\n");
    docker(&["pause", &existing.0]);
    berth.exec("true").run().exits(255).says("is not running");
    docker(&["unpause", &existing.0]);
    docker(&["stop", "--time", "0", &existing.0]);
    berth.exec("true").run().exits(255).says("is not running");
    docker(&["rm", &existing.0]);
    berth.exec("true").run().exits(255).says("berth: there is no container for ");
}

/// A server that makes its users' containers and keeps them.
fn keeping(keep: &str) -> Berth {
    Berth::with(|config| {
        let execution = &mut config["docker"]["execution"];
        execution["mode"] = "persistent".into();
        execution["create"] = true.into();
        execution["keep"] = keep.into();
    })
}

#[test]
fn a_users_own_container_is_there_again_the_next_time() {
    let mut berth = keeping("1h");
    berth.exec("echo kept >/tmp/note").run().succeeds();
    let parallel: Vec<_> = (0..3).map(|_| berth.exec("cat /tmp/note").spawn()).collect();
    parallel.into_iter().for_each(|session| drop(session.wait().succeeds().prints("kept\n")));
    let [container] = &berth.containers()[..] else { panic!("one container") };
    let container = container.clone();
    docker(&["stop", "-t", "10", &container]);
    berth.exec("cat /tmp/note").run().succeeds().prints("kept\n");
    berth.end(Signal::KILL);
    berth.restart();
    berth.exec("cat /tmp/note").run().succeeds().prints("kept\n");
    assert_eq!(berth.containers(), std::slice::from_ref(&container));
    docker(&["rm", "--force", &container]);
}

#[test]
fn a_users_own_container_that_was_made_with_other_settings_is_told_of() {
    let mut berth = keeping("1h");
    berth.exec("true").run().succeeds();
    berth.reload(|config| config["docker"]["execution"]["container"]["env"] = json!(["ONLY=users"]));
    berth.exec("echo $ONLY").run().succeeds().prints("users\n");
    assert!(!berth.log().text().contains("was made with other settings"));
    berth.reload(|config| config["docker"]["execution"]["host"]["memory"] = "128m".into());
    berth.exec("true").run().succeeds();
    berth.log().line("of \"alice\" was made with other settings (Memory), and has them until it is removed");
    docker(&["rm", "--force", &berth.containers()[0]]);
    berth.exec("true").run().succeeds();
    let container = berth.containers().remove(0);
    assert_eq!(docker(&["inspect", "--format", "{{.HostConfig.Memory}}", &container]).trim(), "134217728");
    berth.end(Signal::TERM).succeeds();
    docker(&["rm", "--force", &container]);
}

#[test]
fn what_runs_on_in_a_users_own_container_is_there_the_next_time_and_ends_with_the_container() {
    let mut berth = keeping("1h");
    let program = "trap 'echo told; exit' TERM; echo up >/tmp/up; while :; do sleep 0.1; done";
    let command = format!("setsid sh -c \"{program}\" >/tmp/log 2>&1 </dev/null &");
    berth.exec(&format!("{command} until [ -e /tmp/up ]; do sleep 0.05; done")).run().succeeds();
    berth.has_connections(0);
    let command = "ps -o args | grep -c '[w]hile'; ps -o args | grep -c '[-]-stdio'";
    berth.exec(command).run().exits(0).prints("1\n1\n");
    let container = berth.containers().remove(0);
    docker(&["stop", "-t", "10", &container]);
    berth.exec("grep told /tmp/log; ps -o args | grep '[w]hile'").run().exits(1).prints("told\n");
    berth.end(Signal::TERM).succeeds();
    docker(&["rm", "--force", &container]);
}

#[test]
fn a_user_whose_name_cannot_be_in_a_containers_has_one_all_the_same() {
    const NAME: &str = "user@corp.example";
    let prefix = unique();
    let mut berth = Berth::with(|config| {
        let settings = json!({"mode": "persistent", "create": true, "containername": format!("{prefix}-%u")});
        config["docker"]["execution"].as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        config["auth"]["users"] = json!({"*": config["auth"]["users"]["alice"]});
    });
    let key = key("ed25519").path.display().to_string();
    let exec = |user: &str, command: &str| berth.ssh(["-T", "-i", &key, "-l", user, "berth", command]).run();
    let container = format!("{prefix}-user-corp-example--0131e1ce1d19d9e9");
    exec(NAME, "echo kept >/tmp/note").succeeds();
    exec(NAME, "cat /tmp/note").succeeds().prints("kept\n");
    let labels = "{{.Config.Labels.containerssh_username}} {{.HostConfig.AutoRemove}}";
    assert_eq!(docker(&["inspect", "--format", labels, &container]).trim(), format!("{NAME} false"));
    berth.log().line(&format!("\"{NAME}\" cannot be in such a name; it is {container}"));
    // Whoever calls himself that is somebody else.
    exec("user-corp-example--0131e1ce1d19d9e9", "cat /tmp/note").exits(1);
    berth.end(Signal::TERM).succeeds();
    berth.containers().iter().for_each(|container| drop(docker(&["rm", "--force", container])));
}

#[test]
fn a_users_own_container_that_is_stopped_tells_all_who_are_in_it() {
    let mut berth = keeping("1h");
    let sessions = [(); 2].map(|()| {
        let session = berth.exec("echo in; sleep 1000").spawn();
        session.stdout.line("in");
        session
    });
    let container = berth.containers().remove(0);
    docker(&["stop", "-t", "10", &container]);
    for session in sessions {
        session.wait().exits(255).says("berth: the container is being stopped\n");
    }
    berth.end(Signal::TERM).succeeds();
    docker(&["rm", "--force", &container]);
}

#[test]
fn a_users_own_container_runs_what_is_configured_meanwhile() {
    let mut berth = Berth::with(|config| {
        let execution = &mut config["docker"]["execution"];
        execution["mode"] = "persistent".into();
        execution["create"] = true.into();
        execution["idleCommand"] = ["/bin/sh", "-c", "echo up >/tmp/service; exec sleep 1000"].into();
    });
    let command = "until [ -e /tmp/service ]; do sleep 0.05; done; cat /tmp/service; tr '\\0' ' ' </proc/1/cmdline";
    berth.exec(command).run().succeeds().prints("up\nsleep 1000 ");
    berth.end(Signal::TERM).succeeds();
    docker(&["rm", "--force", &berth.containers()[0]]);
}

#[test]
fn a_users_own_container_goes_when_it_was_not_used_for_long_enough() {
    let mut berth = keeping("100ms");
    let session = berth.exec("echo in; cat").stdin(Stdio::piped()).spawn();
    session.stdout.line("in");
    assert_eq!(berth.containers().len(), 1);
    session.wait().succeeds();
    berth.has_connections(0);
    assert_eq!(berth.containers().len(), 1);
    berth.end(Signal::TERM).succeeds();
    assert_eq!(berth.containers().len(), 1);
    eventually("it has gone by", DEADLINE, || {
        let kept = std::fs::read_dir(berth.path("run").join(&berth.instance).join("kept")).unwrap().next().unwrap();
        kept.unwrap().metadata().unwrap().modified().unwrap().elapsed().is_ok_and(|unused| unused.as_millis() > 100)
    });
    berth.restart();
    berth.has_containers(0, DEADLINE);
}
