//! `docker.connection`: which daemon, and how it is reached.
//!
//! Docker's own client has three places for this: its options, its environment, and its contexts. Here the options are
//! the section's keys. Where they name neither a host nor a context, the environment does.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use openssl::sha::sha256;
use serde_json::Value;

use super::kind::{Private, choice, parsed, path, switch, text};
use super::reader::Reader;
use super::section::Section;
use super::yaml::Node;
use super::{Config, Place};
use crate::bounded;
use crate::http::{Address, Tls, TlsError, TlsOffer, TlsSettings};

/// The ports of Docker's, without TLS and with it.
const PORTS: (u16, u16) = (2375, 2376);

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// A daemon, resolved.
#[derive(Clone, Debug)]
pub struct DockerConnection {
    /// As it was given: for messages.
    pub host: String,
    /// Where it is.
    pub address: Address,
    /// What stands before the path of every request: empty, or a path without a slash at its end.
    pub base: String,
    /// The version of the API to be spoken, if that is not to be negotiated: `DOCKER_API_VERSION`.
    pub api_version: Option<String>,
    /// `agentTransport`
    pub agent_transport: AgentTransport,
}

/// How the stream to an agent in a container is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentTransport {
    /// By a socket where that can be.
    #[default]
    Auto,
    /// By a unix socket in a directory that the daemon mounts into the container.
    Socket,
    /// By the container's standard input and output, to which the daemon attaches.
    Attach,
}

impl DockerConnection {
    fn new(host: String, address: Address, base: String) -> Self {
        DockerConnection { host, address, base, api_version: None, agent_transport: AgentTransport::Auto }
    }

    /// The daemon behind a unix socket.
    pub fn unix(path: &Path) -> Self {
        DockerConnection::new(format!("unix://{}", path.display()), Address::Unix(path.to_owned()), String::new())
    }
}

impl Default for DockerConnection {
    /// Docker's own.
    fn default() -> Self {
        DockerConnection::unix(Path::new("/var/run/docker.sock"))
    }
}

/// What Docker's own client takes from its environment.
#[derive(Clone, Debug, Default)]
pub struct DockerEnvironment {
    /// `DOCKER_HOST`
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`
    pub context: Option<String>,
    /// `DOCKER_TLS_VERIFY` is set: TLS, with all that belongs to it.
    pub tls_verify: bool,
    /// `DOCKER_TLS` is set: TLS with anybody.
    pub tls: bool,
    /// `DOCKER_CERT_PATH`, or else the next one.
    pub certificates: PathBuf,
    /// `DOCKER_CONFIG`, or else `.docker` at home.
    pub directory: PathBuf,
    /// `DOCKER_API_VERSION`
    pub api_version: Option<String>,
}

impl DockerEnvironment {
    /// This process's.
    pub(super) fn of_process() -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let home = || Path::new(&set("HOME").unwrap_or_else(|| "/".to_owned())).join(".docker");
        let directory = set("DOCKER_CONFIG").map_or_else(home, PathBuf::from);
        DockerEnvironment {
            host: set("DOCKER_HOST"),
            context: set("DOCKER_CONTEXT"),
            tls_verify: set("DOCKER_TLS_VERIFY").is_some(),
            tls: set("DOCKER_TLS").is_some(),
            certificates: set("DOCKER_CERT_PATH").map_or_else(|| directory.clone(), PathBuf::from),
            directory,
            api_version: set("DOCKER_API_VERSION"),
        }
    }
}

/// The section as typed.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    host: Option<Host>,
    context: Option<String>,
    authorities: Pem,
    certificate: Pem,
    key: Pem,
    server_name: Option<String>,
    skip_verification: bool,
    agent_transport: AgentTransport,
}

/// Certificates or a key: in the configuration itself, or in a file.
#[derive(Clone, Default)]
struct Pem {
    text: Option<String>,
    file: Option<PathBuf>,
}

impl std::fmt::Debug for Pem {
    /// It may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem").field("text", &self.text.is_some()).field("file", &self.file).finish()
    }
}

pub(super) fn section() -> Section<Typed> {
    const TRANSPORTS: &[(&str, AgentTransport)] =
        &[("auto", AgentTransport::Auto), ("socket", AgentTransport::Socket), ("attach", AgentTransport::Attach)];
    let host = parsed("a host", parse_host).optional();
    let context = text("the name of a context", is_context).optional();
    let pem = || text("certificates or a key in PEM", |text| text.contains("-----BEGIN ")).optional();
    let name = text("a host's name", |name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
    Section::new()
        .key("host", |typed: &mut Typed| &mut typed.host, host)
        .key("context", |typed| &mut typed.context, context)
        .key("cacert", |typed| &mut typed.authorities.text, pem())
        .key("cert", |typed| &mut typed.certificate.text, pem())
        .key("key", |typed| &mut typed.key.text, pem())
        .key("cacertFile", |typed| &mut typed.authorities.file, path().optional())
        .key("certFile", |typed| &mut typed.certificate.file, path().optional())
        .key("keyFile", |typed| &mut typed.key.file, Private(path().optional()))
        .key("serverName", |typed| &mut typed.server_name, name.optional())
        .key("skipTLSVerify", |typed| &mut typed.skip_verification, switch())
        .key("agentTransport", |typed| &mut typed.agent_transport, choice(TRANSPORTS, &[]))
}

/// A host as Docker writes it.
#[derive(Clone, Debug)]
struct Host {
    text: String,
    place: HostPlace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPlace {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: Option<u16>,
        /// Whether TLS is spoken, where the host says so itself.
        tls: Option<bool>,
        base: String,
    },
}

const HOST: &str = "must be a host such as unix:///var/run/docker.sock, tcp://docker.internal:2376 or \
    https://docker.internal:2376";

fn parse_host(text: &str) -> Result<Host, &'static str> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    let place = match scheme {
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => None,
        "unix" => rest.starts_with('/').then(|| HostPlace::Unix(rest.into())),
        "tcp" => parse_authority(rest, None),
        "http" => parse_authority(rest, Some(false)),
        "https" => parse_authority(rest, Some(true)),
        "ssh" => {
            return Err("ssh:// is not available; forward the daemon's socket (ssh -L), or use TLS");
        }
        _ => None,
    };
    Ok(Host { text: text.to_owned(), place: place.ok_or(HOST)? })
}

/// `HOST[:PORT][/BASE]`
fn parse_authority(text: &str, tls: Option<bool>) -> Option<HostPlace> {
    let (authority, base) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    let good = !host.is_empty() && !host.contains(['@', '?', '#']) && !base.contains(['?', '#']);
    let (host, base) = (host.to_owned(), base.trim_end_matches('/').to_owned());
    good.then_some(HostPlace::Tcp { host, port, tls, base })
}

fn is_context(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Resolves what was typed. What is wrong with it is told of its place in `root`.
pub(super) fn put(root: &Node, config: &mut Config, place: &Place, reader: &mut Reader<'_>) {
    match resolve(&config.docker_connection, &place.docker) {
        Ok(connection) => config.docker.connection = connection,
        Err((key, message)) => {
            let path = ["docker", "connection", key];
            reader.wrong_at(root, if key.is_empty() { &path[..2] } else { &path }, message);
        }
    }
}

/// What is known of TLS, in PEM.
#[derive(Default)]
struct Materials {
    authorities: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    server_name: Option<String>,
    skip_verification: bool,
}

/// Something wrong: below which key of the section (none is the section itself), and what.
type Wrong = (&'static str, String);

/// Puts together what was typed and what is around. Reads the files that are named.
pub(super) fn resolve(typed: &Typed, environment: &DockerEnvironment) -> Result<DockerConnection, Wrong> {
    let materials = typed.materials()?;
    let speaks_tls = materials.is_some();
    let mut connection = match (&typed.context, &typed.host) {
        (Some(_), Some(_)) => return Err(("context", "give either a host or a context".to_owned())),
        (Some(_), None) if materials.is_some() => {
            return Err(("context", "a context has its own certificates; remove those of this section".to_owned()));
        }
        (Some(name), None) => context(name, environment).map_err(|message| ("context", message))?,
        (None, Some(host)) => connect(host.clone(), materials)?,
        (None, None) => from_environment(environment, materials)?,
    };
    if speaks_tls && matches!(connection.address, Address::Unix(_)) {
        let message = format!("the rest of the section is about TLS, which {} does not speak", connection.host);
        return Err(("host", message));
    }
    connection.agent_transport = typed.agent_transport;
    connection.api_version = match &environment.api_version {
        Some(version) if !is_version(version) => {
            return Err(("", format!("DOCKER_API_VERSION: {version:?} is not a version such as 1.41")));
        }
        version => version.clone(),
    };
    Ok(connection)
}

fn is_version(text: &str) -> bool {
    let number = |part: &str| part.parse::<u16>().is_ok();
    text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor))
}

/// Neither a host nor a context was typed.
fn from_environment(environment: &DockerEnvironment, typed: Option<Materials>) -> Result<DockerConnection, Wrong> {
    let in_variable = |name: &str, message: &str| ("", format!("{name}: {message}"));
    match (&environment.host, environment.context.as_deref()) {
        (Some(text), _) => {
            let host = parse_host(text).map_err(|message| in_variable("DOCKER_HOST", message))?;
            let materials = match typed {
                None if environment.tls_verify || environment.tls => Some(
                    Materials::in_directory(&environment.certificates, !environment.tls_verify)
                        .map_err(|message| in_variable("DOCKER_CERT_PATH", &message))?,
                ),
                typed => typed,
            };
            connect(host, materials)
        }
        (None, Some(name)) if name != "default" && typed.is_none() => {
            context(name, environment).map_err(|message| in_variable("DOCKER_CONTEXT", &message))
        }
        (None, _) => Ok(DockerConnection::default()),
    }
}

/// A context of Docker's own client: `docker context create`.
fn context(name: &str, environment: &DockerEnvironment) -> Result<DockerConnection, String> {
    if name == "default" {
        return from_environment(&DockerEnvironment { context: None, ..environment.clone() }, None)
            .map_err(|(_, message)| message);
    }
    // Both parts of it are in directories named by the hash of its name.
    let id = crate::hex::encode(&sha256(name.as_bytes()));
    let contexts = environment.directory.join("contexts");
    let file = contexts.join("meta").join(&id).join("meta.json");
    let text = read(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("no context {name:?} in {}", contexts.display()),
        _ => format!("{}: {error}", file.display()),
    })?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let endpoint = json.get("Endpoints").and_then(|endpoints| endpoints.get("docker")).unwrap_or(&Value::Null);
    let Some(host) = endpoint.get("Host").and_then(Value::as_str) else {
        return Err(format!("{}: it has no endpoint for Docker", file.display()));
    };
    let host = parse_host(host).map_err(|message| format!("{}: {message}", file.display()))?;
    let skip_verification = endpoint.get("SkipTLSVerify").and_then(Value::as_bool).unwrap_or(false);
    let materials = Materials::in_directory(&contexts.join("tls").join(&id).join("docker"), skip_verification)?;
    let materials = Some(materials).filter(|materials| !materials.is_empty());
    connect(host, materials).map_err(|(_, message)| message)
}

/// Where TLS is spoken is for the host to say, or else for the certificates that are there.
fn connect(host: Host, materials: Option<Materials>) -> Result<DockerConnection, Wrong> {
    let (address, base) = match host.place {
        // A context has certificates beside a socket sometimes, of no use.
        HostPlace::Unix(path) => (Address::Unix(path), String::new()),
        HostPlace::Tcp { tls: Some(false), .. } if materials.is_some() => {
            return Err(("host", "http:// is without TLS; use https:// or tcp://".to_owned()));
        }
        HostPlace::Tcp { host, port, tls, base } => {
            let tls = tls.unwrap_or(materials.is_some());
            let port = port.unwrap_or(if tls { PORTS.1 } else { PORTS.0 });
            let tls = if tls { Some(materials.unwrap_or_default().tls()?) } else { None };
            (Address::Tcp { host, port, tls, proxy: None }, base)
        }
    };
    Ok(DockerConnection::new(host.text, address, base))
}

impl Typed {
    /// What was typed of TLS, if anything was.
    fn materials(&self) -> Result<Option<Materials>, Wrong> {
        let materials = Materials {
            authorities: self.authorities.read("cacert", "cacertFile")?,
            certificate: self.certificate.read("cert", "certFile")?,
            key: self.key.read("key", "keyFile")?,
            server_name: self.server_name.clone(),
            skip_verification: self.skip_verification,
        };
        Ok(Some(materials).filter(|materials| !materials.is_empty()))
    }
}

impl Pem {
    fn read(&self, key: &'static str, file_key: &'static str) -> Result<Option<Vec<u8>>, Wrong> {
        match (&self.text, &self.file) {
            (Some(_), Some(_)) => Err((file_key, format!("give either {key} or {file_key}"))),
            (Some(text), None) => Ok(Some(text.clone().into_bytes())),
            (None, Some(file)) => {
                read(file).map(Some).map_err(|error| (file_key, format!("{}: {error}", file.display())))
            }
            (None, None) => Ok(None),
        }
    }
}

impl Materials {
    fn is_empty(&self) -> bool {
        let Materials { authorities, certificate, key, server_name, skip_verification } = self;
        authorities.is_none() && certificate.is_none() && key.is_none() && server_name.is_none() && !skip_verification
    }

    /// What there is of Docker's `ca.pem`, `cert.pem` and `key.pem`.
    fn in_directory(directory: &Path, skip_verification: bool) -> Result<Materials, String> {
        let file = |name: &str| {
            let file = directory.join(name);
            match read(&file) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("{}: {error}", file.display())),
            }
        };
        let (authorities, certificate, key) = (file("ca.pem")?, file("cert.pem")?, file("key.pem")?);
        Ok(Materials { authorities, certificate, key, server_name: None, skip_verification })
    }

    fn tls(&self) -> Result<Tls, Wrong> {
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.as_slice(), key.as_slice())),
            (None, None) => None,
            (Some(_), None) => return Err(("", "a certificate needs its private key".to_owned())),
            (None, Some(_)) => return Err(("", "a private key needs its certificate".to_owned())),
        };
        let settings = TlsSettings {
            authorities: self.authorities.as_deref(),
            identity,
            server_name: self.server_name.as_deref(),
            verify: !self.skip_verification,
            offer: TlsOffer::default(),
        };
        Tls::new(&settings).map_err(|error| {
            let key = match &error {
                TlsError::Authorities(_) => "cacert",
                TlsError::Certificate(_) => "cert",
                TlsError::Key(_) => "key",
                TlsError::Library(_) => "",
            };
            (key, error.to_string())
        })
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    bounded::read(file, LONGEST)?.ok_or_else(|| io::Error::other(format!("longer than {LONGEST} bytes")))
}

#[cfg(test)]
#[path = "docker_connection_tests.rs"]
mod tests;
