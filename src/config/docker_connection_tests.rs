//! Which daemon a configuration and an environment lead to.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::{Config, Error, Place, parse};

/// A directory of a test's own. Removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-contexts-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// As `docker context create` does it.
    fn context(&self, name: &str, endpoint: &str) {
        let id: String = sha256(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let json = format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{endpoint}}}}}"#);
        self.write(&format!("contexts/meta/{id}/meta.json"), &json);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What `docker.connection` holds, and the environment around it.
fn read_in(connection: &str, docker: DockerEnvironment) -> Result<DockerConnection, Vec<Error>> {
    let place = Place {
        file: "c.yaml".into(),
        directory: "/nonexistent".into(),
        host_name: "host".into(),
        run_directory: "/run/berth".into(),
        docker,
        kubernetes: Default::default(),
    };
    let text = format!("docker: {{execution: {{container: {{image: a}}}}, connection: {{{connection}}}}}");
    parse(&text, &place).map(|config: Config| config.docker.connection)
}

fn read_typed(connection: &str) -> DockerConnection {
    read_in(connection, DockerEnvironment::default()).unwrap()
}

fn error_in(connection: &str, environment: DockerEnvironment) -> String {
    let errors = read_in(connection, environment).expect_err(connection);
    assert_eq!(errors.len(), 1, "{errors:?}");
    format!("{}: {}", errors[0].key, errors[0].message)
}

/// In short.
fn shown(connection: &DockerConnection) -> String {
    match &connection.address {
        Address::Unix(path) => path.display().to_string(),
        Address::Tcp { host, port, tls, .. } => {
            format!("{host} {port}{}{}", if tls.is_some() { " TLS" } else { "" }, connection.base)
        }
    }
}

#[test]
fn a_host_is_what_docker_takes_for_one() {
    for (host, expected) in [
        ("unix:///run/d.sock", "/run/d.sock"),
        ("tcp://docker", "docker 2375"),
        ("tcp://127.0.0.1:4000", "127.0.0.1 4000"),
        ("tcp://[::1]:4000/base/", "::1 4000/base"),
        ("127.0.0.1:4000", "127.0.0.1 4000"),
        ("http://docker:80", "docker 80"),
        ("https://docker", "docker 2376 TLS"),
        ("https://docker:443/x/y", "docker 443 TLS/x/y"),
    ] {
        assert_eq!(shown(&read_typed(&format!("host: '{host}'"))), expected, "{host}");
    }
    for bad in ["unix://relative", "npipe:////./pipe/docker", "tcp://", "tcp://a:0", "tcp://a:b", "tcp://u@a"] {
        let error = error_in(&format!("host: '{bad}'"), DockerEnvironment::default());
        assert!(error.starts_with("docker.connection.host: must be a host such as unix://"), "{bad}: {error}");
    }
    let error = error_in("host: 'ssh://docker'", DockerEnvironment::default());
    assert!(error.starts_with("docker.connection.host: ssh:// is not available"), "{error}");
}

#[test]
fn anything_about_tls_makes_tcp_tls() {
    assert_eq!(shown(&read_typed("host: 'tcp://docker', skipTLSVerify: true")), "docker 2376 TLS");
    assert_eq!(shown(&read_typed("host: 'tcp://docker:1', serverName: other")), "docker 1 TLS");
    assert_eq!(shown(&read_typed("host: 'tcp://docker', skipTLSVerify: false")), "docker 2375");
    let error = |connection| error_in(connection, DockerEnvironment::default());
    assert_eq!(
        error("host: 'http://docker', serverName: other"),
        "docker.connection.host: http:// is without TLS; use https:// or tcp://"
    );
    let useless = "the rest of the section is about TLS, which unix:///var/run/docker.sock does not speak";
    assert_eq!(error("serverName: other"), format!("docker.connection.host: {useless}"));
}

#[test]
fn what_is_wrong_with_certificates_and_keys_is_told_by_key() {
    let error = |connection: &str| error_in(&format!("host: 'tcp://d', {connection}"), DockerEnvironment::default());
    assert_eq!(error("cacert: x"), "docker.connection.cacert: must be certificates or a key in PEM");
    assert!(error("cacert: '-----BEGIN X'").starts_with("docker.connection.cacert: the authorities' certificates are"));
    assert_eq!(
        error("certFile: c.pem"),
        "docker.connection.certFile: /nonexistent/c.pem: No such file or directory (os error 2)"
    );
    assert_eq!(error("key: '-----BEGIN X', keyFile: k"), "docker.connection.keyFile: give either key or keyFile");
    assert_eq!(error("key: '-----BEGIN X'"), "docker.connection: a private key needs its certificate");
    // And no key is ever shown.
    assert!(!error("key: '-----BEGIN SECRET', cert: '-----BEGIN X'").contains("SECRET"));
}

#[test]
fn without_a_host_and_a_context_the_environment_decides() {
    let environment = |host: Option<&str>| DockerEnvironment {
        host: host.map(str::to_owned),
        certificates: "/nonexistent".into(),
        ..DockerEnvironment::default()
    };
    let read = |environment| shown(&read_in("", environment).unwrap());
    assert_eq!(read(environment(None)), "/var/run/docker.sock");
    assert_eq!(read(environment(Some("tcp://docker"))), "docker 2375");
    assert_eq!(read(DockerEnvironment { tls_verify: true, ..environment(Some("tcp://docker")) }), "docker 2376 TLS");
    // The socket needs none of it.
    assert_eq!(read(DockerEnvironment { tls_verify: true, ..environment(None) }), "/var/run/docker.sock");
    // A host in the configuration is all there is.
    let all = DockerEnvironment { tls_verify: true, context: Some("x".into()), ..environment(Some("tcp://docker")) };
    assert_eq!(shown(&read_in("host: 'tcp://other'", all).unwrap()), "other 2375");
    let error = error_in("", environment(Some("nonsense://")));
    assert!(error.starts_with("docker.connection: DOCKER_HOST: must be a host"), "{error}");
}

#[test]
fn a_context_is_found_by_its_name() {
    let directory = Directory::new();
    let environment = |context: Option<&str>, host: Option<&str>| DockerEnvironment {
        context: context.map(str::to_owned),
        host: host.map(str::to_owned),
        directory: directory.0.clone(),
        ..DockerEnvironment::default()
    };
    directory.context("remote", r#"{"Host":"tcp://docker:4000","SkipTLSVerify":true}"#);
    directory.context("local", r#"{"Host":"unix:///run/local.sock","SkipTLSVerify":false}"#);
    directory.context("hollow", "{}");
    let typed = |context: &str| read_in(&format!("context: {context}"), environment(None, None));
    assert_eq!(shown(&typed("remote").unwrap()), "docker 4000 TLS");
    assert_eq!(shown(&typed("local").unwrap()), "/run/local.sock");
    assert_eq!(shown(&typed("default").unwrap()), "/var/run/docker.sock");
    assert!(typed("hollow").unwrap_err()[0].message.ends_with("it has no endpoint for Docker"));
    let missing = typed("missing").unwrap_err().remove(0);
    assert_eq!(missing.key, "docker.connection.context");
    assert!(missing.message.starts_with("no context \"missing\" in "), "{missing}");
    assert!(typed("../remote").is_err());
    // DOCKER_HOST goes before DOCKER_CONTEXT.
    assert_eq!(shown(&read_in("", environment(Some("remote"), None)).unwrap()), "docker 4000 TLS");
    assert_eq!(shown(&read_in("", environment(Some("remote"), Some("tcp://other"))).unwrap()), "other 2375");
    let both = error_in("context: remote, host: 'tcp://a'", environment(None, None));
    assert_eq!(both, "docker.connection.context: give either a host or a context");
    let more = error_in("context: remote, serverName: a", environment(None, None));
    assert!(more.contains("a context has its own certificates"), "{more}");
}

#[test]
fn the_apis_version_may_be_set() {
    let environment = |version: &str| DockerEnvironment { api_version: Some(version.into()), ..Default::default() };
    assert_eq!(read_in("", environment("1.41")).unwrap().api_version.as_deref(), Some("1.41"));
    for bad in ["latest", "1", "1.x", "1.-1"] {
        let error = error_in("", environment(bad));
        assert!(error.starts_with("docker.connection: DOCKER_API_VERSION: "), "{error}");
    }
}
