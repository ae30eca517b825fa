//! Connections that the agent makes, and those that it accepts.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use berth::connection::forward::{GatewayPorts, HostPort, Listening};
use berth::connection::message::{MAXIMUM_PACKET, WINDOW, number, open_failure, window_adjust};
use berth::connection::message::{OpenFailure, bare};
use berth::connection::wire::{Reader, Write};

use crate::harness::{DEADLINE, Outcome, Server};
use crate::port::free_port;

/// What `direct-tcpip` adds.
fn target(host: &str, port: u16) -> Vec<u8> {
    let mut specific = Vec::new();
    HostPort { host: host.as_bytes(), port: port.into() }.encode(&mut specific);
    HostPort { host: b"192.0.2.1", port: 5 }.encode(&mut specific);
    specific
}

/// What `direct-streamlocal@openssh.com` adds.
fn path_target(path: &Path) -> Vec<u8> {
    let mut specific = Vec::new();
    specific.put_string(path.to_str().unwrap());
    specific.put_string("");
    specific.put_u32(0);
    specific
}

/// What `tcpip-forward` adds.
fn host_port(host: &str, port: u16) -> Vec<u8> {
    let mut specific = Vec::new();
    HostPort { host: host.as_bytes(), port: port.into() }.encode(&mut specific);
    specific
}

fn path_string(path: &Path) -> Vec<u8> {
    let mut specific = Vec::new();
    specific.put_string(path.to_str().unwrap());
    specific
}

/// A connection through the agent: the test's end of it, and its channel.
fn connect(server: &mut Server, listener: &TcpListener, window: u32) -> (TcpStream, u32) {
    let port = listener.local_addr().unwrap().port();
    let channel = server.open_channel("direct-tcpip", window, &target("127.0.0.1", port)).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    (socket, channel)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn read_to_end(mut socket: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

/// How many descriptors the agent has.
fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.agent.id())).unwrap().count()
}

#[test]
fn bytes_pass_both_ways_and_each_way_ends_by_itself() {
    let mut server = Server::start();
    let (mut socket, channel) = connect(&mut server, &listener(), WINDOW);
    server.data(channel, b"question");
    server.eof(channel);
    assert_eq!(read_to_end(&socket), b"question");
    socket.write_all(b"late answer").unwrap();
    drop(socket);
    let outcome = server.outcome();
    assert_eq!((outcome.text().as_str(), outcome.events().as_str()), ("late answer", "eof, close"));
}

#[test]
fn a_connection_whose_far_end_has_ended_still_takes_data() {
    let mut server = Server::start();
    let (socket, channel) = connect(&mut server, &listener(), WINDOW);
    socket.shutdown(Shutdown::Write).unwrap();
    server.expect(&[number::CHANNEL_EOF]);
    server.data(channel, b"late question");
    server.eof(channel);
    assert_eq!(read_to_end(&socket), b"late question");
    assert_eq!(server.outcome().events(), "close");
}

#[test]
fn a_channel_that_the_client_closes_delivers_what_it_sent_before() {
    let mut server = Server::start();
    let (socket, channel) = connect(&mut server, &listener(), WINDOW);
    let block = vec![b'x'; MAXIMUM_PACKET as usize];
    let blocks = WINDOW / MAXIMUM_PACKET;
    // More than the sockets between hold.
    (0..blocks).for_each(|_| server.data(channel, &block));
    server.close(channel);
    assert_eq!(read_to_end(&socket).len(), WINDOW as usize);
    assert_eq!(server.outcome().events.last().unwrap(), "close");
}

#[test]
fn a_reset_connection_ends_its_channel() {
    let mut server = Server::start();
    let (socket, channel) = connect(&mut server, &listener(), WINDOW);
    // To close what holds unread bytes is a reset.
    server.data(channel, b"unread");
    let mut byte = [0];
    socket.peek(&mut byte).unwrap();
    drop(socket);
    server.expect(&[number::CHANNEL_EOF]);
    server.data(channel, b"nobody");
    server.expect(&[number::CHANNEL_CLOSE]);
}

#[test]
fn a_shut_window_stops_the_far_end_and_does_not_hide_its_end() {
    let mut server = Server::start();
    let (mut socket, channel) = connect(&mut server, &listener(), 10);
    socket.write_all(b"0123456789abcdef").unwrap();
    drop(socket);
    let mut outcome = Outcome::default();
    server.step(&mut outcome);
    assert_eq!(outcome.text(), "0123456789");
    assert!(!server.request(channel, "barrier", b""), "nothing comes beyond the window");
    server.send(&window_adjust(channel, 6));
    server.eof(channel);
    let rest = server.outcome();
    assert_eq!((rest.text().as_str(), rest.events().as_str()), ("abcdef", "eof, close"));
    let (socket, channel) = connect(&mut server, &listener(), 0);
    drop(socket);
    server.eof(channel);
    assert_eq!(server.outcome().events(), "eof, close");
}

#[test]
fn a_far_end_that_does_not_read_gives_no_window_back() {
    let mut server = Server::start();
    let (socket, channel) = connect(&mut server, &listener(), WINDOW);
    let block = vec![0; MAXIMUM_PACKET as usize];
    let (mut window, mut sent) = (WINDOW as usize, 0);
    // The kernel's buffers take some. Then only this much is under way.
    loop {
        while window >= block.len() {
            server.data(channel, &block);
            window -= block.len();
            sent += block.len();
        }
        assert!(!server.request(channel, "barrier", b""));
        let mut given = 0;
        while let Some(message) = server.kept(&[number::CHANNEL_WINDOW_ADJUST]) {
            given += u32::from_be_bytes(message[5..9].try_into().unwrap()) as usize;
        }
        if given == 0 {
            break;
        }
        window += given;
        assert!(sent < 100 << 20, "it buffers without bounds");
    }
    server.eof(channel);
    assert_eq!(read_to_end(&socket).len(), sent);
}

#[test]
fn a_connection_that_is_refused_says_so() {
    let mut server = Server::start();
    let port = free_port();
    let refused = server.open_channel("direct-tcpip", WINDOW, &target("127.0.0.1", port));
    assert_eq!(refused, Err((2, "Connection refused".into())));
    let refused = server.open_channel("direct-tcpip", WINDOW, &target(&"x".repeat(300), 80));
    assert_eq!(refused, Err((2, "Name or service not known".into())));
    let mut no_port = target("127.0.0.1", 0);
    no_port[13..17].copy_from_slice(&65536u32.to_be_bytes());
    assert_eq!(server.open_channel("direct-tcpip", WINDOW, &no_port).unwrap_err().0, 2);
}

#[test]
fn a_name_is_looked_up() {
    let mut server = Server::start();
    let listener = listener();
    let port = listener.local_addr().unwrap().port();
    server.open_channel("direct-tcpip", WINDOW, &target("localhost", port)).unwrap();
    listener.accept().unwrap();
}

#[test]
fn a_connection_that_takes_long_is_confirmed_when_it_is_there_and_keeps_nobody_waiting() {
    let mut server = Server::start();
    // A full queue, which answers to nobody.
    let listener =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
    let listener = TcpListener::from(listener);
    let first = TcpStream::connect(address).unwrap();
    server.begin_open("direct-tcpip", WINDOW, MAXIMUM_PACKET, &target("127.0.0.1", address.port()));
    // Its own open is confirmed: had the other been, that one would have come first.
    assert_eq!(server.run("echo meanwhile").text(), "meanwhile\n");
    drop((listener.accept().unwrap(), first));
    server.finish_open().unwrap();
    listener.accept().unwrap();
}

#[test]
fn two_hundred_connections_at_once_are_kept_apart_and_leave_nothing() {
    let mut server = Server::start();
    let before = descriptors(&server);
    let listener = listener();
    let port = listener.local_addr().unwrap().port();
    for _ in 0..200 {
        server.begin_open("direct-tcpip", WINDOW, MAXIMUM_PACKET, &target("localhost", port));
    }
    let sockets: Vec<_> = (0..200).map(|_| listener.accept().unwrap().0).collect();
    let channels: Vec<u32> = (0..200).map(|_| server.finish_open().unwrap()).collect();
    for channel in &channels {
        server.data(*channel, &channel.to_be_bytes());
        server.eof(*channel);
    }
    let mut seen: Vec<_> = sockets.iter().map(read_to_end).collect();
    seen.sort_unstable();
    let mut expected: Vec<_> = channels.iter().map(|channel| channel.to_be_bytes().to_vec()).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    drop(sockets);
    for _ in 0..200 {
        server.expect(&[number::CHANNEL_CLOSE]);
    }
    channels.iter().for_each(|channel| server.close(*channel));
    assert!(server.global_request("barrier", b"").is_none());
    assert_eq!(descriptors(&server), before);
}

#[test]
fn a_unix_socket_is_connected_to() {
    let mut server = Server::start();
    let path = server.directory.join("service");
    let missing = server.open_channel("direct-streamlocal@openssh.com", WINDOW, &path_target(&path));
    assert_eq!(missing, Err((2, "No such file or directory".into())));
    let listener = UnixListener::bind(&path).unwrap();
    let channel = server.open_channel("direct-streamlocal@openssh.com", WINDOW, &path_target(&path)).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    server.data(channel, b"ping");
    server.eof(channel);
    assert_eq!(read_to_end(&socket), b"ping");
    socket.write_all(b"pong").unwrap();
    drop(socket);
    assert_eq!(server.outcome().text(), "pong");
}

#[test]
fn a_forwarded_port_is_chosen_told_and_led_to_the_client() {
    let mut server = Server::start();
    let reply = server.global_request("tcpip-forward", &host_port("", 0)).unwrap();
    let port = u32::from_be_bytes(reply.try_into().unwrap()) as u16;
    for address in [IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()] {
        let mut socket = TcpStream::connect((address, port)).unwrap();
        let (channel_type, channel, specific) = server.opened();
        let mut fields = Reader::new(&specific);
        assert_eq!(channel_type, "forwarded-tcpip");
        // As the client named it.
        assert_eq!(HostPort::decode(&mut fields), Ok(HostPort { host: b"", port: port.into() }));
        let (host, from) = (address.to_string(), socket.local_addr().unwrap().port().into());
        assert_eq!(HostPort::decode(&mut fields), Ok(HostPort { host: host.as_bytes(), port: from }));
        socket.write_all(b"before the confirmation").unwrap();
        server.confirm(channel);
        server.data(channel, b"answer");
        server.eof(channel);
        assert_eq!(read_to_end(&socket), b"answer");
        drop(socket);
        assert_eq!(server.outcome().text(), "before the confirmation");
        server.close(channel);
    }
}

#[test]
fn a_connection_that_the_client_refuses_is_closed() {
    let mut server = Server::start();
    let port = free_port();
    assert_eq!(server.global_request("tcpip-forward", &host_port("localhost", port)), Some(Vec::new()));
    for _ in 0..3 {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_, channel, _) = server.opened();
        server.send(&open_failure(channel, OpenFailure::ConnectFailed, "no"));
        assert!(read_to_end(socket).is_empty());
    }
}

#[test]
fn a_port_is_forwarded_once_and_free_again_when_that_is_cancelled() {
    let mut server = Server::start();
    let forward = host_port("localhost", free_port());
    assert!(server.global_request("tcpip-forward", &forward).is_some());
    assert!(server.global_request("tcpip-forward", &forward).is_none());
    let mut other = forward.clone();
    other[4] = b'X';
    assert!(server.global_request("cancel-tcpip-forward", &other).is_none());
    assert!(server.global_request("cancel-tcpip-forward", &forward).is_some());
    assert!(server.global_request("cancel-tcpip-forward", &forward).is_none());
    assert!(server.global_request("tcpip-forward", &forward).is_some());
}

#[test]
fn what_cannot_be_listened_on_is_refused() {
    let mut server = Server::start_with(&[], Listening { gateway_ports: GatewayPorts::ClientSpecified, unlink: false });
    for host in ["192.0.2.1", "name.invalid", "\u{0}"] {
        assert!(server.global_request("tcpip-forward", &host_port(host, 0)).is_none(), "{host}");
    }
    let mut large = host_port("localhost", 0);
    large[13..17].copy_from_slice(&65536u32.to_be_bytes());
    assert!(server.global_request("tcpip-forward", &large).is_none());
    let missing = path_string(&server.directory.join("no/such/directory"));
    assert!(server.global_request("streamlocal-forward@openssh.com", &missing).is_none());
}

#[test]
fn a_client_that_may_specify_the_address_is_listened_for_there() {
    let listening = Listening { gateway_ports: GatewayPorts::ClientSpecified, unlink: false };
    let mut server = Server::start_with(&[], listening);
    let reply = server.global_request("tcpip-forward", &host_port("127.0.0.2", 0)).unwrap();
    let port = u32::from_be_bytes(reply.try_into().unwrap()) as u16;
    assert!(TcpStream::connect(("127.0.0.2", port)).is_ok());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_forwarded_unix_socket_is_the_users_alone_and_goes_when_it_is_cancelled() {
    let mut server = Server::start();
    let path = server.directory.join("forwarded");
    let forward = path_string(&path);
    assert_eq!(server.global_request("streamlocal-forward@openssh.com", &forward), Some(Vec::new()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(server.global_request("streamlocal-forward@openssh.com", &forward).is_none(), "it is in use");
    let mut socket = UnixStream::connect(&path).unwrap();
    let (channel_type, channel, specific) = server.opened();
    assert_eq!(channel_type, "forwarded-streamlocal@openssh.com");
    assert_eq!(specific, [forward.as_slice(), &[0; 4]].concat());
    server.confirm(channel);
    socket.write_all(b"hello").unwrap();
    drop(socket);
    server.eof(channel);
    assert_eq!(server.outcome().text(), "hello");
    assert!(server.global_request("cancel-streamlocal-forward@openssh.com", &forward).is_some());
    assert!(!path.exists());
    assert!(server.global_request("cancel-streamlocal-forward@openssh.com", &forward).is_none());
}

#[test]
fn a_file_in_a_sockets_place_is_removed_only_where_that_is_allowed() {
    let path = std::env::temp_dir().join(format!("berth-in-the-way-{}", std::process::id()));
    for unlink in [false, true] {
        std::fs::write(&path, "").unwrap();
        let mut server = Server::start_with(&[], Listening { unlink, ..Listening::default() });
        let forwarded = server.global_request("streamlocal-forward@openssh.com", &path_string(&path));
        assert_eq!(forwarded.is_some(), unlink);
    }
    let _ = std::fs::remove_file(&path);
}

#[test]
fn another_file_in_a_cancelled_sockets_place_stays() {
    let mut server = Server::start();
    let path = server.directory.join("forwarded");
    assert!(server.global_request("streamlocal-forward@openssh.com", &path_string(&path)).is_some());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "mine").unwrap();
    assert!(server.global_request("cancel-streamlocal-forward@openssh.com", &path_string(&path)).is_some());
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn the_authentication_agents_socket_is_the_sessions_alone_and_goes_with_it() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.request(channel, "auth-agent-req@openssh.com", b""));
    assert!(!server.request(channel, "auth-agent-req@openssh.com", b""), "once");
    server.exec(channel, "echo $SSH_AUTH_SOCK; cat");
    let mut outcome = Outcome::default();
    server.until(&mut outcome, "\n");
    let text = outcome.text();
    let path = Path::new(text.trim());
    let directory = path.parent().unwrap();
    assert_eq!(directory.parent(), Some(Path::new("/tmp")));
    assert_eq!(path.file_name().unwrap().to_str(), Some(format!("agent.{}", server.agent.id()).as_str()));
    assert_eq!(std::fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut socket = UnixStream::connect(path).unwrap();
    let (channel_type, connection, specific) = server.opened();
    assert_eq!((channel_type.as_str(), specific.as_slice()), ("auth-agent@openssh.com", &b""[..]));
    server.confirm(connection);
    socket.write_all(b"sign this").unwrap();
    server.until(&mut outcome, "sign this");
    assert_eq!(server.run("echo $SSH_AUTH_SOCK").text(), "\n", "another session has none");
    server.eof(channel);
    server.outcome();
    server.close(channel);
    assert!(server.global_request("barrier", b"").is_none());
    assert!(!directory.exists());
}

#[test]
fn an_answer_to_an_open_that_was_none_ends_the_stream() {
    let mut server = Server::start();
    server.send(&bare(number::CHANNEL_OPEN_FAILURE, 3));
    assert_eq!(server.wait().0.code(), Some(1));
}

#[test]
fn many_lookups_take_their_turns() {
    let mut server = Server::start();
    let started = Instant::now();
    for _ in 0..300 {
        server.begin_open("direct-tcpip", WINDOW, MAXIMUM_PACKET, &target(&"x".repeat(300), 80));
    }
    for _ in 0..300 {
        assert_eq!(server.finish_open().unwrap_err().0, 2);
    }
    assert!(started.elapsed() < DEADLINE);
}
