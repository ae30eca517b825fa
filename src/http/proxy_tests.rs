use std::net::TcpListener;
use std::time::Duration;

use super::*;
use crate::http::{Address, Body, Client, Request};

#[test]
fn urls_of_proxies_are_read() {
    let proxy = |url| Proxy::parse(url).unwrap();
    let parts = |proxy: &Proxy| (proxy.kind, proxy.host.clone(), proxy.port);
    assert_eq!(parts(&proxy("http://proxy:3128/")), (Kind::Http, "proxy".into(), 3128));
    assert_eq!(parts(&proxy("socks5://[::1]")), (Kind::Socks5, "::1".into(), 1080));
    let with_user = proxy("http://a%40b:p%3a%20@proxy");
    assert_eq!(with_user.user, Some(("a@b".into(), "p: ".into())));
    assert!(!format!("{with_user:?}").contains("p: "));
    for bad in ["", "proxy:3128", "https://proxy", "ftp://proxy", "http://", "http://proxy:x", "http://%zz@proxy"] {
        assert!(Proxy::parse(bad).is_err(), "{bad:?}");
    }
}

/// A proxy that reads `expected`, then writes `answer`, turn by turn; then it is the server.
fn through(url: &str, turns: &[(&'static [u8], &'static [u8])]) -> Result<u16, Error> {
    let turns = turns.to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        for (expected, answer) in turns {
            let mut came = vec![0; expected.len()];
            client.read_exact(&mut came).unwrap();
            assert_eq!(came.escape_ascii().to_string(), expected.escape_ascii().to_string());
            client.write_all(answer).unwrap();
        }
        // Until the client has gone.
        let _ = client.read_to_end(&mut Vec::new());
    });
    let proxy_at = Proxy::parse(&url.replace("PORT", &port.to_string())).unwrap();
    let address = Address::Tcp { host: "server".into(), port: 80, tls: None, proxy: Some(proxy_at) };
    let request = Request { method: "GET", target: "/", fields: &[], body: Body::Empty };
    let status = Client::new(address).send(request, Deadline::after(Duration::from_secs(10))).map(|r| r.status());
    proxy.join().unwrap();
    status
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: server:80\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

#[test]
fn http_proxies_are_asked_to_connect() {
    let ask = b"CONNECT server:80 HTTP/1.1\r\nHost: server:80\r\nProxy-Authorization: Basic YTpi\r\n\r\n";
    let status = through("http://a:b@127.0.0.1:PORT", &[(ask, b"HTTP/1.1 200 Connected\r\n\r\n"), (GET, OK)]);
    assert_eq!(status.unwrap(), 204);
}

#[test]
fn a_proxy_that_refuses_is_told_so() {
    let ask = b"CONNECT server:80 HTTP/1.1\r\nHost: server:80\r\n\r\n";
    let turns: &[(&[u8], &[u8])] = &[(ask, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")];
    let error = through("http://127.0.0.1:PORT", turns).unwrap_err().to_string();
    assert!(error.contains("the proxy refuses: status 403"), "{error}");
}

#[test]
fn socks_proxies_are_logged_in_to() {
    let turns: &[(&[u8], &[u8])] = &[
        (b"\x05\x01\x02", b"\x05\x02"),
        (b"\x01\x01a\x02bc", b"\x01\x00"),
        (b"\x05\x01\x00\x03\x06server\x00\x50", b"\x05\x00\x00\x01\x7f\x00\x00\x01\x12\x34"),
        (GET, OK),
    ];
    assert_eq!(through("socks5://a:bc@127.0.0.1:PORT", turns).unwrap(), 204);
    let turns: &[(&[u8], &[u8])] = &[
        (b"\x05\x01\x00", b"\x05\x00"),
        (b"\x05\x01\x00\x03\x06server\x00\x50", b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"),
    ];
    let error = through("socks5://127.0.0.1:PORT", turns).unwrap_err().to_string();
    assert!(error.contains("SOCKS status 5"), "{error}");
}
