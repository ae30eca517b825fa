//! The `ssh` section.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use super::kind::{
    Several, address, any_number_of, choice, duration, duration_or_off, integer, name, one_or_more, parsed, path, pem,
    spaced_list, text,
};
use super::pem::Pem;
use super::reader::{Kind, Reader};
use super::section::Section;
use super::startups::{MaxStartups, NetBlockSize, PenaltyOption, max_startups, net_block_size, penalty, per_source};
use super::yaml::{Node, Value};
use crate::auth::{MethodList, PubkeyAuthOption, Sources, StrictModes, UserEnvironment};
use crate::ip_qos::IpQos;

/// Settings of the SSH side, resolved.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// `listen`: one address at least.
    pub listen: Vec<SocketAddr>,
    /// `hostkeys`: one at least.
    pub host_keys: Vec<Pem>,
    /// `hostCertificates`: files of certificates for these.
    pub host_certificates: Vec<PathBuf>,
    /// `serverVersion`: what stands behind `SSH-2.0-` in the identification (RFC 4253 section 4.2).
    pub server_version: String,
    /// `banner`: shown before authentication (RFC 4252 section 5.4).
    pub banner: Option<String>,
    /// `ciphers`
    pub ciphers: Vec<String>,
    /// `kex`
    pub kex: Vec<String>,
    /// `macs`
    pub macs: Vec<String>,
    /// `hostKeyAlgorithms`
    pub host_key_algorithms: Vec<String>,
    /// `loginGraceTime`: how long a client may take to authenticate.
    pub login_grace_time: Duration,
    /// `maxAuthTries`: attempts in one connection.
    pub max_auth_tries: u32,
    /// `authenticationMethods`: what users have to prove who have nothing of their own for it. None is any method.
    pub authentication_methods: Vec<MethodList>,
    /// `pubkeyAuthOptions`: what security keys must attest, whatever a key's options say.
    pub pubkey_auth_options: Vec<PubkeyAuthOption>,
    /// `trustedUserCAKeys`: files of authorities whose certificates let users in.
    pub trusted_user_ca_keys: Vec<PathBuf>,
    /// `revokedKeys`: files of keys and certificates that let nobody in.
    pub revoked_keys: Vec<PathBuf>,
    /// `strictModes`: who may be able to replace the files of keys, principals, authorities and revocations.
    pub strict_modes: StrictModes,
    /// `keyExchangeTimeout`: how long a client may take to identify itself and to exchange keys.
    pub key_exchange_timeout: Duration,
    /// `maxStartups`: connections that have not authenticated.
    pub max_startups: MaxStartups,
    /// `perSourceMaxStartups`: those from one source.
    pub per_source_max_startups: Option<usize>,
    /// `perSourceNetBlockSize`: what a source is.
    pub per_source_net_block_size: NetBlockSize,
    /// `perSourcePenalties`: see [`super::Penalties::of`].
    pub per_source_penalties: Vec<PenaltyOption>,
    /// `perSourcePenaltyExemptList`: whom none of these concern.
    pub per_source_penalty_exempt_list: Vec<Sources>,
    /// `maxConnections`: connections at once. 0 is no limit.
    pub max_connections: usize,
    /// `acceptEnv`: patterns of variables that a client may set.
    pub accept_env: Vec<String>,
    /// `ipqos`: the class of service of packets.
    pub ip_qos: IpQos,
    /// `permitUserEnvironment`: which variables keys may set whose lines are in files, or come from programs.
    pub permit_user_environment: UserEnvironment,
    /// `clientAliveInterval`: the silence after which a client is asked for a sign of life. Zero is never.
    pub client_alive_interval: Duration,
    /// `clientAliveCountMax`: how many such questions may stay without an answer.
    pub client_alive_count_max: u32,
    /// `security.maxSessions`: sessions at once in one connection. Below 0 is no limit.
    pub max_sessions: i32,
}

// What there is, without SHA-1, CBC, DSA and 3DES. It is the client whose order decides (RFC 4253 section 7.1).

pub(super) const CIPHERS: &[&str] = &[
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
];

pub(super) const KEX: &[&str] = &[
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    GROUP_EXCHANGE,
];

/// A client chooses how large the numbers are that the server has to compute with: on offer only where it is named.
const GROUP_EXCHANGE: &str = "diffie-hellman-group-exchange-sha256";

pub(super) const MACS: &[&str] =
    &["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"];

pub(super) const HOST_KEY_ALGORITHMS: &[&str] = &[
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

const PUBKEY_AUTH_OPTIONS: &[(&str, PubkeyAuthOption)] =
    &[("touch-required", PubkeyAuthOption::TouchRequired), ("verify-required", PubkeyAuthOption::VerifyRequired)];

const STRICT_MODES: &[(&str, StrictModes)] = &[("yes", StrictModes::Yes), ("no", StrictModes::No)];
const SWITCHED: &[(&str, StrictModes)] = &[("true", StrictModes::Yes), ("false", StrictModes::No)];

/// The longest banner, in bytes.
const LONGEST_BANNER: usize = 32 * 1024;

/// The longest identification, in bytes without its line end.
const LONGEST_IDENTIFICATION: usize = 253;

/// As owned texts.
pub(super) fn all(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Ssh {
    /// The defaults, with the host key in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        Ssh {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 2222))],
            host_keys: vec![Pem::File(directory.join("ssh_host_ed25519_key"))],
            host_certificates: Vec::new(),
            server_version: concat!("berth_", env!("CARGO_PKG_VERSION")).to_owned(),
            banner: None,
            ciphers: all(CIPHERS),
            kex: all(KEX).into_iter().filter(|name| name != GROUP_EXCHANGE).collect(),
            macs: all(MACS),
            host_key_algorithms: all(HOST_KEY_ALGORITHMS),
            login_grace_time: Duration::from_secs(120),
            max_auth_tries: 6,
            authentication_methods: Vec::new(),
            pubkey_auth_options: Vec::new(),
            trusted_user_ca_keys: Vec::new(),
            revoked_keys: Vec::new(),
            strict_modes: StrictModes::default(),
            key_exchange_timeout: Duration::from_secs(20),
            max_startups: MaxStartups { start: 50, rate: 30, full: 100 },
            per_source_max_startups: Some(50),
            per_source_net_block_size: NetBlockSize { v4: 32, v6: 64 },
            per_source_penalties: Vec::new(),
            per_source_penalty_exempt_list: Vec::new(),
            max_connections: 0,
            accept_env: all(&["LANG", "LC_*", "COLORTERM", "NO_COLOR"]),
            ip_qos: IpQos::default(),
            permit_user_environment: UserEnvironment::default(),
            client_alive_interval: Duration::ZERO,
            client_alive_count_max: 3,
            max_sessions: 10,
        }
    }
}

pub(super) fn section() -> Section<Ssh> {
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    let banner = text("a text of 32 kB at most", |text| text.len() <= LONGEST_BANNER);
    let pattern = text("a variable's name, with * and ? for any characters", is_pattern);
    let sources = parsed("addresses and networks separated by commas", Sources::parse);
    Section::new()
        .key("listen", |ssh: &mut Ssh| &mut ssh.listen, listen())
        .key("hostkeys", |ssh| &mut ssh.host_keys, HostKeys(one_or_more(pem())))
        .key("hostCertificates", |ssh| &mut ssh.host_certificates, any_number_of(path()))
        .key("serverVersion", |ssh| &mut ssh.server_version, parsed("a version", parse_version))
        .key("banner", |ssh| &mut ssh.banner, banner.optional())
        .key("ciphers", |ssh| &mut ssh.ciphers, one_or_more(name(CIPHERS)))
        .key("kex", |ssh| &mut ssh.kex, one_or_more(name(KEX)))
        .key("macs", |ssh| &mut ssh.macs, one_or_more(name(MACS)))
        .key("hostKeyAlgorithms", |ssh| &mut ssh.host_key_algorithms, one_or_more(name(HOST_KEY_ALGORITHMS)))
        .key("loginGraceTime", |ssh| &mut ssh.login_grace_time, duration(SECOND..=HOUR))
        .key("maxAuthTries", |ssh| &mut ssh.max_auth_tries, integer(1..=100))
        .key("authenticationMethods", |ssh| &mut ssh.authentication_methods, authentication_methods())
        .key("pubkeyAuthOptions", |ssh| &mut ssh.pubkey_auth_options, any_number_of(choice(PUBKEY_AUTH_OPTIONS, &[])))
        .key("trustedUserCAKeys", |ssh| &mut ssh.trusted_user_ca_keys, any_number_of(path()))
        .key("revokedKeys", |ssh| &mut ssh.revoked_keys, any_number_of(path()))
        .key("strictModes", |ssh| &mut ssh.strict_modes, choice(STRICT_MODES, &[]).also(SWITCHED))
        .key("keyExchangeTimeout", |ssh| &mut ssh.key_exchange_timeout, duration(SECOND..=HOUR))
        .key("maxStartups", |ssh| &mut ssh.max_startups, max_startups())
        .key("perSourceMaxStartups", |ssh| &mut ssh.per_source_max_startups, per_source())
        .key("perSourceNetBlockSize", |ssh| &mut ssh.per_source_net_block_size, net_block_size())
        .key("perSourcePenalties", |ssh| &mut ssh.per_source_penalties, spaced_list(penalty()))
        .key("perSourcePenaltyExemptList", |ssh| &mut ssh.per_source_penalty_exempt_list, any_number_of(sources))
        .key("maxConnections", |ssh| &mut ssh.max_connections, integer(0..=1_000_000))
        .key("acceptEnv", |ssh| &mut ssh.accept_env, any_number_of(pattern))
        .key("ipqos", |ssh| &mut ssh.ip_qos, parsed("one or two classes of service", IpQos::parse))
        .key(
            "permitUserEnvironment",
            |ssh| &mut ssh.permit_user_environment,
            parsed("yes, no or names of variables", UserEnvironment::parse),
        )
        .key("clientAliveInterval", |ssh| &mut ssh.client_alive_interval, duration_or_off(SECOND..=24 * HOUR))
        .key("clientAliveCountMax", |ssh| &mut ssh.client_alive_count_max, integer(1..=1000))
}

/// What `hostkeys` holds. An empty list, which ContainerSSH writes where it is to make a key, is as none.
struct HostKeys(Several<Pem>);

impl Kind<Vec<Pem>> for HostKeys {
    fn read(&self, node: &Node, target: &mut Vec<Pem>, reader: &mut Reader<'_>) {
        if !matches!(&node.value, Value::List(items) if items.is_empty()) {
            self.0.read(node, target, reader);
        }
    }

    fn schema(&self) -> Json {
        let mut schema = self.0.schema();
        schema["anyOf"][1]["minItems"] = 0.into();
        schema
    }
}

/// What `authenticationMethods` holds.
pub(super) fn authentication_methods() -> Several<MethodList> {
    spaced_list(parsed("methods separated by commas, or any", MethodList::parse))
}

/// What `listen` holds.
pub(super) fn listen() -> impl Kind<Vec<SocketAddr>> {
    one_or_more(address())
}

/// What stands behind "SSH-2.0-" in an identification: the software's name, and a comment perhaps.
pub(super) fn parse_version(text: &str) -> Result<String, &'static str> {
    let good = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'-');
    let version = text.strip_prefix("SSH-2.0-").filter(|_| text.len() <= LONGEST_IDENTIFICATION);
    let (software, comment) = version.map_or(("", ""), |version| version.split_once(' ').unwrap_or((version, "")));
    if good(software) && comment.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Ok(version.unwrap_or_default().to_owned());
    }
    Err("must be SSH-2.0- and a name without spaces and hyphens, in ASCII, such as SSH-2.0-berth")
}

fn is_pattern(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_*?".contains(&byte))
}
