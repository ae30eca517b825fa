//! Webhooks: what is below `auth` for them, `configserver`, and the servers that both name.

use std::net::IpAddr;
use std::time::Duration;

use super::dangers;
use super::kind::{Private, Scalar, choice, colon_list, duration, duration_or_off, parsed, pem, switch};
use super::oauth2::{self, OAuth2};
use super::pem::Pem;
use super::reader::{Kind, Reader};
use super::section::Section;
use super::unavailable;
use super::yaml::{Node, Value};
use crate::http::{Address, Tls, TlsError, TlsOffer, TlsSettings};

/// A server that berth asks, resolved.
#[derive(Clone, Debug)]
pub struct HttpServer {
    /// `url` as it was given: for messages.
    pub url: String,
    /// Where it is.
    pub address: Address,
    /// The URL's path: empty, or with a slash in front.
    pub path: String,
    /// `timeout`: for one request.
    pub timeout: Duration,
    /// How TLS is spoken, where a URL says so.
    tls: Tls,
    /// `allowInsecure`: whether others than loopback may be spoken with without TLS.
    allow_insecure: bool,
}

impl HttpServer {
    /// A server at another URL that is spoken with likewise; none where that is no URL, or does without the TLS that
    /// this one has.
    pub fn at(&self, url: &str) -> Option<HttpServer> {
        let url = split_url(url)?;
        let good = url.speaks_tls || !self.speaks_tls() && (url.is_on_loopback() || self.allow_insecure);
        good.then(|| HttpServer::new(&url, self.tls.clone(), self.timeout, self.allow_insecure))
    }

    /// Whether others than this host can read what goes to and fro, and change it: `allowInsecure`.
    pub(super) fn is_exposed(&self) -> bool {
        matches!(&self.address, Address::Tcp { host, tls: None, .. } if !is_loopback(host))
    }

    /// Whether TLS says who answers.
    pub fn speaks_tls(&self) -> bool {
        matches!(&self.address, Address::Tcp { tls: Some(_), .. })
    }

    fn new(url: &Url, tls: Tls, timeout: Duration, allow_insecure: bool) -> HttpServer {
        let own = url.speaks_tls.then(|| tls.clone());
        let address = Address::Tcp { host: url.host.clone(), port: url.port, tls: own, proxy: None };
        HttpServer { url: url.text.clone(), address, path: url.path.clone(), timeout, tls, allow_insecure }
    }
}

/// A webhook that says who may in.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Whom to ask.
    pub server: HttpServer,
    /// `authTimeout`: for all attempts together.
    pub time: Duration,
}

/// The server of `configserver`.
#[derive(Clone, Debug)]
pub struct ConfigServer {
    /// Whom to ask.
    pub server: HttpServer,
    /// `transmitSensitiveMetadata`: whether it is told what is sensitive.
    pub transmit_sensitive: bool,
    /// `cacheTime`: how long an answer holds for all connections that are asked about in the same words.
    pub cache_time: Duration,
}

/// The webhooks, resolved.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    /// `auth.password`
    pub password: Option<Webhook>,
    /// `auth.publicKey`
    pub public_key: Option<Webhook>,
    /// `auth.authz`
    pub authorization: Option<Webhook>,
    /// `configserver`
    pub configuration: Option<ConfigServer>,
    /// `auth.keyboardInteractive`
    pub browser: Option<OAuth2>,
}

/// Names of groups as ContainerSSH has them, and OpenSSL.
const GROUPS: &[(&str, &str)] = &[
    ("x25519", "X25519"),
    ("secp256r1", "P-256"),
    ("secp384r1", "P-384"),
    ("secp521r1", "P-521"),
    ("X25519", "X25519"),
    ("prime256v1", "P-256"),
];

/// Ciphers of TLS 1.3, by the names that all have for them.
const TLS13_CIPHERS: &[&str] = &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Names of ciphers of TLS 1.2 as ContainerSSH has them (IANA's, OpenSSL's and GnuTLS's), and OpenSSL.
const TLS12_CIPHERS: &[(&str, &str)] = &[
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_ECDSA_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_RSA_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_CHACHA20_POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_CHACHA20_POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
];

/// A server's keys as typed.
#[derive(Clone, Debug)]
pub(super) struct Server {
    url: Option<Url>,
    timeout: Duration,
    authorities: Option<Pem>,
    certificate: Option<Pem>,
    key: Option<Pem>,
    only_tls13: bool,
    groups: Vec<&'static str>,
    ciphers: Vec<Cipher>,
    allow_insecure: bool,
}

/// A cipher by OpenSSL's name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cipher {
    Tls12(&'static str),
    Tls13(&'static str),
}

impl Default for Server {
    fn default() -> Self {
        let ciphers = TLS13_CIPHERS.iter().map(|name| Cipher::Tls13(name));
        Server {
            url: None,
            timeout: Duration::from_secs(2),
            authorities: None,
            certificate: None,
            key: None,
            only_tls13: true,
            groups: GROUPS[..4].iter().map(|(_, name)| *name).collect(),
            ciphers: ciphers.chain(TLS12_CIPHERS[..2].iter().map(|(_, name)| Cipher::Tls12(name))).collect(),
            allow_insecure: false,
        }
    }
}

impl Server {
    /// By default here.
    pub fn at(url: &str, timeout: Duration) -> Server {
        Server { url: split_url(url), timeout, ..Server::default() }
    }
}

/// A URL of a server.
#[derive(Clone, Debug)]
pub(super) struct Url {
    text: String,
    speaks_tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    /// Whether it is this very host.
    fn is_on_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical());
    address.is_ok_and(|address| address.is_loopback()) || host.eq_ignore_ascii_case("localhost")
}

/// Why a URL is not taken.
const INSECURE: &str = "without TLS, whoever is on the way reads passwords and says who may in: use https://, or set \
    allowInsecure: true beside it";

/// The keys of a webhook of `auth` as typed.
#[derive(Clone, Debug)]
struct Method {
    is_used: bool,
    server: Server,
    time: Duration,
}

impl Default for Method {
    fn default() -> Self {
        Method { is_used: false, server: Server::default(), time: Duration::from_secs(60) }
    }
}

/// What is about webhooks, as typed: in the section `auth`, and the section `configserver`.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    password: Method,
    public_key: Method,
    authorization: Method,
    browser: oauth2::Typed,
    flat: Flat,
    configuration: Configuration,
}

/// `configserver` as typed.
#[derive(Clone, Debug, Default)]
pub(super) struct Configuration {
    server: Server,
    transmit_sensitive: bool,
    cache_time: Duration,
}

/// What `auth` was before ContainerSSH 0.5: one server for both methods, either of which could be switched off.
#[derive(Clone, Debug)]
struct Flat {
    method: Method,
    password: bool,
    public_key: bool,
}

impl Default for Flat {
    fn default() -> Self {
        Flat { method: Method::default(), password: true, public_key: true }
    }
}

/// The keys of `auth` that are about webhooks, and those of methods that berth has not.
pub(super) fn methods() -> Section<Typed> {
    let flat = Section::new()
        .inline(|flat: &mut Flat| &mut flat.method, webhook())
        .key("pubkey", |flat| &mut flat.public_key, switch())
        .all_deprecated("password.webhook and publicKey.webhook");
    Section::new()
        .key(
            "password",
            |typed: &mut Typed| typed,
            Password { flat: switch(), section: method().inline(|method| method, unavailable::kerberos()) },
        )
        .key("publicKey", |typed| &mut typed.public_key, method())
        .key("keyboardInteractive", |typed| &mut typed.browser, oauth2::section())
        .absent("gssapi", unavailable::gssapi())
        .key("authz", |typed| &mut typed.authorization, method())
        .inline(|typed| &mut typed.flat, flat)
}

/// The section `configserver`.
pub(super) fn configuration() -> Section<Typed> {
    let section = Section::new()
        .inline(|configuration: &mut Configuration| &mut configuration.server, server())
        .key("transmitSensitiveMetadata", |configuration| &mut configuration.transmit_sensitive, switch())
        .key("cacheTime", |configuration| &mut configuration.cache_time, duration_or_off(SHORTEST..=LONGEST_CACHE));
    Section::new().inline(|typed: &mut Typed| &mut typed.configuration, section)
}

const LONGEST_CACHE: Duration = Duration::from_secs(24 * 3600);

/// `auth.password`, which older versions had as a boolean.
struct Password {
    flat: Scalar<bool>,
    section: Section<Method>,
}

impl Kind<Typed> for Password {
    fn read(&self, node: &Node, target: &mut Typed, reader: &mut Reader<'_>) {
        match &node.value {
            Value::Scalar { .. } => self.flat.read(node, &mut target.flat.password, reader),
            _ => self.section.read(node, &mut target.password, reader),
        }
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        self.section.keys(path, keys);
    }

    fn schema(&self) -> serde_json::Value {
        self.section.schema()
    }
}

fn method() -> Section<Method> {
    const METHODS: &[(&str, bool)] = &[("webhook", true)];
    Section::new().key("method", |method: &mut Method| &mut method.is_used, choice(METHODS, &["kerberos"])).key(
        "webhook",
        |method| method,
        webhook(),
    )
}

fn webhook() -> Section<Method> {
    let time = duration(SHORTEST..=Duration::from_secs(3600));
    Section::new().inline(|method: &mut Method| &mut method.server, server()).key(
        "authTimeout",
        |method| &mut method.time,
        time,
    )
}

pub(super) const SHORTEST: Duration = Duration::from_millis(100);

pub(super) fn server() -> Section<Server> {
    const VERSIONS: &[(&str, bool)] = &[("1.2", false), ("1.3", true)];
    let timeout = duration(SHORTEST..=Duration::from_secs(600));
    Section::new()
        .key("url", |server: &mut Server| &mut server.url, parsed("a URL", parse_url).optional())
        .key("timeout", |server| &mut server.timeout, timeout)
        .key("cacert", |server| &mut server.authorities, pem().optional())
        .key("cert", |server| &mut server.certificate, pem().optional())
        .key("key", |server| &mut server.key, Private(pem().optional()))
        .key("tlsVersion", |server| &mut server.only_tls13, choice(VERSIONS, &[]))
        .key("allowInsecure", |server| &mut server.allow_insecure, switch())
        .key("curves", |server| &mut server.groups, colon_list(choice(GROUPS, &[])))
        .key("cipher", |server| &mut server.ciphers, colon_list(parsed("a cipher", parse_cipher)))
        .refused(&["allowRedirects"], "redirects are not followed: give the URL that they lead to, and remove it")
}

fn parse_cipher(name: &str) -> Result<Cipher, String> {
    let tls13 = TLS13_CIPHERS.iter().find(|known| **known == name).map(|name| Cipher::Tls13(name));
    let tls12 = || TLS12_CIPHERS.iter().find(|(known, _)| *known == name).map(|(_, name)| Cipher::Tls12(name));
    tls13.or_else(tls12).ok_or_else(|| {
        let known: Vec<_> =
            TLS13_CIPHERS.iter().copied().chain(TLS12_CIPHERS[..6].iter().map(|(name, _)| *name)).collect();
        format!("must be one of {}", known.join(", "))
    })
}

pub(super) fn parse_url(text: &str) -> Result<Url, &'static str> {
    split_url(text).ok_or("must be a URL such as https://auth.internal:8443/path, without a query, user or password")
}

fn split_url(text: &str) -> Option<Url> {
    let (scheme, rest) = text.split_once("://")?;
    let speaks_tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let default = if speaks_tls { 443 } else { 80 };
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port != 0))?;
    let good = !host.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#@".contains(&byte));
    good.then(|| Url { text: text.to_owned(), speaks_tls, host: host.to_owned(), port, path: path.to_owned() })
}

/// What was typed, put together. What is wrong with it is told of its place in `root`.
pub(super) fn resolve(typed: &Typed, root: &Node, reader: &mut Reader<'_>) -> Webhooks {
    let flat = &typed.flat;
    if flat.method.server.url.is_some() {
        reader.warn_at(root, &["auth", "url"], "deprecated: use password.webhook and publicKey.webhook");
    }
    let mut choose = |key: &'static str, method: &Method, is_in_flat: bool| {
        let path = ["auth", key, "webhook"];
        if method.is_used {
            return method.resolve(&path, root, reader);
        }
        if method.server.url.is_some() {
            reader.warn_at(root, &path, "has no effect without method: webhook beside it");
        }
        if is_in_flat && flat.method.server.url.is_some() {
            flat.method.resolve(&path[..1], root, reader)
        } else {
            None
        }
    };
    let mut webhooks = Webhooks {
        password: choose("password", &typed.password, flat.password),
        public_key: choose("publicKey", &typed.public_key, flat.public_key),
        authorization: choose("authz", &typed.authorization, false),
        configuration: typed.configuration.resolve(root, reader),
        browser: None,
    };
    let others_ask = webhooks.authorization.is_some() || webhooks.configuration.is_some();
    webhooks.browser = typed.browser.resolve(others_ask, root, reader);
    webhooks
}

impl Configuration {
    fn resolve(&self, root: &Node, reader: &mut Reader<'_>) -> Option<ConfigServer> {
        if self.server.url.is_none() || reader.is_wrong_in("configserver") {
            return None;
        }
        let server = self.server.resolve_at(&["configserver"], root, reader)?;
        let Configuration { transmit_sensitive, cache_time, .. } = *self;
        Some(ConfigServer { server, transmit_sensitive, cache_time })
    }
}

impl Method {
    fn resolve(&self, path: &[&str], root: &Node, reader: &mut Reader<'_>) -> Option<Webhook> {
        if reader.is_wrong_in(&path.join(".")) {
            return None;
        }
        Some(Webhook { server: self.server.resolve_at(path, root, reader)?, time: self.time })
    }
}

impl Server {
    /// As [`Server::resolve`]; what is wrong, or dangerous, is told of its place below this path.
    fn resolve_at(&self, path: &[&str], root: &Node, reader: &mut Reader<'_>) -> Option<HttpServer> {
        let server = self.resolve().map_err(|(key, message)| reader.wrong_at(root, &[path, &[key]].concat(), message));
        server.ok().inspect(|server| reader.warn_of(root, dangers::of_server(path, server)))
    }

    /// On failure, gives the key that is wrong, and why. Reads the files that are named.
    pub fn resolve(&self) -> Result<HttpServer, (&'static str, String)> {
        let read =
            |key, pem: &Option<Pem>| pem.as_ref().map(Pem::read).transpose().map_err(|error| (key, error.to_string()));
        let url = self.url.as_ref().ok_or(("url", "missing; name the server".to_owned()))?;
        if !url.speaks_tls && !self.allow_insecure && !url.is_on_loopback() {
            return Err(("url", INSECURE.to_owned()));
        }
        let authorities = read("cacert", &self.authorities)?;
        let (certificate, key) = (read("cert", &self.certificate)?, read("key", &self.key)?);
        let identity = match (&certificate, &key) {
            (Some(certificate), Some(key)) => Some((certificate.as_slice(), key.as_slice())),
            (None, None) => None,
            (Some(_), None) => return Err(("key", "missing; a certificate needs its private key".to_owned())),
            (None, Some(_)) => return Err(("cert", "missing; a private key needs its certificate".to_owned())),
        };
        let (mut tls13, mut tls12) = (Vec::new(), Vec::new());
        for cipher in &self.ciphers {
            match cipher {
                Cipher::Tls13(name) => tls13.push(*name),
                Cipher::Tls12(name) => tls12.push(*name),
            }
        }
        let list = |names: &[&str]| Some(names.join(":")).filter(|list| !list.is_empty());
        let (groups, tls13, tls12) = (list(&self.groups), list(&tls13), list(&tls12));
        let offer = TlsOffer {
            only_tls13: self.only_tls13 || tls12.is_none(),
            groups: groups.as_deref(),
            tls13_ciphers: tls13.as_deref(),
            tls12_ciphers: tls12.as_deref(),
        };
        let settings =
            TlsSettings { authorities: authorities.as_deref(), identity, server_name: None, verify: true, offer };
        let tls = Tls::new(&settings).map_err(|error| {
            let key = match &error {
                TlsError::Authorities(_) => "cacert",
                TlsError::Certificate(_) => "cert",
                TlsError::Key(_) => "key",
                TlsError::Library(_) => "url",
            };
            (key, error.to_string())
        })?;
        Ok(HttpServer::new(url, tls, self.timeout, self.allow_insecure))
    }
}
