//! kubeconfig files (<https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>), as kubectl reads and merges them.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};

use super::Error;
use super::access::{Access, Credentials, Server};
use super::plugin::{ApiVersion, Plugin};
use crate::bounded;
use crate::config::yaml::{self, Node, Value};
use crate::http::Proxy;

/// The largest file that is read: a kubeconfig, a certificate, a key or a token. In bytes.
const LARGEST: u64 = 1024 * 1024;

/// Some files, merged: of everything, the first file that has it counts.
#[derive(Default)]
pub struct Kubeconfig {
    current_context: Option<String>,
    clusters: Vec<Entry>,
    users: Vec<Entry>,
    contexts: Vec<Entry>,
    /// The files that were there, for messages.
    files: Vec<PathBuf>,
}

/// A named cluster, user or context.
struct Entry {
    name: String,
    /// What stands under it.
    node: Node,
    /// The file that it is from: its paths are relative to that.
    file: PathBuf,
}

impl Kubeconfig {
    /// Reads files. One that is missing is passed over, unless it is the only one, as with kubectl's `--kubeconfig`.
    pub fn load(files: &[PathBuf]) -> Result<Kubeconfig, Error> {
        let mut all = Kubeconfig::default();
        for file in files {
            match read(file) {
                Ok(bytes) => all.add(file, &bytes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound && files.len() > 1 => {}
                Err(error) => return Err(Error::Settings(format!("cannot read {}: {error}", file.display()))),
            }
        }
        Ok(all)
    }

    /// Adds what a file has and those before it have not.
    fn add(&mut self, file: &Path, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |detail: String| Error::Settings(format!("{}: {detail}", file.display()));
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("not UTF-8".into()))?;
        let root = yaml::parse(text).map_err(|e| wrong(format!("line {}: {}", e.line, e.message)))?;
        self.files.push(file.to_owned());
        if self.current_context.is_none() {
            self.current_context = text_of(&root, "current-context").map(str::to_owned);
        }
        let lists = [("clusters", &mut self.clusters), ("users", &mut self.users), ("contexts", &mut self.contexts)];
        for (key, list) in lists {
            let items = match root.at(&[key]).map(|node| &node.value) {
                None | Some(Value::Null) => continue,
                Some(Value::List(items)) => items,
                Some(other) => return Err(wrong(format!("{key} must be a list, not {other}"))),
            };
            for item in items {
                let Some(name) = text_of(item, "name") else {
                    return Err(wrong(format!("line {}: an entry of {key} has no name", item.line)));
                };
                if list.iter().all(|entry| entry.name != name) {
                    let null = Node { value: Value::Null, line: item.line };
                    let node = item.at(&[key.strip_suffix('s').unwrap_or(key)]).cloned().unwrap_or(null);
                    list.push(Entry { name: name.to_owned(), node, file: file.to_owned() });
                }
            }
        }
        Ok(())
    }

    /// What a context stands for; without a name, the current one.
    pub fn access(&self, context: Option<&str>) -> Result<Access, Error> {
        let files = self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        let wrong = |detail: String| Error::Settings(format!("kubeconfig ({files}): {detail}"));
        let find = |list: &'_ [Entry], kind: &str, name: &str| -> Result<usize, Error> {
            let found = list.iter().position(|entry| entry.name == name);
            found.ok_or_else(|| wrong(format!("there is no {kind} {name:?}")))
        };
        let Some(name) = context.or(self.current_context.as_deref()) else {
            return Err(wrong("it has no current-context; set kubernetes.connection.context".into()));
        };
        let context = &self.contexts[find(&self.contexts, "context", name)?];
        let Some(cluster) = context.text("cluster") else {
            return Err(wrong(format!("context {name:?} has no cluster")));
        };
        let mut access = self.clusters[find(&self.clusters, "cluster", cluster)?].cluster()?;
        if let Some(user) = context.text("user") {
            self.users[find(&self.users, "user", user)?].user(&mut access)?;
        }
        access.namespace = context.text("namespace").map(str::to_owned);
        Ok(access)
    }
}

impl Entry {
    fn text(&self, key: &str) -> Option<&str> {
        text_of(&self.node, key)
    }

    fn wrong(&self, key: &str, detail: impl std::fmt::Display) -> Error {
        Error::Settings(format!("{}: {:?}: {key}: {detail}", self.file.display(), self.name))
    }

    fn is_true(&self, key: &str) -> Result<bool, Error> {
        match self.text(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(self.wrong(key, "must be true or false")),
        }
    }

    /// A file's path, which may be relative to the kubeconfig's.
    fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|path| self.file.parent().unwrap_or(Path::new(".")).join(path))
    }

    /// What stands in base64 under `key`-data, or in the file that `key` names.
    fn data(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let inline = format!("{key}-data");
        if let Some(text) = self.text(&inline) {
            let text: String = text.split_whitespace().collect();
            // What is wrong with it could show some of it.
            return BASE64.decode(text).map(Some).map_err(|_| self.wrong(&inline, "not base64"));
        }
        let Some(path) = self.path(key) else { return Ok(None) };
        read(&path).map(Some).map_err(|error| self.wrong(key, format!("cannot read {}: {error}", path.display())))
    }

    fn cluster(&self) -> Result<Access, Error> {
        let server = self.text("server").ok_or_else(|| self.wrong("server", "missing"))?;
        let server = Server::parse(server).map_err(|detail| self.wrong("server", detail))?;
        let proxy = self.text("proxy-url").map(Proxy::parse).transpose().map_err(|e| self.wrong("proxy-url", e))?;
        Ok(Access {
            authorities: self.data("certificate-authority")?,
            server_name: self.text("tls-server-name").map(str::to_owned),
            insecure: self.is_true("insecure-skip-tls-verify")?,
            proxy,
            for_plugins: self.for_plugins()?,
            ..Access::to(server)
        })
    }

    /// The cluster as plugins that ask for it are told: `Cluster` of client.authentication.k8s.io.
    fn for_plugins(&self) -> Result<Json, Error> {
        let mut cluster = serde_json::Map::new();
        for key in ["server", "tls-server-name", "proxy-url"] {
            cluster.extend(self.text(key).map(|text| (key.to_owned(), json!(text))));
        }
        if self.is_true("insecure-skip-tls-verify")? {
            cluster.insert("insecure-skip-tls-verify".into(), json!(true));
        }
        if let Some(data) = self.data("certificate-authority")? {
            cluster.insert("certificate-authority-data".into(), json!(BASE64.encode(data)));
        }
        let extensions = self.node.at(&["extensions"]).map(Node::to_json).unwrap_or_default();
        let own = |extension: &&Json| extension["name"] == "client.authentication.k8s.io/exec";
        if let Some(extension) = extensions.as_array().into_iter().flatten().find(own) {
            cluster.insert("config".into(), extension["extension"].clone());
        }
        Ok(Json::Object(cluster))
    }

    fn user(&self, access: &mut Access) -> Result<(), Error> {
        access.identity = match (self.data("client-certificate")?, self.data("client-key")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (None, _) => return Err(self.wrong("client-certificate", "missing, and there is a client-key")),
            (_, None) => return Err(self.wrong("client-key", "missing, and there is a client-certificate")),
        };
        let own = |text: &str| text.to_owned();
        let token = match (self.path("tokenFile"), self.text("token").map(own)) {
            (Some(path), fallback) => Some(Credentials::TokenFile { path, fallback }),
            (None, Some(token)) => Some(Credentials::Token(token)),
            (None, None) => None,
        };
        let password = self.text("password").map(own).unwrap_or_default();
        let basic = self.text("username").map(|name| Credentials::Basic { name: own(name), password });
        let plugin = self.plugin()?.map(Credentials::Plugin);
        let mut found = [plugin, token, basic].into_iter().flatten();
        access.credentials = found.next().unwrap_or(Credentials::None);
        if found.next().is_some() {
            return Err(self.wrong("user", "only one of token, username and exec may be there"));
        }
        if matches!(self.node.at(&["auth-provider"]).map(|node| &node.value), Some(Value::Map(_))) {
            return Err(self.wrong("auth-provider", "Kubernetes has given it up for exec; use that"));
        }
        self.impersonate(access)
    }

    /// Whom the user acts as.
    fn impersonate(&self, access: &mut Access) -> Result<(), Error> {
        let mut field = |name: String, value: &str| access.impersonate.push((name, value.to_owned()));
        for (key, name) in [("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid")] {
            if let Some(value) = self.text(key) {
                field(name.into(), value);
            }
        }
        for group in self.node.at(&["as-groups"]).map(items).unwrap_or_default() {
            field("Impersonate-Group".into(), group);
        }
        if let Some(Value::Map(extra)) = self.node.at(&["as-user-extra"]).map(|node| &node.value) {
            for (key, values) in extra {
                let name = format!("Impersonate-Extra-{}", crate::http::encode(&key.text).replace('/', "%2F"));
                items(values).into_iter().for_each(|value| field(name.clone(), value));
            }
        }
        match access.impersonate.iter().any(|(_, value)| value.contains(char::is_control)) {
            true => Err(self.wrong("as", "must not have control characters")),
            false => Ok(()),
        }
    }

    fn plugin(&self) -> Result<Option<Plugin>, Error> {
        let Some(node) = self.node.at(&["exec"]).filter(|node| node.value != Value::Null) else { return Ok(None) };
        let version = match text_of(node, "apiVersion") {
            Some("client.authentication.k8s.io/v1") => ApiVersion::V1,
            Some("client.authentication.k8s.io/v1beta1") => ApiVersion::V1Beta1,
            other => {
                let detail = format!("{other:?} is not supported; use client.authentication.k8s.io/v1");
                return Err(self.wrong("exec.apiVersion", detail));
            }
        };
        if text_of(node, "interactiveMode") == Some("Always") {
            return Err(self.wrong("exec.interactiveMode", "Always cannot be: there is nobody to answer its questions"));
        }
        let Some(command) = text_of(node, "command") else { return Err(self.wrong("exec.command", "missing")) };
        // A bare name is looked up in PATH.
        let command = match command.contains('/') {
            true => self.file.parent().unwrap_or(Path::new(".")).join(command),
            false => command.into(),
        };
        let mut environment = Vec::new();
        if let Some(Value::List(variables)) = node.at(&["env"]).map(|node| &node.value) {
            for variable in variables {
                let Some(name) = text_of(variable, "name") else { return Err(self.wrong("exec.env", "needs a name")) };
                environment.push((name.to_owned(), text_of(variable, "value").unwrap_or_default().to_owned()));
            }
        }
        Ok(Some(Plugin {
            version,
            command,
            arguments: node.at(&["args"]).map(items).unwrap_or_default().into_iter().map(str::to_owned).collect(),
            environment,
            install_hint: text_of(node, "installHint").map(str::to_owned),
            wants_cluster: text_of(node, "provideClusterInfo") == Some("true"),
        }))
    }
}

/// The text under a key; an empty one is none.
fn text_of<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match &node.at(&[key])?.value {
        Value::Scalar { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The texts in a list.
fn items(node: &Node) -> Vec<&str> {
    let Value::List(items) = &node.value else { return Vec::new() };
    items
        .iter()
        .filter_map(|item| if let Value::Scalar { text, .. } = &item.value { Some(text.as_str()) } else { None })
        .collect()
}

/// Reads a whole file of at most [`LARGEST`] bytes.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    bounded::read(path, LARGEST)?.ok_or_else(|| io::Error::other(format!("it is larger than {LARGEST} bytes")))
}

#[cfg(test)]
#[path = "kubeconfig_tests.rs"]
mod tests;
