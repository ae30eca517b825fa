use proptest::prelude::*;

use super::*;

/// Merges these texts, as files in `/etc/a`, `/etc/b` and so on.
fn merged(texts: &[&str]) -> Result<Kubeconfig, Error> {
    let mut all = Kubeconfig::default();
    for (text, directory) in texts.iter().zip('a'..) {
        all.add(Path::new(&format!("/etc/{directory}/config")), text.as_bytes())?;
    }
    Ok(all)
}

fn access(text: &str) -> Result<Access, Error> {
    merged(&[text])?.access(None)
}

/// A whole kubeconfig with this in its user and in its cluster.
fn with(user: &str, cluster: &str) -> Result<Access, Error> {
    access(&format!(
        "{{current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}],
        clusters: [{{name: k, cluster: {{server: 'https://api:6443', {cluster}}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
    ))
}

/// What is wrong with it.
fn error(user: &str, cluster: &str) -> String {
    match with(user, cluster) {
        Ok(_) => panic!("{user} {cluster} is good"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_current_context_says_where_and_as_whom() {
    let text = "
apiVersion: v1
kind: Config
current-context: second
contexts:
- name: first
  context: {cluster: one, user: alice}
- name: second
  context: {cluster: two, user: bob, namespace: guests}
clusters:
- name: one
  cluster: {server: https://one}
- name: two
  cluster: {server: https://two:6443/base/, tls-server-name: kubernetes, proxy-url: 'socks5://proxy:1'}
users:
- name: alice
  user: {token: aaa}
- name: bob
  user: {username: bob, password: 'pass:word'}
";
    let second = access(text).unwrap();
    assert_eq!((second.server.host.as_str(), second.server.port), ("two", 6443));
    assert_eq!((second.server.prefix.as_str(), second.root.as_str()), ("/base", "/api"));
    assert_eq!((second.server_name.as_deref(), second.namespace.as_deref()), (Some("kubernetes"), Some("guests")));
    assert!(second.credentials == Credentials::Basic { name: "bob".into(), password: "pass:word".into() });
    assert!(second.proxy.is_some() && !second.insecure && second.identity.is_none());
    let first = merged(&[text]).unwrap().access(Some("first")).unwrap();
    assert!(first.credentials == Credentials::Token("aaa".into()));
    assert_eq!(first.namespace, None);
}

#[test]
fn of_several_files_the_first_that_has_something_counts() {
    // https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/: a name's second definition
    // counts in no part, and paths are relative to their own file.
    let one =
        "{clusters: [{name: k, cluster: {server: 'https://one'}}], users: [{name: red, user: {tokenFile: token}}]}";
    let two = "{current-context: c, contexts: [{name: c, context: {cluster: k, user: blue}}],
        clusters: [{name: k, cluster: {server: 'https://two', tls-server-name: x}}],
        users: [{name: red, user: {token: no}}, {name: blue, user: {tokenFile: token}}]}";
    let three = "{current-context: other, contexts: [{name: red, context: {cluster: k, user: red}}]}";
    let all = merged(&[one, two, three]).unwrap();
    let blue = all.access(None).unwrap();
    assert_eq!((blue.server.host.as_str(), &blue.server_name), ("one", &None));
    let token = |path: &str| Credentials::TokenFile { path: path.into(), fallback: None };
    assert!(blue.credentials == token("/etc/b/token"));
    assert!(all.access(Some("red")).unwrap().credentials == token("/etc/a/token"));
}

#[test]
fn a_missing_file_counts_only_where_it_is_the_only_one() {
    let missing = PathBuf::from("/nonexistent/config");
    assert!(Kubeconfig::load(std::slice::from_ref(&missing)).is_err());
    assert!(Kubeconfig::load(&[missing.clone(), missing]).is_ok());
}

#[test]
fn certificates_stand_in_it_or_in_files_beside_it() {
    let good = with("client-certificate-data: Y2VydA==, client-key-data: a2V5", "certificate-authority-data: Y2E=");
    let good = good.unwrap();
    assert_eq!(good.authorities.as_deref(), Some(&b"ca"[..]));
    assert_eq!(good.identity, Some((b"cert".to_vec(), b"key".to_vec())));
    // Data goes before the file.
    assert!(with("", "certificate-authority: missing.crt, certificate-authority-data: Y2E=").is_ok());
    assert!(error("", "certificate-authority: missing.crt").contains("/etc/a/missing.crt"));
    assert!(error("client-certificate-data: Y2VydA==", "").contains("client-key"));
    let secret = error("client-certificate-data: Y2VydA==, client-key-data: '!secret'", "");
    assert!(secret.contains("client-key-data") && !secret.contains("!secret"), "{secret}");
}

#[test]
fn a_token_file_goes_before_a_token() {
    let both = with("tokenFile: /run/token, token: old", "").unwrap().credentials;
    assert!(both == Credentials::TokenFile { path: "/run/token".into(), fallback: Some("old".into()) });
}

#[test]
fn a_plugin_is_configured_as_for_kubectl() {
    let exec = "exec: {apiVersion: client.authentication.k8s.io/v1, command: ./login, args: [a, 'b c'],
        env: [{name: A, value: b}], installHint: install it, provideClusterInfo: true, interactiveMode: IfAvailable}";
    let cluster = "certificate-authority-data: Y2E=,
        extensions: [{name: client.authentication.k8s.io/exec, extension: {audience: 1}}]";
    let access = with(exec, cluster).unwrap();
    let Credentials::Plugin(plugin) = access.credentials else { panic!("no plugin") };
    assert_eq!((plugin.version, plugin.command.as_path()), (ApiVersion::V1, Path::new("/etc/a/./login")));
    assert_eq!(
        (plugin.arguments, plugin.environment),
        (vec!["a".into(), "b c".into()], vec![("A".into(), "b".into())])
    );
    assert!(plugin.wants_cluster);
    let expected =
        json!({"server": "https://api:6443", "certificate-authority-data": "Y2E=", "config": {"audience": 1}});
    assert_eq!(access.for_plugins, expected);
    let bare = "exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: login}";
    let Credentials::Plugin(plugin) = with(bare, "").unwrap().credentials else { panic!("no plugin") };
    assert_eq!((plugin.version, plugin.command.as_path()), (ApiVersion::V1Beta1, Path::new("login")));
    assert!(error("exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}", "").contains("apiVersion"));
    let always = "exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}";
    assert!(error(always, "").contains("interactiveMode"));
}

#[test]
fn a_user_can_act_as_another() {
    let access = with("token: t, as: bob, as-groups: [a, b], as-user-extra: {'x/y': [z]}", "").unwrap();
    let fields: Vec<_> = access.impersonate.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let expected =
        ["Impersonate-User: bob", "Impersonate-Group: a", "Impersonate-Group: b", "Impersonate-Extra-x%2Fy: z"];
    assert_eq!(fields, expected);
    assert!(with("as: \"bob\\r\\nX: y\"", "").is_err());
}

#[test]
fn what_is_wrong_is_told_with_the_file_and_the_key() {
    assert!(error("", "insecure-skip-tls-verify: maybe").contains("insecure-skip-tls-verify: must be true or false"));
    assert!(error("", "proxy-url: 'https://proxy'").contains("proxy-url"));
    assert!(error("token: a, username: b", "").contains("only one of"));
    assert!(error("auth-provider: {name: oidc}", "").contains("exec"));
    let of = |text: &str| access(text).err().unwrap().to_string();
    assert!(of("").contains("no current-context"));
    assert!(of("current-context: x").contains("no context \"x\""));
    assert!(of("{current-context: c, contexts: [{name: c, context: {cluster: k}}]}").contains("no cluster \"k\""));
    assert!(of("clusters: {}").contains("/etc/a/config: clusters must be a list"));
    assert!(of("a: [").contains("/etc/a/config: line "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = access(&text);
    }

    #[test]
    fn no_shape_makes_it_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "clusters", "users", "contexts", "current-context", "name", "cluster", "user", "context", "exec", "env",
            "server", "https://a", ":", " ", "\n", "- ", "{", "}", "[", "]", ",", "a", "\"", "'", "token", "as-groups",
        ]), 0..60),
    ) {
        let _ = access(&words.concat());
    }
}
