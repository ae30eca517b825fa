//! The client against OpenSSL's server, with certificates made here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslStream};
use openssl::symm::Cipher;
use openssl::x509::X509NameBuilder;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};

use super::*;
use crate::http::{Address, Body, Client, Request, Transport};

/// A certificate and its key.
struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Identity {
    /// For the host `localhost`; issued by `issuer`, or else by itself.
    fn new(name: &str, issuer: Option<&Identity>) -> Identity {
        let key = PKey::generate_ed25519().unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(name.len() as u32).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(issuer.map_or(&subject, |issuer| issuer.certificate.subject_name())).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        if issuer.is_none() {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        }
        let context = builder.x509v3_context(None, None);
        let names = SubjectAlternativeName::new().dns("localhost").build(&context).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::null()).unwrap();
        Identity { certificate: builder.build(), key }
    }

    fn certificate(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    fn key(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }
}

/// An authority, and what it has issued to a server and to a client.
struct World {
    authority: Identity,
    server: Identity,
    client: Identity,
}

impl World {
    fn new() -> World {
        let authority = Identity::new("authority", None);
        let server = Identity::new("server", Some(&authority));
        let client = Identity::new("client", Some(&authority));
        World { authority, server, client }
    }

    /// Serves one connection by `script`, and gives the port. Clients need a certificate if `demanding`.
    fn serve(
        &self,
        demanding: bool,
        script: impl FnOnce(SslStream<TcpStream>) + Send + 'static,
    ) -> (u16, JoinHandle<()>) {
        let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
        builder.set_certificate(&self.server.certificate).unwrap();
        builder.set_private_key(&self.server.key).unwrap();
        builder.cert_store_mut().add_cert(self.authority.certificate.clone()).unwrap();
        if demanding {
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        let acceptor = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            if let Ok(stream) = acceptor.accept(listener.accept().unwrap().0) {
                script(stream);
            }
        });
        (port, thread)
    }
}

fn trusting(authorities: &[u8]) -> TlsSettings<'_> {
    TlsSettings {
        authorities: Some(authorities),
        identity: None,
        server_name: None,
        verify: true,
        offer: TlsOffer::default(),
    }
}

fn client(host: &str, port: u16, settings: &TlsSettings<'_>) -> Client {
    Client::new(Address::Tcp { host: host.into(), port, tls: Some(Tls::new(settings).unwrap()), proxy: None })
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn get(client: &Client) -> Result<Vec<u8>, Error> {
    let request = Request { method: "GET", target: "/", fields: &[], body: Body::Empty };
    client.send(request, soon())?.bytes(1 << 20, soon())
}

/// Reads a request's head.
fn head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Answers so many requests.
fn answer(count: usize) -> impl FnOnce(SslStream<TcpStream>) + Send {
    move |mut stream| {
        for _ in 0..count {
            head(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    }
}

#[test]
fn a_connection_is_kept_over_tls_too() {
    let world = World::new();
    let (port, server) = world.serve(false, answer(3));
    let client = client("localhost", port, &trusting(&world.authority.certificate()));
    for _ in 0..3 {
        assert_eq!(get(&client).unwrap(), b"ok");
    }
    server.join().unwrap();
}

#[test]
fn the_host_field_names_host_and_port() {
    let world = World::new();
    let (port, server) = world.serve(false, move |mut stream| {
        assert!(head(&mut stream).contains("\r\nHost: localhost:"));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    assert_eq!(get(&client("localhost", port, &trusting(&world.authority.certificate()))).unwrap(), b"ok");
    server.join().unwrap();
}

#[test]
fn the_servers_certificate_must_be_trusted_and_for_the_host() {
    let world = World::new();
    let (authority, stranger) = (world.authority.certificate(), Identity::new("stranger", None).certificate());
    let attempt = |host: &str, settings: &TlsSettings<'_>| {
        let (port, server) = world.serve(false, answer(1));
        let result = get(&client(host, port, settings)).map_err(|error| error.to_string());
        let _ = server.join();
        result
    };
    let untrusted = attempt("localhost", &trusting(&stranger)).unwrap_err();
    assert_eq!(untrusted, "certificate verify failed: self-signed certificate in certificate chain");
    let other_host = attempt("127.0.0.1", &trusting(&authority)).unwrap_err();
    assert_eq!(other_host, "certificate verify failed: IP address mismatch");
    let named = TlsSettings { server_name: Some("localhost"), ..trusting(&authority) };
    assert_eq!(attempt("127.0.0.1", &named).unwrap(), b"ok");
    let misnamed = TlsSettings { server_name: Some("other"), ..trusting(&authority) };
    assert_eq!(attempt("localhost", &misnamed).unwrap_err(), "certificate verify failed: hostname mismatch");
    let careless = TlsSettings { verify: false, ..trusting(&stranger) };
    assert_eq!(attempt("127.0.0.1", &careless).unwrap(), b"ok");
}

#[test]
fn a_server_that_demands_a_certificate_gets_it_or_says_so() {
    let world = World::new();
    let authority = world.authority.certificate();
    let (certificate, key) = (world.client.certificate(), world.client.key());
    let (port, server) = world.serve(true, answer(1));
    let settings = TlsSettings { identity: Some((&certificate, &key)), ..trusting(&authority) };
    assert_eq!(get(&client("localhost", port, &settings)).unwrap(), b"ok");
    server.join().unwrap();
    let (port, server) = world.serve(true, answer(1));
    let error = get(&client("localhost", port, &trusting(&authority))).unwrap_err().to_string();
    assert!(error.contains("certificate required"), "{error}");
    server.join().unwrap();
}

#[test]
fn what_is_no_certificate_or_no_key_for_it_is_refused() {
    let world = World::new();
    let (certificate, key) = (world.client.certificate(), world.client.key());
    let authority = world.authority.certificate();
    let with = |certificate: &[u8], key: &[u8]| {
        Tls::new(&TlsSettings { identity: Some((certificate, key)), ..trusting(&authority) }).map(|_| ())
    };
    assert_eq!(with(&certificate, &key), Ok(()));
    assert!(matches!(with(b"", &key), Err(TlsError::Certificate(_))));
    assert!(matches!(with(&certificate, b"x"), Err(TlsError::Key(_))));
    assert!(matches!(with(&certificate, &world.server.key()), Err(TlsError::Key(_))));
    assert!(matches!(Tls::new(&trusting(b"x")).map(|_| ()), Err(TlsError::Authorities(_))));
    // And nobody is asked for a passphrase.
    let encrypted = world.client.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap();
    assert!(matches!(with(&certificate, &encrypted), Err(TlsError::Key(_))));
}

#[test]
fn a_handshake_has_a_deadline_and_what_is_not_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let careless =
        TlsSettings { authorities: None, identity: None, server_name: None, verify: false, offer: TlsOffer::default() };
    let address = Address::Tcp { host: "127.0.0.1".into(), port, tls: Some(Tls::new(&careless).unwrap()), proxy: None };
    let error = Transport::connect(&address, Deadline::after(Duration::from_millis(50))).unwrap_err();
    assert!(matches!(error, Error::TimedOut(Phase::Connect)), "{error}");
    let server = thread::spawn(move || {
        // The first is the one that was given up.
        for answer in [&b""[..], b"HTTP/1.0 400 Bad Request\r\n\r\n", b""] {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.write_all(answer);
        }
    });
    assert!(
        matches!(Transport::connect(&address, soon()), Err(Error::Tls(reason)) if reason == "wrong version number")
    );
    assert!(matches!(Transport::connect(&address, soon()), Err(Error::Tls(_) | Error::Connect(_))));
    server.join().unwrap();
}

#[test]
fn a_stream_that_is_read_once_each_time_it_is_ready_gives_everything() {
    const SIZE: usize = 4 << 20;
    let world = World::new();
    let (port, server) = world.serve(false, |mut stream| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n").unwrap();
        // Records of all sizes, and many in the socket at once.
        let bytes: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let mut rest = bytes.as_slice();
        for size in (1..).step_by(997) {
            let (piece, after) = rest.split_at(rest.len().min(size % 20_000));
            stream.write_all(piece).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        // Only now may it end: until then poll alone tells of what has come.
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
    });
    let client = client("localhost", port, &trusting(&world.authority.certificate()));
    let request = Request { method: "POST", target: "/", fields: &[], body: Body::Empty };
    let mut stream = client.send(request, soon()).unwrap().upgrade().unwrap();
    let (mut got, mut buffer) = (0, vec![0; Transport::WHOLE_READ]);
    while got < SIZE {
        match stream.read(&mut buffer) {
            Ok(n) => {
                assert!(n > 0);
                for (at, byte) in buffer[..n].iter().enumerate() {
                    assert_eq!(*byte, ((got + at) % 251) as u8);
                }
                got += n;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        if got < SIZE {
            assert_eq!(soon().poll([(stream.as_fd(), PollFlags::IN)]).unwrap(), [true], "after {got} bytes");
        }
    }
    stream.write_all(b"x").unwrap();
    server.join().unwrap();
}

#[test]
fn what_a_slow_server_does_not_take_is_written_later() {
    let world = World::new();
    let (port, server) = world.serve(false, |mut stream| {
        head(&mut stream);
        let mut body = vec![0; 8 << 20];
        stream.read_exact(&mut body).unwrap();
        assert!(body.iter().all(|byte| *byte == b'x'));
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").unwrap();
    });
    let client = client("localhost", port, &trusting(&world.authority.certificate()));
    let body = vec![b'x'; 8 << 20];
    let request = Request { method: "PUT", target: "/", fields: &[], body: Body::Bytes(&body) };
    assert_eq!(client.send(request, soon()).unwrap().bytes(10, soon()).unwrap(), b"ok");
    server.join().unwrap();
}
