use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// A plugin that is this shell script.
fn script(text: &str) -> Plugin {
    Plugin {
        version: ApiVersion::V1,
        command: "sh".into(),
        arguments: vec!["-c".into(), text.into()],
        environment: vec![("COLOUR".into(), "red".into())],
        install_hint: Some("get a shell".into()),
        wants_cluster: true,
    }
}

fn status(status: &str) -> String {
    format!(
        "{{\"kind\": \"ExecCredential\", \"apiVersion\": \"client.authentication.k8s.io/v1\", \"status\": {status}}}"
    )
}

fn run(text: &str) -> Result<Grant, String> {
    script(text).run(&json!({"server": "https://api"})).map_err(|error| error.to_string())
}

#[test]
fn a_plugin_gives_a_token_and_its_end() {
    let grant = run(&format!("echo '{}'", status(r#"{"token": "t", "expirationTimestamp": "1970-01-01T00:01:00Z"}"#)));
    let grant = grant.unwrap();
    assert_eq!((grant.token.as_deref(), &grant.identity), (Some("t"), &None));
    assert_eq!(grant.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60) - MARGIN));
}

#[test]
fn a_plugin_may_give_a_certificate() {
    let both = status(r#"{"clientCertificateData": "cert", "clientKeyData": "key"}"#);
    assert_eq!(run(&format!("echo '{both}'")).unwrap().identity, Some((b"cert".to_vec(), b"key".to_vec())));
    let half = status(r#"{"clientCertificateData": "cert"}"#);
    assert!(run(&format!("echo '{half}'")).err().unwrap().contains("certificate without a key"));
}

#[test]
fn a_plugin_is_told_what_it_may_know() {
    // The token says what the environment was.
    let token = run(&format!(
        "printf '%s' '{}' | sed \"s/TOKEN/$COLOUR $(printf '%s' \"$KUBERNETES_EXEC_INFO\" | tr -d '\"/')/\"",
        status(r#"{"token": "TOKEN"}"#)
    ));
    let token = token.unwrap().token.unwrap();
    for part in ["red ", "kind:ExecCredential", "apiVersion:client.authentication.k8s.iov1", "interactive:false"] {
        assert!(token.contains(part), "{token}");
    }
    assert!(token.contains("cluster:{server:https:api}"), "{token}");
}

#[test]
fn what_a_plugin_complains_of_is_told() {
    let error = run("echo no such account >&2; exit 3").err().unwrap();
    assert!(error.contains("exit status: 3") && error.contains("no such account"), "{error}");
    let error = run("echo secret").err().unwrap();
    assert!(error.contains("not JSON") && !error.contains("secret"), "{error}");
    assert!(run(&format!("echo '{}'", status("{}"))).err().unwrap().contains("neither a token nor a certificate"));
    assert!(run("echo '{}'").err().unwrap().contains("no ExecCredential"));
    let missing = Plugin { command: "/nonexistent/login".into(), ..script("") };
    assert!(missing.run(&Json::Null).err().unwrap().to_string().contains("get a shell"));
}

#[test]
fn a_plugin_that_prints_for_ever_is_ended_with_all_that_it_started() {
    let begun = Instant::now();
    let error = run("sleep 1000 & exec yes").err().unwrap();
    assert!(error.contains("printed more than"), "{error}");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn much_complaint_does_not_hold_a_plugin_up() {
    let good = status(r#"{"token": "t"}"#);
    assert!(run(&format!("yes | head -c 1000000 >&2; echo '{good}'")).is_ok());
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(text in "\\PC*", kind: bool) {
        let answer = serde_json::from_str(&text).unwrap_or_else(|_| json!({"status": {"token": text}}));
        let mut answer: Json = answer;
        if kind && answer.is_object() {
            answer["kind"] = "ExecCredential".into();
            answer["apiVersion"] = "client.authentication.k8s.io/v1".into();
        }
        let _ = script("").grant(&answer);
    }
}
