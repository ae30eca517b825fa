//! Another SSH server in place of containers: OpenSSH's, and berth itself.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{
    Answer, Berth, Client, DEADLINE, PASSWORD, Sshd, WebhookServer, eventually, free_port, key, newest_openssh,
};
use crate::forwarding::Display;
use crate::terminals::{follows_the_window, packets_are_marked};

/// The fingerprint of a server's host key.
fn fingerprint(public: &Path) -> String {
    let line = Client::new("ssh-keygen").arg("-lf").arg(public).run().succeeds().text();
    line.split(' ').nth(1).unwrap().to_owned()
}

/// Settings that lead to this server, as this machine's user.
fn leading_to(sshd: &Sshd) -> Value {
    json!({
        "server": "127.0.0.1",
        "port": sshd.port,
        "username": sshd.user,
        "privateKey": key("ed25519").path,
        "allowedHostKeyFingerprints": [fingerprint(&sshd.path("host_key.pub"))],
    })
}

fn berth_before(sshd: &Sshd, change: impl FnOnce(&mut Value)) -> Berth {
    Berth::with(|config| {
        config["backend"] = "sshproxy".into();
        config["sshproxy"] = leading_to(sshd);
        change(config);
    })
}

#[test]
fn packets_to_the_other_server_are_marked_by_whether_there_is_a_terminal() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |config| config["ssh"]["ipqos"] = "ef le".into());
    packets_are_marked(&berth, "dport", sshd.port);
}

#[test]
fn commands_have_their_streams_status_signal_and_environment() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |_| ());
    let master = berth.master();
    let ran = master.exec("cat; echo error >&2; exit 7").input("input").run();
    ran.exits(7).prints("input").says("error");
    master.exec("kill -KILL $$").run().exits(255);
    let ran = berth.ssh(["-T", "-o", "SetEnv=LANG=tlh LD_PRELOAD=x", "berth", "echo $LANG $LD_PRELOAD"]);
    ran.run().succeeds().prints("tlh\n");
    let mut running = berth
        .ssh(["-tt", "berth", "trap 'echo caught; exit 3' INT; echo ready; sleep 100 & wait"])
        .stdin(std::process::Stdio::piped())
        .spawn();
    running.stdout.line("ready");
    running.write(b"\x03");
    assert!(running.wait().exits(3).text().contains("caught"));
}

#[test]
fn what_is_set_for_a_program_is_taken_by_the_server_or_nothing_starts() {
    let forced =
        |config: &mut Value| config["security"] = json!({"forceCommand": "echo original=[$SSH_ORIGINAL_COMMAND]"});
    let sshd = Sshd::start("AcceptEnv SSH_ORIGINAL_COMMAND", "");
    let berth = berth_before(&sshd, forced);
    let master = berth.master();
    master.exec("git-receive-pack x").run().succeeds().prints("original=[git-receive-pack x]\n");
    berth.ssh(["-T", "berth"]).run().succeeds().prints("original=[]\n");
    // As many as sshd takes.
    let many = (1..=129).map(|number| format!(" LC_V{number}=a")).collect::<String>();
    let ran = berth.ssh(["-T", "-o", &format!("SetEnv={}", many.trim()), "berth", "git-receive-pack x"]).run();
    ran.exits(255).prints("").says("berth: the server behind this one does not take what is set for your session");
    // Stock sshd takes LANG and LC_* alone.
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, forced);
    let ran = berth.ssh(["-T", "berth", "git-receive-pack x"]).run();
    ran.exits(255).prints("").says("berth: the server behind this one does not take what is set for your session");
    berth.log().line("sshproxy: the server does not take SSH_ORIGINAL_COMMAND");
    berth.reload(|config| config["security"] = json!({"forceCommand": "internal-sftp -R"}));
    let ran = berth.openssh("sftp").args(["-b", "-", "berth"]).input("pwd\n").run();
    ran.exits(255).says("berth: the server behind this one cannot be held to the rules for your SFTP");
}

#[test]
fn a_person_at_a_terminal_is_told_why_nothing_starts() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |config| config["security"] = json!({"forceCommand": "true"}));
    let ran = berth.ssh(["-tt", "berth", "git-receive-pack x"]).run();
    ran.exits(255).prints("").says("berth: the server behind this one does not take what is set for your session");
}

#[test]
fn much_passes_both_ways_through_new_keys() {
    let sshd = Sshd::start("RekeyLimit 1M", "");
    let berth = berth_before(&sshd, |_| ());
    let input: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ran = berth.exec("cat").input(input.clone()).run().succeeds();
    assert!(ran.stdout == input, "{} bytes came back", ran.stdout.len());
}

#[test]
fn a_server_that_wants_a_post_quantum_key_exchange_has_it_again_and_again() {
    let settings = "KexAlgorithms mlkem768x25519-sha256\nRekeyLimit 1M";
    let sshd = Sshd::of(&newest_openssh("sshd"), settings, "");
    let berth = berth_before(&sshd, |_| ());
    let ran = berth.exec("cat").input(vec![7; 5_000_000]).run().succeeds();
    assert!(ran.stdout == [7; 5_000_000], "{} bytes came back", ran.stdout.len());
    berth.reload(|config| config["sshproxy"]["kex"] = "curve25519-sha256".into());
    berth.exec("true").run().exits(255);
    berth.log().line("no match for method kex algos");
}

#[test]
fn a_person_has_a_terminal_that_follows_the_window() {
    let sshd = Sshd::start("", "");
    follows_the_window(&berth_before(&sshd, |_| ()));
}

#[test]
fn sftp_and_other_subsystems_are_those_of_the_server() {
    let sshd = Sshd::start("Subsystem hello echo hello", "");
    let berth = berth_before(&sshd, |_| ());
    berth.ssh(["-s", "berth", "hello"]).run().succeeds().prints("hello\n");
    assert_ne!(berth.ssh(["-s", "berth", "no-such"]).run().code, Some(0));
    fs::write(berth.path("there"), "what is there\n").unwrap();
    let (there, here) = (berth.path("there"), berth.path("here"));
    let batch = format!("get {} {}", there.display(), here.display());
    berth.openssh("sftp").args(["-b", "-", "berth"]).input(batch).run().succeeds();
    assert_eq!(fs::read_to_string(here).unwrap(), "what is there\n");
    let forced = |config: &mut Value| config["security"] = json!({"forceCommand": "internal-sftp"});
    berth.reload(forced);
    let ran = berth.openssh("sftp").args(["-b", "-", "berth"]).input(format!("ls {}", there.display())).run();
    assert!(ran.succeeds().text().contains("there"));
}

#[test]
fn sftp_that_is_denied_is_so_by_any_name() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |config| {
        config["security"] = json!({"subsystem": {"mode": "enable", "deny": ["sftp"]}});
    });
    for name in ["sftp", "internal-sftp", "internal-sftp "] {
        berth.ssh(["-s", "berth", name]).run().exits(255).says("subsystem request failed on channel 0");
    }
}

#[test]
fn ports_and_unix_sockets_are_the_servers() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |_| ());
    let master = berth.master();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let target_port = target.local_addr().unwrap().port();
    let forward = |arguments: &[&str]| {
        master.client("ssh").args(["-O", "forward"]).args(arguments).arg("berth").run().succeeds().text()
    };
    let local = free_port();
    let remote = forward(&["-R", &format!("0:127.0.0.1:{target_port}")]);
    forward(&["-L", &format!("{local}:127.0.0.1:{}", remote.trim())]);
    let mut near = TcpStream::connect(("127.0.0.1", local)).unwrap();
    let (mut far, _) = target.accept().unwrap();
    near.write_all(b"there").unwrap();
    far.write_all(b"back").unwrap();
    drop((near.shutdown(std::net::Shutdown::Write), far.shutdown(std::net::Shutdown::Write)));
    let (mut there, mut back) = (String::new(), String::new());
    far.read_to_string(&mut there).unwrap();
    near.read_to_string(&mut back).unwrap();
    assert_eq!((there.as_str(), back.as_str()), ("there", "back"));
    let path = |name: &str| berth.path(name).display().to_string();
    let listener = UnixListener::bind(berth.path("own")).unwrap();
    forward(&["-R", &format!("{}:{}", path("remote"), path("own"))]);
    forward(&["-L", &format!("{}:{}", path("local"), path("remote"))]);
    let mut near = UnixStream::connect(berth.path("local")).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    berth.reload(|config| config["security"] = json!({"defaultMode": "disable", "command": {"mode": "enable"}}));
    berth.ssh(["-W", &format!("127.0.0.1:{target_port}"), "berth"]).run().says("administratively prohibited");
}

#[test]
fn the_clients_keys_are_lent_where_that_is_enabled() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |config| {
        config["security"] = json!({"forwarding": {"agentForwardingMode": "enable", "x11ForwardingMode": "enable"}});
    });
    let socket = berth.path("agent");
    let agent = Client::new("ssh-agent").args(["-D", "-a"]).arg(&socket).spawn();
    eventually("the agent's socket", DEADLINE, || socket.exists());
    let add = Client::new("ssh-add").arg(key("ed25519").path).env("SSH_AUTH_SOCK", &socket);
    add.run().succeeds();
    let list = berth.ssh(["-A", "-T", "berth", "ssh-add -L"]).env("SSH_AUTH_SOCK", &socket).run().succeeds().text();
    assert!(list.contains(key("ed25519").public.split(' ').nth(1).unwrap()), "{list}");
    // A client that lends them by names that the server need not know.
    let ssh = berth.openssh(&newest_openssh("ssh")).args(["-v", "-A", "-T", "berth", "ssh-add -L"]);
    ssh.env("SSH_AUTH_SOCK", &socket).run().succeeds().prints(&list).says("via agent-req");
    drop(agent);
    berth.reload(|config| config["security"] = json!({}));
    let ran = berth.ssh(["-A", "-T", "berth", "echo $SSH_AUTH_SOCK"]).env("SSH_AUTH_SOCK", &socket).run();
    ran.prints("\n");
}

#[test]
fn all_algorithms_and_kinds_of_keys_are_spoken() {
    let [rsa, ecdsa] = ["rsa", "ecdsa"].map(|kind| format!("HostKey {}", key(kind).path.display()));
    // Since OpenSSH 10 these exchanges are for those who ask for them.
    let kex = "KexAlgorithms +diffie-hellman-group16-sha512,diffie-hellman-group-exchange-sha256";
    let sshd = Sshd::start(&format!("{rsa}\n{ecdsa}\n{kex}"), "");
    let keys = ["ed25519", "rsa", "ecdsa", "ecdsa-521"];
    fs::write(sshd.path("authorized_keys"), keys.map(|kind| key(kind).public).join("\n")).unwrap();
    let berth = berth_before(&sshd, |config| {
        let host_keys = ["rsa", "ecdsa"].map(|kind| fingerprint(&key(kind).path.with_extension("pub")));
        config["sshproxy"]["allowedHostKeyFingerprints"].as_array_mut().unwrap().extend(host_keys.map(Value::from));
    });
    let all =
        serde_json::from_slice::<Value>(&fs::read(berth.path("config.yaml")).unwrap()).unwrap()["sshproxy"].clone();
    let works = |name: &str, value: &str| {
        berth.reload(|config| {
            config["sshproxy"] = all.clone();
            config["sshproxy"][name] = value.into();
            if name == "macs" {
                config["sshproxy"]["ciphers"] = "aes128-ctr".into();
            }
        });
        berth.exec("echo in").run().succeeds().prints("in\n");
    };
    for kex in ["curve25519-sha256", "ecdh-sha2-nistp256", "ecdh-sha2-nistp521", "diffie-hellman-group16-sha512"] {
        works("kex", kex);
    }
    works("kex", "diffie-hellman-group-exchange-sha256");
    for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"] {
        works("hostKeyAlgos", algorithm);
    }
    for cipher in ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"] {
        works("ciphers", cipher);
    }
    for mac in ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512"] {
        works("macs", mac);
    }
    for kind in keys {
        works("privateKey", key(kind).path.to_str().unwrap());
    }
}

#[test]
fn x_programs_there_reach_the_clients_display() {
    let sshd = Sshd::start("X11Forwarding yes", "");
    let berth = berth_before(&sshd, |config| {
        config["security"] = json!({"forwarding": {"x11ForwardingMode": "enable"}});
    });
    let display = Display::start(&berth);
    let xdpyinfo = display.client(berth.ssh(["-Y", "-T", "berth", "xdpyinfo | grep dimensions"]));
    assert!(xdpyinfo.run().succeeds().text().contains("320x200 pixels"));
}

#[test]
fn a_configuration_server_may_choose_it() {
    let sshd = Sshd::start("", "");
    let mut settings = leading_to(&sshd);
    // As ContainerSSH's library writes it: in nanoseconds.
    settings["timeout"] = 60_000_000_000_u64.into();
    let answer = json!({"config": {"backend": "sshproxy", "sshproxy": settings}});
    let server = WebhookServer::start(move |_, _| Answer::Json(answer.clone()));
    let berth = Berth::with(|config| config["configserver"] = json!({"url": server.url()}));
    berth.exec("echo in").run().succeeds().prints("in\n");
    assert_eq!(berth.containers(), Vec::<String>::new());
}

#[test]
fn a_configuration_server_may_give_what_the_file_leaves_out() {
    let sshd = Sshd::start("", "");
    let whole = leading_to(&sshd);
    let mut given = whole.clone();
    given.as_object_mut().unwrap().remove("privateKey");
    let server = WebhookServer::start(move |_, question| match question["username"].as_str() {
        Some("alice") => Answer::Json(json!({"config": {"sshproxy": given}})),
        _ => Answer::Json(json!({"config": {"sshproxy": {"server": "127.0.0.1"}}})),
    });
    let berth = Berth::with(|config| {
        config["configserver"] = json!({"url": server.url()});
        config["backend"] = "sshproxy".into();
        config["sshproxy"] = json!({"privateKey": whole["privateKey"]});
        config["auth"]["users"]["bob"] = config["auth"]["users"]["alice"].clone();
    });
    berth.exec("echo in").run().succeeds().prints("in\n");
    let key = key("ed25519").path.display().to_string();
    let ran = berth.ssh(["-T", "-l", "bob", "-i", &key, "berth", "echo in"]).run().exits(255).prints("");
    ran.says("the server cannot serve you at this time");
    berth.log().line("\"bob\" turned away: configserver: sshproxy.username: missing");
}

#[test]
fn another_host_key_is_refused() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |config| {
        let other = fingerprint(&key("rsa").path.with_extension("pub"));
        config["sshproxy"]["allowedHostKeyFingerprints"] = json!([other]);
    });
    let ran = berth.exec("echo in").run().exits(255).prints("");
    ran.says("berth: the server behind this one is not the one that is expected");
    let found = fingerprint(&sshd.path("host_key.pub"));
    berth.log().line(&format!("its ssh-ed25519 host key {found} is not in sshproxy.allowedHostKeyFingerprints"));
}

#[test]
fn a_server_that_is_down_or_hangs_is_one_line_and_the_end() {
    let sshd = Sshd::start("", "");
    let port = free_port();
    let berth = berth_before(&sshd, |config| {
        config["sshproxy"]["port"] = port.into();
        config["sshproxy"]["timeout"] = "1s".into();
    });
    let line = "berth: the server cannot be reached; try again later\n";
    let ran = berth.exec("echo in").run().exits(255).prints("");
    assert_eq!(ran.stderr, line);
    berth.log().line("Connection refused");
    // It takes connections, and says nothing.
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    berth.exec("echo in").run().exits(255).prints("").says("berth: the server behind this one does not answer");
    berth.log().line("nobody could log in there within sshproxy.timeout");
    drop(listener);
}

#[test]
fn what_the_server_does_not_take_is_told() {
    let sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |config| config["sshproxy"]["privateKey"] = json!(key("rsa").path));
    let ran = berth.exec("echo in").run().exits(255).prints("");
    ran.says("berth: the server behind this one does not let you in");
    berth.log().line("it does not let \"");
}

#[test]
fn the_servers_end_is_the_sessions() {
    let mut sshd = Sshd::start("", "");
    let berth = berth_before(&sshd, |_| ());
    let running = berth.exec("echo ready; sleep 1000").spawn();
    running.stdout.line("ready");
    sshd.kill();
    running.wait().exits(255);
    berth.log().line("sshproxy: ");
}

#[test]
fn users_keep_their_names_and_servers_take_passwords_as_well() {
    // One that takes a password in a request, and one that only asks for it.
    let inner = Berth::with(|config| config["auth"]["users"]["alice"]["authorizedKeys"] = json!([]));
    let outer = Berth::with(|config| {
        config["backend"] = "sshproxy".into();
        config["sshproxy"] = json!({
            "server": "localhost",
            "port": inner.port,
            "usernamePassThrough": true,
            "password": PASSWORD,
            "privateKey": key("rsa").path,
            "allowedHostKeyFingerprints": fingerprint(&inner.path("host_key.pub")),
        });
        config["auth"]["users"]["bob"] = json!({"authorizedKeys": [key("ed25519").public]});
    });
    outer.exec("echo in; exit 5").run().exits(5).prints("in\n");
    outer.ssh(["-T", "bob@berth", "true"]).run().exits(255).says("does not let you in");
    inner.log().line("accepted password for \"alice\"");
}

#[test]
fn servers_may_ask_for_several_proofs_in_any_order() {
    let inner = Berth::start();
    let outer = Berth::with(|config| {
        config["backend"] = "sshproxy".into();
        config["sshproxy"] = json!({
            "server": "localhost",
            "port": inner.port,
            "username": "alice",
            "password": PASSWORD,
            "privateKey": key("ed25519").path,
            "allowedHostKeyFingerprints": fingerprint(&inner.path("host_key.pub")),
        });
    });
    for methods in
        ["publickey,password", "password,publickey", "keyboard-interactive", "keyboard-interactive,publickey"]
    {
        inner.reload(|config| config["ssh"]["authenticationMethods"] = json!(methods));
        outer.exec("echo in").run().succeeds().prints("in\n");
    }
}
