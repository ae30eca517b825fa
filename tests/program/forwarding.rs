//! Ports, unix sockets, keys and displays, forwarded by the real client to and from real containers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{
    Berth, Client, DEADLINE, LONG, Master, Running, eventually, free_port, key, much, newest_openssh,
    on_this_machines_network, this_machine,
};

/// What a web server in the container serves.
const PAGE: &str = "from the container\n";

/// A container with a web server on its loopback, port 80, and the connection to it.
fn web(change: impl FnOnce(&mut Value)) -> (Berth, Master) {
    let berth = Berth::with(change);
    let master = berth.master();
    let serve = format!("mkdir /web && echo '{}' >/web/index.html && httpd -p 127.0.0.1:80 -h /web", PAGE.trim());
    master.exec(&serve).run().succeeds();
    (berth, master)
}

/// Adds a forwarding to a connection, and gives what the client says of it.
#[track_caller]
fn forward(master: &Master, arguments: &[&str]) -> String {
    master.client("ssh").args(["-O", "forward"]).args(arguments).arg("berth").run().succeeds().text()
}

fn curl(arguments: &[&str]) -> Client {
    Client::new("curl").args(["--silent", "--show-error", "--noproxy", "", "--max-time", "30"]).args(arguments)
}

fn read_to_end(mut source: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_local_port_leads_into_the_container_where_names_are_resolved() {
    let (_berth, master) = web(|_| ());
    let port = free_port();
    forward(&master, &["-L", &format!("{port}:localhost:80")]);
    curl(&[&format!("http://127.0.0.1:{port}/")]).run().succeeds().prints(PAGE);
}

#[test]
fn two_hundred_connections_are_forwarded_at_once_into_the_container_and_out_again() {
    let berth = Berth::start();
    let master = berth.master();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let (local, port) = (free_port(), target.local_addr().unwrap().port());
    let remote = forward(&master, &["-R", &format!("0:127.0.0.1:{port}")]);
    forward(&master, &["-L", &format!("{local}:127.0.0.1:{}", remote.trim())]);
    // One after another, since the kernel keeps only so many for ssh; they all stay.
    let connect = || [TcpStream::connect(("127.0.0.1", local)).unwrap(), target.accept().unwrap().0];
    let pairs: Vec<_> = (0..200).map(|_| connect()).collect();
    for end in pairs.iter().flatten() {
        end.set_read_timeout(Some(DEADLINE)).unwrap();
        end.set_write_timeout(Some(DEADLINE)).unwrap();
    }
    let block = noise();
    std::thread::scope(|scope| {
        for (number, [near, far]) in pairs.iter().enumerate() {
            let part = &block[number * 1000..][..200_000];
            scope.spawn(move || {
                (&mut &*near).write_all(part).unwrap();
                near.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                assert!(read_to_end(far) == part, "connection {number} has not got what was sent");
                (&mut &*far).write_all(&part[..1000]).unwrap();
                far.shutdown(Shutdown::Write).unwrap();
                assert!(read_to_end(near) == part[..1000], "connection {number} has not got the answer");
            });
        }
    });
}

#[test]
fn a_socks_proxy_connects_in_the_container() {
    let (_berth, master) = web(|_| ());
    let port = free_port();
    forward(&master, &["-D", &port.to_string()]);
    let proxy = format!("socks5h://127.0.0.1:{port}");
    curl(&["--proxy", &proxy, "http://localhost/"]).run().succeeds().prints(PAGE);
    curl(&["--proxy", &proxy, "http://127.0.0.1:81/"]).run().exits(97);
}

#[test]
fn a_port_of_the_container_leads_to_the_client_without_any_session() {
    let berth = Berth::start();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("0:127.0.0.1:{}", target.local_addr().unwrap().port());
    let client = berth.ssh(["-N", "-M", "-o", &control(&berth), "-R", &forward, "berth"]).spawn();
    let line = client.stderr.line("Allocated port");
    berth.has_containers(1, DEADLINE);
    let port = line.split(' ').nth(2).unwrap();
    let inside = berth.ssh(["-o", &control(&berth), "-T", "berth", &format!("nc 127.0.0.1 {port}")]);
    let inside = inside.input("question").spawn();
    let (mut near, _) = target.accept().unwrap();
    let mut question = [0; 8];
    near.read_exact(&mut question).unwrap();
    near.write_all(b"answer").unwrap();
    drop(near);
    inside.wait().succeeds().prints("answer");
    assert_eq!(&question, b"question");
    drop(client);
    berth.has_containers(0, Duration::from_secs(5));
}

fn control(berth: &Berth) -> String {
    format!("ControlPath={}", berth.path("control").display())
}

#[test]
fn standard_input_and_output_are_a_connection_of_the_container_with_half_close() {
    let (_berth, master) = web(|_| ());
    master.exec("nc -l -p 7000 -e sh -c 'cat; echo end of input' >/dev/null 2>&1 &").run().succeeds();
    let connect = || master.client("ssh").args(["-W", "127.0.0.1:7000", "berth"]).input("through ").run();
    let mut ran = connect();
    eventually("netcat listens", DEADLINE, || {
        if ran.code == Some(0) {
            return true;
        }
        ran = connect();
        false
    });
    ran.prints("through end of input\n");
}

#[test]
fn why_a_connection_is_not_made_is_told_in_the_words_of_sshd() {
    let berth = Berth::start();
    for (target, reason) in [
        ("127.0.0.1:7001", "connect failed: Connection refused"),
        ("255.255.255.255:80", "connect failed: Network is unreachable"),
        ("nowhere.invalid:80", "connect failed: Temporary failure in name resolution"),
    ] {
        berth.ssh(["-W", target, "berth"]).run().exits(255).says(&format!("open failed: {reason}"));
    }
}

#[test]
fn a_forwarded_port_is_open_to_others_only_where_the_configuration_allows_it() {
    for (setting, ask, bound) in [
        ("no", "*:0:localhost:1", "127.0.0.1"),
        ("yes", "localhost:0:localhost:1", "0.0.0.0"),
        ("clientspecified", "*:0:localhost:1", "0.0.0.0"),
        ("clientspecified", "localhost:0:localhost:1", "127.0.0.1"),
    ] {
        let berth = Berth::with(|config| config["security"]["forwarding"]["gatewayPorts"] = setting.into());
        let master = berth.master();
        let port = forward(&master, &["-R", ask]);
        let listening = master.exec("netstat -lnt").run().succeeds().text();
        assert!(listening.contains(&format!(" {bound}:{} ", port.trim())), "{setting} {ask}: {listening}");
    }
}

#[test]
fn a_jump_goes_through_the_container() {
    // The container reaches the server itself.
    let berth = Berth::with(on_this_machines_network);
    let options = fs::read_to_string(berth.path("ssh_config")).unwrap();
    let identity = format!("Host *\n IdentityFile {}\n", key("ed25519").path.display());
    let behind = format!("Host behind\n HostName {}\n Port {}\n User alice\n", this_machine(), berth.port);
    fs::write(berth.path("jump_config"), [identity, behind, options].concat()).unwrap();
    let ssh = Client::new("ssh").arg("-F").arg(berth.path("jump_config"));
    ssh.args(["-J", "berth", "-T", "behind", "echo arrived"]).run().succeeds().prints("arrived\n");
}

#[test]
fn unix_sockets_lead_both_ways() {
    let berth = Berth::start();
    let master = berth.master();
    let (near, far) = (berth.path("near"), berth.path("far"));
    let target = UnixListener::bind(&far).unwrap();
    // Into the container, and out again.
    forward(&master, &["-R", &format!("/tmp/socket:{}", far.display())]);
    forward(&master, &["-L", &format!("{}:/tmp/socket", near.display())]);
    master.exec("stat -c %A /tmp/socket").run().succeeds().prints("srw-------\n");
    let mut socket = UnixStream::connect(near).unwrap();
    let (mut accepted, _) = target.accept().unwrap();
    socket.write_all(b"question").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&accepted), b"question");
    accepted.write_all(b"answer").unwrap();
    drop(accepted);
    assert_eq!(read_to_end(&socket), b"answer");
}

#[test]
fn a_forwarding_is_cancelled_while_the_connection_goes_on() {
    let berth = Berth::start();
    let master = berth.master();
    let port: u16 = forward(&master, &["-R", "0:localhost:1"]).trim().parse().unwrap();
    let listens = |master: &Master| master.exec(&format!("netstat -lnt | grep -q :{port}")).run().code == Some(0);
    assert!(listens(&master));
    master.client("ssh").args(["-O", "cancel", "-R", "0:localhost:1", "berth"]).run().succeeds();
    eventually("the port is free", DEADLINE, || !listens(&master));
}

#[test]
fn much_passes_each_way_unchanged() {
    let berth = Berth::start();
    let master = berth.master();
    let local = free_port();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    forward(&master, &["-L", &format!("{local}:127.0.0.1:7000")]);
    let remote = forward(&master, &["-R", &format!("0:127.0.0.1:{port}")]);
    // What goes in by -R comes out by -L: from here, through netcat in the container, to here.
    let relay = format!("nc 127.0.0.1 {} | nc -l -p 7000", remote.trim());
    let _relay = master.exec(&relay).within(LONG).spawn();
    let (mut sender, _) = target.accept().unwrap();
    eventually("netcat listens", DEADLINE, || master.exec("netstat -lnt | grep -q :7000").run().code == Some(0));
    let receiver = TcpStream::connect(("127.0.0.1", local)).unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let sending = std::thread::spawn(move || {
        let mut block = noise();
        for number in 0..much() / block.len() as u64 {
            block[..8].copy_from_slice(&number.to_be_bytes());
            sender.write_all(&block).unwrap();
        }
    });
    let (mut receiver, mut expected) = (BufReader::new(receiver), noise());
    let mut block = vec![0; expected.len()];
    for number in 0..much() / block.len() as u64 {
        receiver.read_exact(&mut block).unwrap();
        expected[..8].copy_from_slice(&number.to_be_bytes());
        assert!(block == expected, "a difference in block {number}");
    }
    assert!(read_to_end(receiver).is_empty());
    sending.join().unwrap();
}

/// A mebibyte without a pattern, always the same.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..1 << 17).flat_map(|_| next()).collect()
}

/// With the programs that use what is lent, and leave to lend it.
fn with_clients(config: &mut Value) {
    config["docker"]["execution"]["container"]["image"] = "berth-test/clients".into();
    config["security"]["forwarding"] = json!({"agentForwardingMode": "enable", "x11ForwardingMode": "enable"});
}

/// An `ssh-agent` with the ed25519 key.
fn authentication_agent(berth: &Berth) -> (Running, PathBuf) {
    let socket = berth.path("authentication-agent");
    let agent = Client::new("ssh-agent").args(["-D", "-a"]).arg(&socket).within(Duration::from_secs(300)).spawn();
    eventually("ssh-agent listens", DEADLINE, || UnixStream::connect(&socket).is_ok());
    Client::new("ssh-add").arg(key("ed25519").path).env("SSH_AUTH_SOCK", &socket).run().succeeds();
    (agent, socket)
}

#[test]
fn programs_in_the_container_use_the_clients_keys_while_the_session_lasts() {
    let berth = Berth::with(with_clients);
    let (_agent, socket) = authentication_agent(&berth);
    let master = berth.ssh(["-M", "-N", "-A", "-o", &control(&berth), "berth"]).env("SSH_AUTH_SOCK", &socket).spawn();
    eventually("the control socket", DEADLINE, || berth.path("control").exists());
    let exec = |option: &str, command: &str| {
        let ssh = berth.ssh(["-o", &control(&berth), option, "-T", "berth", command]);
        ssh.env("SSH_AUTH_SOCK", &socket).run()
    };
    let list = exec("-A", "ssh-add -l; ls -ld $(dirname $SSH_AUTH_SOCK) $SSH_AUTH_SOCK").succeeds().text();
    assert!(list.contains(" ed25519 (ED25519)\n"), "{list}");
    assert!(list.contains("srw-------") && list.contains("drwx------"), "{list}");
    exec("-a", "echo ${SSH_AUTH_SOCK-none}; ls /tmp").succeeds().prints("none\n");
    drop(master);
}

#[test]
fn the_newest_client_lends_its_keys_by_the_standards_names() {
    let berth = Berth::with(with_clients);
    let (_agent, socket) = authentication_agent(&berth);
    let ssh = berth.openssh(&newest_openssh("ssh")).args(["-v", "-A", "-T", "berth", "ssh-add -l"]);
    let ran = ssh.env("SSH_AUTH_SOCK", &socket).run().succeeds().says("agent forwarding on channel 0 via agent-req");
    assert!(ran.text().contains(" ed25519 (ED25519)\n"), "{ran:?}");
    ran.says("client_input_channel_open: ctype agent-connect ");
}

#[test]
fn a_hop_from_the_container_uses_the_clients_keys() {
    let berth = Berth::with(|config| {
        with_clients(config);
        on_this_machines_network(config);
    });
    let (_agent, socket) = authentication_agent(&berth);
    let hop = format!(
        "ssh -p {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null alice@{} hostname; hostname",
        berth.port,
        this_machine()
    );
    let ran = berth.ssh(["-A", "-T", "berth", &hop]).env("SSH_AUTH_SOCK", &socket).run().succeeds();
    assert_eq!(ran.text().lines().count(), 2, "{ran:?}");
}

#[test]
fn keys_are_not_lent_by_default() {
    let berth = Berth::start();
    let (_agent, socket) = authentication_agent(&berth);
    let ssh = berth.ssh(["-A", "-T", "berth", "echo ${SSH_AUTH_SOCK-none}"]).env("SSH_AUTH_SOCK", &socket);
    ssh.run().succeeds().prints("none\n");
}

/// An X server that draws nowhere, and lets in only who knows its cookie.
pub(crate) struct Display {
    name: String,
    authority: PathBuf,
    _server: Running,
}

impl Display {
    pub(crate) fn start(berth: &Berth) -> Self {
        let authority = berth.path("authority");
        let xauth = |name: &str| {
            let add = ["add", name, "MIT-MAGIC-COOKIE-1", &"5a".repeat(16)];
            Client::new("xauth").arg("-f").arg(&authority).args(add).run().succeeds();
        };
        // For the server, which does not look at the number.
        xauth(":0");
        let options = ["-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "320x200x24", "-auth"];
        let server = Client::new("Xvfb").args(options).arg(&authority).within(Duration::from_secs(300)).spawn();
        let name = format!(":{}", server.stdout.line("").trim());
        xauth(&name);
        Display { name, authority, _server: server }
    }

    /// A client with this display.
    pub(crate) fn client(&self, client: Client) -> Client {
        client.env("DISPLAY", &self.name).env("XAUTHORITY", &self.authority)
    }
}

#[test]
fn x_programs_in_the_container_reach_the_clients_display() {
    let berth = Berth::with(with_clients);
    let display = Display::start(&berth);
    for option in ["-X", "-Y"] {
        let command = "echo $DISPLAY; stat -c %a /root/.Xauthority; xdpyinfo | grep dimensions";
        let text = display.client(berth.ssh([option, "-T", "berth", command])).run().succeeds().text();
        assert!(text.starts_with("localhost:10.0\n600\n") && text.contains("320x200 pixels"), "{text}");
    }
}

#[test]
fn an_x_program_without_the_cookie_is_not_let_in() {
    let berth = Berth::with(with_clients);
    let display = Display::start(&berth);
    let command = "XAUTHORITY=/dev/null xdpyinfo";
    let ran = display.client(berth.ssh(["-Y", "-T", "berth", command])).run();
    ran.exits(1).says("unable to open display");
}

#[test]
fn displays_are_not_lent_by_default_nor_to_a_key_that_forbids_it() {
    let forbid = |config: &mut Value| {
        with_clients(config);
        config["auth"]["users"]["alice"]["authorizedKeys"] =
            json!([format!("no-X11-forwarding {}", key("ed25519").public)]);
    };
    for berth in [Berth::start(), Berth::with(forbid)] {
        let display = Display::start(&berth);
        let ssh = display.client(berth.ssh(["-Y", "-T", "berth", "echo ${DISPLAY-none}"])).run();
        ssh.succeeds().prints("none\n").says("X11 forwarding request failed");
    }
}

#[test]
fn keys_options_and_the_configuration_say_what_is_forwarded() {
    let berth = Berth::with(|config| {
        config["auth"]["users"]["alice"]["authorizedKeys"] =
            json!([format!("permitopen=\"localhost:80\",permitlisten=\"8080\" {}", key("ed25519").public)]);
        config["security"]["forwarding"] = json!({"permitOpen": ["*:80", "*:443"]});
    });
    // Nobody listens, but that is another thing.
    for (target, reason) in [
        ("localhost:80", "Connection refused"),
        ("localhost:443", "administratively prohibited"),
        ("127.0.0.1:80", "administratively prohibited"),
    ] {
        berth.ssh(["-W", target, "berth"]).run().says(reason);
    }
    let master = berth.master();
    for (listen, good) in [("8080:localhost:1", true), ("8081:localhost:1", false)] {
        let ran = master.client("ssh").args(["-O", "forward", "-R", listen, "berth"]).run();
        assert_eq!(ran.code == Some(0), good, "{listen}: {ran:?}");
    }
}

#[test]
fn a_user_may_be_allowed_what_others_are_not() {
    let berth = Berth::with(|config| {
        config["security"]["forwarding"] = json!({"forwardingMode": "disable"});
        config["auth"]["users"]["bob"] = config["auth"]["users"]["alice"].clone();
        config["auth"]["users"]["bob"]["forwarding"] =
            json!({"forwardingMode": "enable", "permitOpen": ["localhost:*"]});
    });
    for (user, target, reason) in [
        ("alice", "localhost:80", "administratively prohibited"),
        ("bob", "localhost:80", "Connection refused"),
        ("bob", "127.0.0.1:80", "administratively prohibited"),
    ] {
        berth.ssh(["-l", user, "-W", target, "berth"]).run().exits(255).says(reason);
    }
}

#[test]
fn a_client_that_is_killed_leaves_no_container_behind_its_forwards() {
    let (berth, master) = web(|_| ());
    let port = free_port();
    forward(&master, &["-L", &format!("{port}:localhost:80"), "-R", "0:localhost:1"]);
    let mut open = TcpStream::connect(("127.0.0.1", port)).unwrap();
    open.write_all(b"GET").unwrap();
    berth.has_containers(1, DEADLINE);
    drop(master);
    berth.has_containers(0, Duration::from_secs(5));
    let mut line = String::new();
    assert_eq!(BufReader::new(open).read_line(&mut line).unwrap_or(0), 0);
}
