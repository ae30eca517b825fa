//! Where a cluster is, and as whom berth speaks with it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value as Json;

use super::Error;
use super::kubeconfig::{Kubeconfig, read};
use super::plugin::Plugin;
use crate::config::{KubernetesConnection, Pem, Secret};
use crate::http::{Proxy, authority, host_and_port};

/// What a pod finds of its service account (`kubectl explain pod.spec.automountServiceAccountToken`).
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whether it is spoken with by TLS.
    pub tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands before all paths, without a slash at its end.
    pub prefix: String,
}

impl Server {
    /// Reads a URL, or only its host and port, which then mean TLS. An error says what is allowed.
    pub fn parse(text: &str) -> Result<Server, &'static str> {
        const ALLOWED: &str = "must be the URL of an API server, such as https://10.0.0.1:6443";
        let (tls, rest) = match text.split_once("://") {
            None => (true, text),
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(ALLOWED),
        };
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_and_port(place, if tls { 443 } else { 80 }).ok_or(ALLOWED)?;
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
            return Err(ALLOWED);
        }
        Ok(Server { tls, host, port, prefix: path.trim_end_matches('/').to_owned() })
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Server { tls, host, port, prefix } = self;
        let scheme = if *tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{prefix}", authority(host, *port))
    }
}

/// By what the API server knows who speaks, beside a client certificate.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A bearer token.
    Token(String),
    /// One in a file, which is exchanged from time to time; `fallback` while that cannot be read.
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Another token.
        fallback: Option<String>,
    },
    /// HTTP's basic authentication.
    Basic {
        /// The user.
        name: String,
        /// Their password.
        password: String,
    },
    /// What a program says.
    Plugin(Plugin),
}

/// What a plugin has given.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// A bearer token.
    pub token: Option<String>,
    /// A client certificate and its key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// When it counts no more.
    pub expires: Option<SystemTime>,
}

/// All that it takes to speak with a cluster. Has no `Debug`: it is full of secrets.
#[derive(Clone, PartialEq)]
pub struct Access {
    /// Where it is.
    pub server: Server,
    /// What follows the server's own prefix in all paths: `/api`.
    pub root: String,
    /// The authorities of the server's certificate, in PEM; without them, the system's.
    pub authorities: Option<Vec<u8>>,
    /// The name in the server's certificate, where it is not the host's.
    pub server_name: Option<String>,
    /// Whether the server's certificate is not checked.
    pub insecure: bool,
    /// The way to it.
    pub proxy: Option<Proxy>,
    /// A client certificate and its key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Who speaks.
    pub credentials: Credentials,
    /// Header fields that say whom the user acts as.
    pub impersonate: Vec<(String, String)>,
    /// The namespace that goes with it.
    pub namespace: Option<String>,
    /// The cluster as plugins are told of it.
    pub for_plugins: Json,
}

impl Access {
    /// To a server whose certificate is from a known authority, as nobody.
    pub fn to(server: Server) -> Access {
        Access {
            server,
            root: "/api".into(),
            authorities: None,
            server_name: None,
            insecure: false,
            proxy: None,
            identity: None,
            credentials: Credentials::None,
            impersonate: Vec::new(),
            namespace: None,
            for_plugins: Json::Null,
        }
    }

    /// What the settings stand for now: files are read again each time.
    ///
    /// An explicit connection comes first, then kubeconfig files, by name or from the environment, then the service
    /// account of the pod that berth itself runs in: as with kubectl.
    pub fn find(settings: &KubernetesConnection) -> Result<Access, Error> {
        let mut access = if let Some(host) = &settings.host {
            explicit(host, settings)?
        } else if !settings.kubeconfig.is_empty() {
            Kubeconfig::load(&settings.kubeconfig)?.access(settings.context.as_deref())?
        } else if settings.context.is_some() || settings.environment.kubeconfig.iter().any(|file| file.exists()) {
            Kubeconfig::load(&settings.environment.kubeconfig)?.access(settings.context.as_deref())?
        } else if let Some(service) = &settings.environment.service {
            in_cluster(service, Path::new(SERVICE_ACCOUNT))?
        } else {
            let detail = "no cluster: name a kubernetes.connection.kubeconfig, or a host; there is no KUBECONFIG or \
                ~/.kube/config either, and berth does not run in a pod";
            return Err(Error::Settings(detail.into()));
        };
        if settings.namespace.is_some() {
            access.namespace.clone_from(&settings.namespace);
        }
        Ok(access)
    }
}

/// ContainerSSH's keys.
fn explicit(host: &str, settings: &KubernetesConnection) -> Result<Access, Error> {
    let server =
        Server::parse(host).map_err(|detail| Error::Settings(format!("kubernetes.connection.host {detail}")))?;
    let pem = |pem: &Option<Pem>| match pem {
        Some(pem) => pem.read().map(Some).map_err(|error| Error::Settings(format!("kubernetes.connection: {error}"))),
        None => Ok(None),
    };
    let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.0.clone());
    let credentials = match (&settings.bearer_token_file, &settings.bearer_token, &settings.username) {
        (Some(path), _, _) => Credentials::TokenFile { path: path.clone(), fallback: secret(&settings.bearer_token) },
        (None, Some(token), _) => Credentials::Token(token.0.clone()),
        (None, None, Some(name)) => {
            Credentials::Basic { name: name.clone(), password: secret(&settings.password).unwrap_or_default() }
        }
        (None, None, None) => Credentials::None,
    };
    Ok(Access {
        root: settings.path.clone(),
        authorities: pem(&settings.authorities)?,
        server_name: settings.server_name.clone(),
        insecure: settings.insecure,
        identity: pem(&settings.certificate)?.zip(pem(&settings.key)?),
        credentials,
        ..Access::to(server)
    })
}

/// The service account of the pod that berth runs in. `service` is the API server's host and port.
fn in_cluster(service: &str, directory: &Path) -> Result<Access, Error> {
    let failed = |name: &str| {
        let path = directory.join(name);
        move |error| Error::Settings(format!("cannot read {}: {error}", path.display()))
    };
    let server = Server::parse(service)
        .map_err(|detail| Error::Settings(format!("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT: {detail}")))?;
    let namespace = read(&directory.join("namespace")).map_err(failed("namespace"))?;
    Ok(Access {
        authorities: Some(read(&directory.join("ca.crt")).map_err(failed("ca.crt"))?),
        credentials: Credentials::TokenFile { path: directory.join("token"), fallback: None },
        namespace: Some(String::from_utf8_lossy(&namespace).trim().to_owned()),
        ..Access::to(server)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_hosts() {
        let server = |text| Server::parse(text).map(|s| (s.tls, s.host, s.port, s.prefix));
        let good = |tls, host: &str, port, prefix: &str| Ok((tls, host.to_owned(), port, prefix.to_owned()));
        assert_eq!(server("https://10.0.0.1:6443"), good(true, "10.0.0.1", 6443, ""));
        assert_eq!(server("https://rancher/k8s/clusters/c-1/"), good(true, "rancher", 443, "/k8s/clusters/c-1"));
        assert_eq!(server("http://localhost:8080/"), good(false, "localhost", 8080, ""));
        assert_eq!(server("kubernetes.default.svc"), good(true, "kubernetes.default.svc", 443, ""));
        assert_eq!(server("[fd00::1]:6443"), good(true, "fd00::1", 6443, ""));
        for bad in ["", "https://", "ftp://a", "https://a:b", "https://a/b c", "https://a\r\nb", "https://a/?b"] {
            assert!(server(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pods_service_account_has_a_token_that_is_read_each_time() {
        let directory = std::env::temp_dir().join(format!("berth-service-account-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in [("ca.crt", "pem"), ("namespace", "guests\n")] {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let access = in_cluster("[fd00::1]:443", &directory).unwrap();
        assert_eq!((access.server.host.as_str(), access.namespace.as_deref()), ("fd00::1", Some("guests")));
        assert!(access.credentials == Credentials::TokenFile { path: directory.join("token"), fallback: None });
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(in_cluster("a:1", &directory).is_err());
    }
}
