//! What a configuration gives away: settings that are good, and that let a user out of the container, or take all that
//! the host has. Each is worth a warning, since it may be meant.

use serde_json::{Map, Value as Json};

use super::{BackendKind, Docker, ExecutionMode, HttpServer, Kubernetes};
use crate::http::Address;

/// Where engines are spoken to. Whoever can is root on the host.
const SOCKETS: [&str; 6] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
];

/// Modes by which a container is not apart from the host.
const NAMESPACES: [(&str, &str, &str); 4] = [
    ("NetworkMode", "networkMode", "network: users reach all that listens on the host's loopback"),
    ("PidMode", "pidMode", "processes: users see them, and root can end them and enter them"),
    ("IpcMode", "ipcMode", "shared memory"),
    ("UsernsMode", "usernsMode", "users: root in the container is root on the host"),
];

/// A danger: the path of the key, and what is wrong with it.
pub(super) type Danger = (Vec<String>, String);

fn danger(path: &[&str], message: impl Into<String>) -> Danger {
    (path.iter().map(|key| (*key).to_owned()).collect(), message.into())
}

/// What the section of a backend gives away.
pub(super) fn of(backend: BackendKind, docker: &Docker, kubernetes: &Kubernetes) -> Vec<Danger> {
    match backend {
        BackendKind::Docker => of_docker(docker),
        BackendKind::Kubernetes => of_kubernetes(kubernetes),
        BackendKind::SshProxy => Vec::new(),
    }
}

/// What a server gives away that is asked who may in, or what is served: its keys are below this path.
pub(super) fn of_server(path: &[&str], server: &HttpServer) -> Option<Danger> {
    let message = || format!("without TLS whoever is on the way to {} reads passwords and says who may in", server.url);
    server.is_exposed().then(|| danger(&[path, &["allowInsecure"]].concat(), message()))
}

fn of_docker(docker: &Docker) -> Vec<Danger> {
    const PATH: [&str; 3] = ["docker", "execution", "host"];
    let mut dangers = Vec::new();
    if matches!(docker.connection.address, Address::Tcp { tls: None, .. }) {
        let message = "without TLS whoever reaches the daemon, or is on the way, is root there; give certificates";
        dangers.push(danger(&["docker", "connection", "host"], message));
    }
    if docker.mode == ExecutionMode::Persistent && !docker.persistent.create {
        // It is somebody else who makes the containers.
        return dangers;
    }
    dangers.extend(of_host_config(&docker.host_config, &PATH));
    let limit = |name| docker.host_config.get(name).and_then(Json::as_i64).is_some_and(|limit| limit > 0);
    let missing = match (limit("PidsLimit"), limit("Memory")) {
        (true, true) => None,
        (false, false) => Some(("neither pidsLimit nor memory is", "pidsLimit: 256, memory: 1g")),
        (false, true) => Some(("pidsLimit is not", "pidsLimit: 256")),
        (true, false) => Some(("memory is not", "memory: 1g")),
    };
    if let Some((what, example)) = missing {
        let message = format!("{what} set: one user can take all that the host has; such as {example}");
        dangers.push(danger(&PATH, message));
    }
    for sidecar in &docker.sidecars {
        // Without a line of its own: which one of the list it is, its name says.
        let found = of_host_config(&sidecar.host_config, &[]).into_iter();
        let path = ["docker", "execution", "sidecars"];
        dangers.extend(
            found.map(|(key, message)| danger(&path, format!("{}: {}: {message}", sidecar.name, key.concat()))),
        );
    }
    dangers
}

/// Whether somebody who has a container of this `HostConfig` could change what the host, or other containers, see of a
/// volume that is mounted read-only: by privileges with which it can be mounted anew.
pub fn can_remount(host_config: &Map<String, Json>) -> bool {
    host_config.get("Privileged") == Some(&Json::Bool(true)) || adds_the_host(host_config.get("CapAdd")).is_some()
}

fn of_host_config(host_config: &Map<String, Json>, path: &[&str]) -> Vec<Danger> {
    let mut dangers = Vec::new();
    let mut find = |key: &str, message: String| dangers.push(danger(&[path, &[key]].concat(), message));
    if host_config.get("Privileged") == Some(&Json::Bool(true)) {
        find("privileged", "a user who is root in the container is root on the host".into());
    }
    if let Some(capability) = adds_the_host(host_config.get("CapAdd")) {
        find("capAdd", format!("with {capability} a user who is root in the container can be root on the host"));
    }
    for (name, key, what) in NAMESPACES {
        if host_config.get(name).and_then(Json::as_str) == Some("host") {
            find(key, format!("host shares the host's {what}"));
        }
    }
    let binds = host_config.get("Binds").and_then(Json::as_array).into_iter().flatten();
    for bind in binds.filter_map(Json::as_str) {
        let source = bind.split(':').next().unwrap_or_default();
        if let Some(message) = of_source(source) {
            find("binds", message);
        }
    }
    let mounts = host_config.get("Mounts").and_then(Json::as_array).into_iter().flatten();
    for mount in mounts.filter(|mount| mount["Type"] == "bind") {
        if let Some(message) = of_source(mount["Source"].as_str().unwrap_or_default()) {
            find("mounts", message);
        }
    }
    dangers
}

/// What a directory or file of the host's gives away that is in a container.
fn of_source(source: &str) -> Option<String> {
    let plain =
        format!("/{}", source.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/"));
    if !source.starts_with('/') {
        return None;
    }
    if plain == "/" {
        return Some("/ is all of the host: a user who is root in the container is root on the host".into());
    }
    let is_in =
        |socket: &&str| **socket == plain || socket.strip_prefix(&plain).is_some_and(|rest| rest.starts_with('/'));
    let socket = SOCKETS.iter().find(|socket| is_in(socket))?;
    let what = if **socket == plain { plain.clone() } else { format!("{plain}, with {socket} in it,") };
    Some(format!("{what} makes users root on the host: they can start any container"))
}

/// The capabilities with which root in a container reaches what is the host's: its mounts, its kernel, its memory and
/// devices, and, by open_by_handle_at(2), its files.
const HOSTS: [&str; 5] = ["ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH"];

/// The first of [`HOSTS`] that is added.
fn adds_the_host(capabilities: Option<&Json>) -> Option<&'static str> {
    let names = capabilities.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    names.map(str::to_uppercase).find_map(|name| {
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        HOSTS.into_iter().find(|host| *host == name)
    })
}

fn of_kubernetes(kubernetes: &Kubernetes) -> Vec<Danger> {
    const PATH: [&str; 3] = ["kubernetes", "pod", "spec"];
    let mut dangers = Vec::new();
    if kubernetes.connection.insecure {
        dangers.push(danger(&["kubernetes", "connection", "insecure"], "whoever is on the way can be the API server"));
    }
    let spec = &kubernetes.spec;
    let mut find = |key: &[&str], message: String| dangers.push(danger(&[&PATH, key].concat(), message));
    for (key, what) in [("hostNetwork", "network"), ("hostPID", "processes"), ("hostIPC", "shared memory")] {
        if spec.get(key) == Some(&Json::Bool(true)) {
            find(&[key], format!("shares the node's {what}"));
        }
    }
    for volume in items(spec.get("volumes")) {
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            let message = of_source(path).unwrap_or_else(|| format!("hostPath: {path} is the node's own"));
            find(&["volumes"], message);
        }
    }
    let containers = ["initContainers", "containers"].map(|key| items(spec.get(key)).map(move |item| (key, item)));
    for (index, (key, container)) in containers.into_iter().flatten().enumerate() {
        let number = format!("number {}", index + 1);
        let name = container["name"].as_str().unwrap_or(&number);
        let context = &container["securityContext"];
        if context["privileged"] == true {
            find(&[key], format!("{name}: privileged: who is root in the container is root on the node"));
        }
        if let Some(capability) = adds_the_host(context["capabilities"].get("add")) {
            find(&[key], format!("{name}: with {capability} who is root in the container can be root on the node"));
        }
        if key == "containers" && container["resources"]["limits"]["memory"].is_null() {
            let message =
                "no memory limit: one user can take all that the node has; such as resources: {limits: {memory: 1Gi}}";
            find(&[key], format!("{name}: {message}"));
        }
    }
    dangers
}

fn items(list: Option<&Json>) -> impl Iterator<Item = &Json> {
    list.and_then(Json::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::can_remount;
    use crate::config::parse;
    use crate::config::tests::place;

    /// The warnings of a configuration, without the file's name and the line.
    fn warnings(text: &str) -> Vec<String> {
        let text = text.replace("execution: {", "execution: {container: {image: a}, ");
        let warnings = parse(&text, &place()).unwrap_or_else(|errors| panic!("{text}: {errors:?}")).warnings;
        warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.message)).collect()
    }

    /// The warnings about a `HostConfig` that has limits.
    fn host(more: &str) -> Vec<String> {
        warnings(&format!("docker: {{execution: {{host: {{pidsLimit: 100, memory: 1g, {more}}}}}}}"))
    }

    #[test]
    fn what_gives_the_host_away_is_told() {
        for (more, expected) in [
            ("privileged: true", "privileged: a user who is root"),
            ("capAdd: [NET_ADMIN, CAP_SYS_ADMIN]", "capAdd: with SYS_ADMIN"),
            ("capAdd: [all]", "capAdd: with ALL"),
            ("capAdd: [dac_read_search]", "capAdd: with DAC_READ_SEARCH"),
            ("networkMode: host", "networkMode: host shares the host's network"),
            ("pidMode: host", "pidMode: host shares the host's processes"),
            ("binds: ['/:/host:ro']", "binds: / is all of the host"),
            ("binds: ['//./:/host']", "binds: / is all of the host"),
            ("binds: [/var/run/docker.sock:/s]", "binds: /var/run/docker.sock makes users root"),
            ("mounts: [{type: bind, source: /run, target: /r}]", "mounts: /run, with /run/docker.sock in it, makes"),
        ] {
            let found = host(more);
            assert!(matches!(&found[..], [one] if one.contains(expected)), "{more}: {found:?}");
        }
        let found =
            warnings("docker: {execution: {sidecars: [{name: web, container: {image: a}, host: {privileged: true}}]}}");
        assert!(found.iter().any(|one| one.contains("sidecars: web: privileged")), "{found:?}");
    }

    #[test]
    fn what_does_not_is_not() {
        for more in [
            "capDrop: [ALL], capAdd: [CHOWN], securityOpt: [no-new-privileges], privileged: false",
            "binds: ['/srv/data:/data', 'homes:/home', '/runner:/r'], networkMode: none, pidMode: ''",
            "mounts: [{type: volume, source: /, target: /v}, {type: bind, source: /var/lib/x, target: /x}]",
        ] {
            assert_eq!(host(more), [""; 0], "{more}");
        }
        let persistent = "docker: {execution: {mode: persistent, containername: a, host: {privileged: true}}}";
        assert_eq!(warnings(persistent), [""; 0], "somebody else makes it");
    }

    #[test]
    fn whoever_reaches_the_host_can_mount_anew() {
        for (host_config, expected) in [
            (json!({"Privileged": true}), true),
            (json!({"CapAdd": ["SYS_ADMIN"]}), true),
            (json!({"CapAdd": ["cap_sys_admin"]}), true),
            (json!({"CapAdd": ["ALL"]}), true),
            (json!({"CapAdd": ["DAC_READ_SEARCH"]}), true),
            (json!({"CapAdd": ["NET_ADMIN"], "Privileged": false}), false),
            (json!({}), false),
        ] {
            assert_eq!(can_remount(host_config.as_object().unwrap()), expected, "{host_config}");
        }
    }

    #[test]
    fn limits_that_are_missing_are_told_once() {
        assert!(
            matches!(&warnings("docker: {execution: {}}")[..], [one] if one.contains("neither pidsLimit nor memory is set"))
        );
        for (limits, expected) in
            [("pidsLimit: 0, memory: 1g", "pidsLimit is not set"), ("pidsLimit: 9", "memory is not set")]
        {
            let found = warnings(&format!("docker: {{execution: {{host: {{{limits}}}}}}}"));
            assert!(matches!(&found[..], [one] if one.contains(expected)), "{found:?}");
        }
        // Those of a user who has others.
        let own = "docker: {execution: {host: {pidsLimit: 9, memory: 1g}}}\n\
            auth: {users: {a: {}, b: {docker: {execution: {host: {pidsLimit: 9, memory: 0}}}}}}\n\
            ssh: {trustedUserCAKeys: ca}";
        let found = warnings(own);
        assert!(matches!(&found[..], [one] if one.starts_with("auth.users.b.docker: ")), "{found:?}");
    }

    #[test]
    fn a_daemon_without_tls_is_told_of() {
        let found =
            warnings("docker: {connection: {host: 'tcp://a:2375'}, execution: {host: {pidsLimit: 9, memory: 1g}}}");
        assert!(matches!(&found[..], [one] if one.contains("without TLS")), "{found:?}");
    }

    #[test]
    fn a_server_that_is_asked_without_tls_is_told_of_but_on_this_host() {
        let told = |lines: &str| -> Vec<String> {
            let all = warnings(&format!("docker: {{execution: {{host: {{pidsLimit: 9, memory: 1g}}}}}}\n{lines}"));
            all.into_iter().filter(|one| one.contains("without TLS")).collect()
        };
        let oauth2 = |provider: &str, keys: &str| {
            format!(
                "auth: {{keyboardInteractive: {{method: oauth2, oauth2: {{clientId: a, clientSecret: b, \
                 provider: {provider}, {provider}: {{{keys}}}}}}}, authz: {{method: webhook, webhook: {{url: 'https://c'}}}}}}"
            )
        };
        for (lines, key) in [
            ("auth: {password: {method: webhook, webhook: {SERVER}}}".to_owned(), "auth.password.webhook"),
            ("auth: {publicKey: {method: webhook, webhook: {SERVER}}}".to_owned(), "auth.publicKey.webhook"),
            ("auth: {SERVER}".to_owned(), "auth"),
            ("configserver: {SERVER}".to_owned(), "configserver"),
            (oauth2("oidc", "SERVER, deviceFlow: true"), "auth.keyboardInteractive.oauth2.oidc"),
            (oauth2("github", "SERVER, apiurl: 'https://d'"), "auth.keyboardInteractive.oauth2.github"),
            (
                oauth2(
                    "generic",
                    "authorizeEndpointURL: 'https://d', redirectURI: 'https://e', tokenEndpoint: {SERVER}",
                ),
                "auth.keyboardInteractive.oauth2.generic.tokenEndpoint",
            ),
        ] {
            let of = |url: &str| told(&lines.replace("SERVER", &format!("url: '{url}', allowInsecure: true")));
            let found = of("http://a:8080");
            let start = format!("{key}.allowInsecure: without TLS whoever is on the way to http://a:8080 ");
            assert!(matches!(&found[..], [one] if one.starts_with(&start)), "{lines}: {found:?}");
            for url in ["http://127.0.0.1:8080", "http://[::1]", "http://localhost", "https://a"] {
                assert_eq!(of(url), [""; 0], "{lines}: {url}");
            }
        }
    }

    #[test]
    fn pods_have_their_dangers() {
        let pod = |spec: &str, container: &str| {
            warnings(&format!(
                "backend: kubernetes\nkubernetes: {{connection: {{host: a}}, pod: {{spec: {{{spec} containers: \
                 [{{image: a, {container} resources: {{limits: {{memory: 1Gi}}}}}}]}}}}}}"
            ))
        };
        assert_eq!(pod("", ""), [""; 0]);
        for (spec, container, expected) in [
            ("hostNetwork: true,", "", "spec.hostNetwork: shares"),
            ("hostPID: true,", "", "spec.hostPID: shares"),
            ("volumes: [{name: a, hostPath: {path: /var/log}}],", "", "hostPath: /var/log"),
            ("", "securityContext: {privileged: true},", "privileged"),
            ("", "securityContext: {capabilities: {add: [SYS_ADMIN]}},", "SYS_ADMIN"),
        ] {
            let found = pod(spec, container);
            assert!(matches!(&found[..], [one] if one.contains(expected)), "{spec}{container}: {found:?}");
        }
        let found = warnings(
            "backend: kubernetes\nkubernetes: {connection: {host: a}, pod: {spec: {containers: [{image: a}]}}}",
        );
        assert!(matches!(&found[..], [one] if one.contains("no memory limit")), "{found:?}");
    }
}
