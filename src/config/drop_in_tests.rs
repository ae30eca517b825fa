//! Configurations of ContainerSSH's.

use super::*;

/// All sections and keys of ContainerSSH 0.6, with the values that it writes where nothing was set.
const ALL: &str = r#"
ssh: {listen: "0.0.0.0:2222", serverVersion: SSH-2.0-ContainerSSH, ciphers: [aes256-ctr], kex: [ecdh-sha2-nistp256],
  macs: [hmac-sha2-256], banner: "", hostkeys: [key], clientAliveInterval: 0s, clientAliveCountMax: 3}
configserver: {url: "", allowRedirects: false, timeout: 2s, cacert: "", cert: "", key: "", tlsVersion: "1.3",
  curves: [x25519], cipher: [TLS_AES_128_GCM_SHA256], transmitSensitiveMetadata: false}
auth:
  password: {method: "", webhook: {url: "", allowRedirects: false, timeout: 2s, cacert: "", cert: "", key: "",
      tlsVersion: "1.3", curves: [x25519], cipher: [TLS_AES_128_GCM_SHA256], authTimeout: 1m0s},
    kerberos: {keytab: /k, acceptor: any, enforceUsername: true, credentialCachePath: /c, configPath: /f, clockSkew: 5m}}
  publicKey: {method: "", webhook: {url: ""}}
  keyboardInteractive: {method: "", oauth2: {redirect: {listen: "0.0.0.0:8080", key: "", webroot: ""}, clientId: "",
      clientSecret: "", provider: "", github: {url: "https://github.com", require2FA: false, timeout: 10s},
      oidc: {url: "", deviceFlow: false, usernameField: sub}, generic: {tokenEndpoint: {url: ""}}, qrCodeClients: [],
      deviceFlowClients: [], authTimeout: 2m0s}}
  gssapi: {method: "", kerberos: {keytab: /etc/krb5.keytab}}
  authz: {method: "", webhook: {url: ""}}
  authTimeout: 1m0s
  url: ""
  allowRedirects: false
  timeout: 2s
  cacert: ""
  tlsVersion: "1.3"
  curves: "x25519:secp256r1"
  cipher: "TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES128-GCM-SHA256"
  pubkey: null
log: {level: notice, format: ljson, destination: stdout, file: /var/log/x.log, syslog: {destination: /dev/log,
    facility: auth, tag: ContainerSSH, pid: false}}
metrics: {listen: "0.0.0.0:9100", key: "", cert: "", clientcacert: "", tlsVersion: "1.3", curves: [x25519],
  cipher: [TLS_AES_128_GCM_SHA256], enable: false, path: /metrics}
geoip: {provider: dummy, maxmind-geoip2-file: /var/lib/GeoIP/GeoIP2-Country.mmdb}
audit: {enable: false, format: none, storage: none, file: {directory: /var/log/audit}, s3: {local: /a, bucket: "",
    uploadPartSize: 5242880, metadata: {ip: false, username: false}}, intercept: {stdin: false, forwarding: false}}
health: {enable: false, listen: "0.0.0.0:7000", client: {url: "http://127.0.0.1:7000/", timeout: 2s}}
security: {defaultMode: "", forceCommand: "", env: {mode: "", allow: [], deny: []}, command: {mode: "", allow: []},
  shell: {mode: ""}, subsystem: {mode: "", allow: [], deny: []}, tty: {mode: ""}, signal: {mode: "", allow: [], deny: []},
  forwarding: {reverseForwardingMode: disable, forwardingMode: disable, socketForwardingMode: disable,
    socketListenMode: disable, x11ForwardingMode: disable}, maxSessions: -1}
backend: docker
docker:
  connection: {host: "unix:///var/run/docker.sock", cacert: "", cert: "", key: ""}
  execution:
    container: {hostname: "", attachstdin: false, exposedports: {}, env: [], cmd: [], healthcheck: null, image: guest,
      volumes: {}, entrypoint: [], labels: {}, stoptimeout: null, shell: []}
    host: null
    network: null
    platform: null
    containername: ""
    auth: null
    mode: connection
    idleCommand: [/usr/bin/containerssh-agent, wait-signal, --signal, INT, --signal, TERM]
    shellCommand: [/bin/bash]
    agentPath: /usr/bin/containerssh-agent
    disableAgent: false
    subsystems: {sftp: /usr/lib/openssh/sftp-server}
    imagePullPolicy: IfNotPresent
    exposeAuthMetadataAsEnv: false
  timeouts: {containerStart: 1m0s, containerStop: 1m0s, commandStart: 1m0s, signal: 1m0s, window: 1m0s, http: 15s}
kubernetes:
  connection: {host: kubernetes.default.svc, path: /api, username: "", password: "", serverName: "", certFile: "",
    keyFile: "", cacertFile: "", cert: "", key: "", cacert: "", bearerToken: "", bearerTokenFile: "", qps: 5, burst: 10}
  pod:
    metadata: {namespace: default, generateName: containerssh-, creationTimestamp: null}
    spec: {containers: [{name: shell, image: containerssh/containerssh-guest-image, resources: {}}]}
    consoleContainerNumber: 0
    idleCommand: [/usr/bin/containerssh-agent, wait-signal, --signal, INT, --signal, TERM]
    shellCommand: [/bin/bash]
    agentPath: /usr/bin/containerssh-agent
    disableAgent: false
    subsystems: {sftp: /usr/lib/openssh/sftp-server}
    mode: connection
    createMissingPods: false
    exposeAuthMetadataAsEnv: {}
    exposeAuthMetadataAsLabels: {}
    exposeAuthMetadataAsAnnotations: {}
  timeouts: {podStart: 1m0s, podStop: 1m0s, commandStart: 1m0s, signal: 1m0s, window: 1m0s, http: 15s}
sshproxy: {server: "", port: 22, usernamePassThrough: false, username: "", password: "", privateKey: "",
  allowedHostKeyFingerprints: [], ciphers: [aes256-ctr], kex: [], macs: [], hostKeyAlgos: [ssh-rsa], timeout: 1m0s,
  clientVersion: SSH-2.0-ContainerSSH}
"#;

fn warnings(lines: &str) -> Vec<String> {
    good(lines).warnings.iter().map(|warning| warning.to_string().split_once(':').unwrap().1.to_owned()).collect()
}

#[test]
fn all_that_it_writes_where_nothing_was_set_is_good() {
    let config = parse(ALL, &place()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let keys: Vec<&str> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "docker.execution.host",
            "docker.execution.agentPath",
            "docker.timeouts.commandStart",
            "docker.timeouts.signal",
            "docker.timeouts.window",
            "kubernetes.pod.agentPath",
            "kubernetes.timeouts.commandStart",
            "kubernetes.timeouts.signal",
            "kubernetes.timeouts.window"
        ]
    );
}

#[test]
fn an_unknown_key_is_an_error_in_every_section() {
    for (line, meant) in [
        ("audit: {s3: {buckt: x}}", "audit.s3.buckt: unknown key; did you mean bucket?"),
        ("metrics: {enabel: false}", "metrics.enabel: unknown key; did you mean enable?"),
        ("health: {client: {ur: x}}", "health.client.ur: unknown key; did you mean url?"),
        (
            "sshproxy: {usernamePassthrough: true}",
            "sshproxy.usernamePassthrough: unknown key; did you mean usernamePassThrough?",
        ),
        (
            "auth: {password: {kerberos: {keytabs: x}}}",
            "auth.password.kerberos.keytabs: unknown key; did you mean keytab?",
        ),
        (
            "auth: {keyboardInteractive: {oauth2: {oidc: {devicFlow: x}}}}",
            "auth.keyboardInteractive.oauth2.oidc.devicFlow: unknown key; did you mean deviceFlow?",
        ),
        ("configserver: {ulr: x}", "configserver.ulr: unknown key; did you mean url?"),
    ] {
        assert_eq!(error(line), format!("2: {meant}"));
    }
}

#[test]
fn what_asks_for_something_that_is_not_there_is_refused_with_the_reason() {
    for (line, start) in [
        ("audit: {enable: true}", "audit.enable: audit logs are not available"),
        ("metrics: {enable: true, cert: a}", "metrics.cert: berth serves this page without TLS"),
        ("health: {enable: true, clientcacert: a}", "health.clientcacert: berth serves this page without TLS"),
        ("auth: {gssapi: {method: kerberos}}", "auth.gssapi.method: Kerberos is not available"),
        ("auth: {password: {method: kerberos}}", "auth.password.method: kerberos is not available"),
        (
            "auth: {password: {method: webhook, webhook: {url: 'http://a', allowRedirects: true}}}",
            "auth.password.webhook.allowRedirects: redirects",
        ),
        ("docker: {execution: {containername: x}}", "docker: given twice"),
    ] {
        let message = error(line);
        assert!(message.starts_with(&format!("2: {start}")), "{message}");
    }
}

#[test]
fn switches_may_be_in_the_words_of_yaml_1_1() {
    let metrics =
        |word: &str| with(&format!("metrics: {{enable: {word}}}")).map(|config| config.monitoring.metrics.is_some());
    for (words, expected) in [("true yes Yes YES on On y", true), ("false no No NO off OFF n", false)] {
        for word in words.split(' ') {
            assert_eq!(metrics(word), Ok(expected), "{word}");
        }
    }
    for bad in ["'yes'", "yEs", "1", "maybe"] {
        assert!(metrics(bad).is_err(), "{bad}");
    }
    assert_eq!(json!(docker("host: {privileged: off}").unwrap().host_config), json!({"Privileged": false}));
    // What asks for nothing is no request for what is not there.
    assert_eq!(warnings("audit: {enable: no}"), [""; 0]);
    // A text stays one.
    let labels =
        parse("docker: {execution: {container: {image: a, labels: {a: no}}}}", &place()).unwrap().docker.container;
    assert_eq!(labels["Labels"], json!({"a": "no"}));
}

#[test]
fn mappings_may_be_merged() {
    let config = good(
        "auth:\n  users:\n    a: &a {authenticationMethods: [password], totp: &totp {digits: 8}}\n    b: {<<: *a}\n    \
         c: {<<: *a, totp: {<<: *totp, period: 60s}}",
    );
    let c = &config.users["c"];
    assert_eq!((c.totp.digits, c.totp.period, c.authentication_methods.len()), (8, Duration::from_secs(60), 1));
    assert_eq!(config.users["b"].totp.digits, 8);
    assert!(error("auth: {users: {<<: 1}}").contains("<< takes a mapping"));
}

#[test]
fn deprecated_keys_do_what_they_did_and_warn() {
    assert_eq!(warnings("listen: 127.0.0.1:5"), ["2: warning: listen: deprecated: use ssh.listen"]);
    assert_eq!(good("listen: 127.0.0.1:5").ssh.listen, ["127.0.0.1:5".parse().unwrap()]);
    // Wherever it stands, the new key goes over the old one.
    assert_eq!(good("ssh: {listen: 127.0.0.1:6}\nlisten: 127.0.0.1:5").ssh.listen, ["127.0.0.1:6".parse().unwrap()]);
    let text =
        "backend: dockerrun\ndockerrun: {host: 'unix:///s', config: {container: {image: old, user: 1}, timeout: 5s}}";
    let config = parse(text, &place()).unwrap();
    assert_eq!((config.docker.mode, &config.docker.container["Image"]), (ExecutionMode::Session, &json!("old")));
    assert_eq!(config.docker.connection.host, "unix:///s");
    assert_eq!(config.warnings[0].to_string(), "c.yaml:2: warning: dockerrun: deprecated: use docker");
}

#[test]
fn a_webhook_has_a_server_times_and_tls() {
    let config = good(
        "auth: {password: {method: webhook, webhook: {url: 'https://[::1]:8443/a', timeout: 5s, authTimeout: 30s, \
         tlsVersion: '1.2', cipher: 'TLS_AES_256_GCM_SHA384:TLS_ECDHE_RSA_AES_128_GCM_SHA256', curves: x25519}}}",
    );
    let webhook = config.webhooks.password.unwrap();
    let server = &webhook.server;
    assert_eq!((server.timeout, webhook.time), (Duration::from_secs(5), Duration::from_secs(30)));
    assert_eq!((server.url.as_str(), server.path.as_str()), ("https://[::1]:8443/a", "/a"));
    assert!(
        matches!(&server.address, crate::http::Address::Tcp { host, port: 8443, tls: Some(_), .. } if host == "::1")
    );
    assert!(config.webhooks.public_key.is_none() && config.webhooks.authorization.is_none());
}

#[test]
fn the_flat_form_is_for_passwords_and_keys_unless_one_is_off() {
    let who = |lines: &str| {
        let webhooks = good(lines).webhooks;
        (webhooks.password.map(|webhook| webhook.server.url), webhooks.public_key.map(|webhook| webhook.server.url))
    };
    let url = || Some("https://flat".to_owned());
    assert_eq!(who("auth: {url: 'https://flat'}"), (url(), url()));
    assert_eq!(who("auth: {url: 'https://flat', password: false}"), (None, url()));
    assert_eq!(who("auth: {url: 'https://flat', pubkey: false}"), (url(), None));
    let new = "auth: {url: 'https://flat', password: {method: webhook, webhook: {url: 'https://new'}}}";
    assert_eq!(who(new), (Some("https://new".to_owned()), url()));
    assert_eq!(warnings(new), ["2: warning: auth.url: deprecated: use password.webhook and publicKey.webhook"]);
    assert_eq!(
        warnings("auth: {authz: {webhook: {url: 'https://a'}}}"),
        ["2: warning: auth.authz.webhook: has no effect without method: webhook beside it"]
    );
}

#[test]
fn without_tls_only_this_host_is_asked_unless_it_is_said() {
    let of = |keys: &str| with(&format!("auth: {{password: {{method: webhook, webhook: {{{keys}}}}}}}"));
    for host in ["127.0.0.1:8080", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]:80", "localhost/a", "LocalHost"] {
        assert!(of(&format!("url: 'http://{host}'")).is_ok(), "{host}");
    }
    for host in ["10.0.0.1", "0.0.0.0", "[::2]", "localhost.a", "authconfig:8080"] {
        assert!(of(&format!("url: 'http://{host}'")).is_err(), "{host}");
        assert!(of(&format!("url: 'http://{host}', allowInsecure: true")).is_ok(), "{host}");
        assert!(of(&format!("url: 'https://{host}'")).is_ok(), "{host}");
    }
    for (lines, key) in [
        ("configserver: {url: 'http://a'}", "configserver.url"),
        ("auth: {url: 'http://a'}", "auth.url"),
        (
            "auth: {keyboardInteractive: {method: oauth2, oauth2: {clientId: a, clientSecret: b, provider: oidc, \
             oidc: {url: 'http://a', deviceFlow: true}}}}",
            "auth.keyboardInteractive.oauth2.oidc.url",
        ),
    ] {
        let found = errors(lines).concat();
        assert!(found.contains(&format!("{key}: without TLS")) && found.contains("allowInsecure"), "{found}");
    }
}

#[test]
fn what_is_wrong_with_a_webhook_is_told_by_key() {
    let of = |keys: &str| error(&format!("auth: {{publicKey: {{method: webhook, webhook: {{{keys}}}}}}}"));
    for (keys, start) in [
        ("", "url: missing"),
        ("url: 'ftp://a'", "url: must be a URL"),
        ("url: 'http://user:password@a'", "url: must be a URL"),
        ("url: 'http://a/?b'", "url: must be a URL"),
        ("url: 'http://a'", "url: without TLS"),
        ("url: 'http://127.0.0.1.a'", "url: without TLS"),
        ("url: 'https://a', cert: missing.pem", "cert: /etc/berth/missing.pem: No such file"),
        ("url: 'https://a', cacert: '-----BEGIN CERTIFICATE-----'", "cacert: the authorities' certificates are not"),
        ("url: 'https://a', cipher: TLS_NULL", "cipher: must be one of"),
        ("url: 'https://a', tlsVersion: 1.1", "tlsVersion: must be 1.2 or 1.3"),
        ("url: 'https://a', timeout: 1ms", "timeout: must be a time"),
    ] {
        let message = of(keys);
        assert!(message.starts_with(&format!("2: auth.publicKey.webhook.{start}")), "{keys}: {message}");
        assert!(!message.contains("password@"), "{message}");
    }
}

#[test]
fn values_may_stand_in_the_environment_and_in_files() {
    let home = std::env::var("PATH").unwrap();
    assert_eq!(good("ssh: {banner: {env: PATH}}").ssh.banner, Some(home));
    let file = std::env::temp_dir().join(format!("berth-config-value-{}", std::process::id()));
    std::fs::write(&file, "17\r\n").unwrap();
    let line = format!("ssh: {{maxStartups: {{file: '{}'}}}}\ndocker: {{}}", file.display());
    let config = parse(
        &format!(
            "{}\n",
            line.replace("docker: {}", "docker: {execution: {container: {image: {file: IMAGE}}}}")
                .replace("IMAGE", file.to_str().unwrap())
        ),
        &place(),
    )
    .unwrap();
    assert_eq!((config.ssh.max_startups.full, &config.docker.container["Image"]), (17, &json!("17")));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        error("ssh: {banner: {env: BERTH_NO_SUCH_VARIABLE}}"),
        "2: ssh.banner: there is no variable BERTH_NO_SUCH_VARIABLE in the environment"
    );
    assert!(
        error("ssh: {banner: {file: /no/such/file}}")
            .starts_with("2: ssh.banner: \"/no/such/file\" cannot be read: No such file")
    );
    assert!(error("ssh: {banner: {fiel: x}}").ends_with("not a mapping"));
}

#[test]
fn keys_are_explained_in_the_words_of_the_reference() {
    let explained = explain("ssh.loginGraceTime").unwrap();
    assert_eq!(
        explained,
        "ssh.loginGraceTime\n    A client has this long to log in, and this many attempts.\n    Must be a time from 1s to \
         1h, such as 90s or 1m30s.\n\n    loginGraceTime: 2m\n"
    );
    for (key, word) in [
        ("ssh", "Keys: "),
        ("auth.users.bob.password", "berth keygen"),
        ("auth.authz.webhook.url", "/authz"),
        ("docker.execution.host.memory", "512m"),
        ("docker.execution.container", "image"),
        ("kubernetes.pod.spec", "containers"),
        ("kubernetes.pod.spec.containers.env.value", "a text"),
        ("kubernetes.pod.spec.hostNetwork", "true or false"),
        ("kubernetes.pod.metadata.labels", "a mapping"),
        ("audit.enable", "not available"),
        ("listen", "deprecated: use ssh.listen"),
    ] {
        let text = explain(key).unwrap_or_else(|error| panic!("{error}"));
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(explain("ssh.listn").unwrap_err(), "unknown key ssh.listn; did you mean listen?");
    assert_eq!(
        explain("docker.execution.host.memry").unwrap_err(),
        "unknown key docker.execution.host.memry; did you mean memory?"
    );
}

#[test]
fn every_key_is_explained() {
    for key in keys() {
        let text = explain(&key.replace('*', "alice")).unwrap_or_else(|error| panic!("{error}"));
        assert!(text.lines().count() >= 2, "{text}");
    }
}

#[test]
fn a_default_mode_is_for_forwarding_too_but_what_is_enabled_there() {
    let forwarding = |lines: &str| {
        let forwarding = good(&format!("security: {{{lines}}}")).forwarding.everyone;
        (forwarding.connect, forwarding.listen, forwarding.listen_unix)
    };
    assert_eq!(forwarding("defaultMode: enable"), (true, true, true));
    // Wherever it stands.
    assert_eq!(forwarding("forwarding: {forwardingMode: enable}, defaultMode: disable"), (true, false, false));
    assert_eq!(forwarding("defaultMode: filter"), (false, false, false));
    assert_eq!(forwarding("forwarding: {reverseForwardingMode: filter}"), (true, false, true));
}

#[test]
fn a_login_by_a_browser_is_as_safe_as_what_looks_at_its_names() {
    let browser = |keys: &str, more: &str| {
        with(&format!(
            "auth: {{{more}keyboardInteractive: {{method: oauth2, oauth2: {{clientId: a, clientSecret: b, {keys}}}}}}}"
        ))
        .map(|config| config.webhooks.browser.unwrap())
        .map_err(|errors| format!("{}: {}", errors[0].key, errors[0].message))
    };
    let authz = "authz: {method: webhook, webhook: {url: 'https://a'}}, ";
    let oidc = "provider: oidc, oidc: {url: 'https://i', deviceFlow: true}";
    assert!(browser(oidc, "").unwrap().enforce_username && !browser(oidc, authz).unwrap().enforce_username);
    assert!(browser("provider: github", authz).unwrap().enforce_username);
    let generic = "provider: generic, generic: {authorizeEndpointURL: 'https://a/b?c', redirectURI: 'https://d/', \
                   tokenEndpoint: {url: 'https://e'}}";
    assert!(browser(generic, authz).unwrap().redirect.is_some());
    assert!(browser(oidc, "").unwrap().redirect.is_none());
    for (keys, key) in [
        (generic, "provider"),
        ("", "provider"),
        ("provider: oidc, oidc: {url: 'https://i'}", "oidc"),
        ("provider: oidc, oidc: {url: 'https://i', authorizationCodeFlow: true}", "oidc.redirectURI"),
        ("provider: oidc, oidc: {deviceFlow: true}", "oidc.url"),
        ("provider: github, github: {apiurl: 'http://a'}", "github.apiurl"),
        ("provider: github, redirect: {cert: a}", "redirect.cert"),
    ] {
        let error = browser(keys, "").unwrap_err();
        assert!(error.starts_with(&format!("auth.keyboardInteractive.oauth2.{key}: ")), "{keys}: {error}");
    }
    assert!(!format!("{:?}", browser(oidc, "")).contains("\"b\""));
}
