//! Pods as typed.

use super::*;
use crate::config::parse;
use crate::config::tests::place;

fn pod(pod: &str) -> Result<crate::config::Config, Vec<String>> {
    let text = format!("backend: kubernetes\nkubernetes:\n  pod:\n    {}\n", pod.replace('\n', "\n    "));
    let strip = |error: crate::config::Error| error.to_string().split_once(':').unwrap().1.to_owned();
    parse(&text, &place()).map_err(|errors| errors.into_iter().map(strip).collect())
}

fn spec(more: &str) -> Json {
    let text = format!("spec: {{containers: [{{image: a, resources: {{limits: {{memory: 1Gi}}}}}}], {more}}}");
    let config = pod(&text).unwrap_or_else(|errors| panic!("{more}: {errors:?}"));
    let mut spec = Json::Object(config.kubernetes.spec);
    spec.as_object_mut().unwrap().remove("containers");
    spec
}

#[test]
fn every_type_is_in_the_table() {
    for (name, fields) in objects() {
        for (field, kind) in fields {
            let bare = kind.trim_start_matches("[]").trim_start_matches("map:");
            let known = !matches!(Type::of(bare), Type::Any) || bare == "FieldsV1";
            assert!(known, "{name}.{field}: {kind}");
        }
    }
    assert!(objects().len() > 100 && matches!(Type::of("PodSpec"), Type::Object(..)));
}

#[test]
fn what_is_plain_has_the_type_of_its_field() {
    let config = pod(
        "metadata: {labels: {app: 1, v: 1.10, b: true}, annotations: {a: 0755}, creationTimestamp: null}\n\
         spec:\n  shareProcessNamespace: no\n  hostNetwork: off\n  activeDeadlineSeconds: 100\n  containers:\n  \
         - image: a\n    env: [{name: PORT, value: 8080}, {name: B, value: true}, {name: E, value: {env: HOME}}, {name: Y, value: yes}]\n    \
           command: [sleep, 5]\n    \
           resources: {limits: {cpu: 1, memory: 0x10}, requests: {cpu: 0.5}}\n    \
           livenessProbe: {httpGet: {port: 80}, periodSeconds: 3}\n    \
           readinessProbe: {httpGet: {port: http}}\n  \
           volumes: [{name: c, configMap: {name: 5, defaultMode: 0755}}]",
    );
    let kubernetes = config.unwrap_or_else(|errors| panic!("{errors:?}")).kubernetes;
    assert_eq!(
        json!(kubernetes.metadata),
        json!({"labels": {"app": "1", "v": "1.10", "b": "true"}, "annotations": {"a": "0755"}, "creationTimestamp": null})
    );
    let home = std::env::var("HOME").unwrap();
    assert_eq!(
        json!(kubernetes.spec),
        json!({
            "shareProcessNamespace": false, "hostNetwork": false, "activeDeadlineSeconds": 100,
            "containers": [{
                "image": "a",
                "env": [
                    {"name": "PORT", "value": "8080"}, {"name": "B", "value": "true"}, {"name": "E", "value": home},
                    {"name": "Y", "value": "yes"},
                ],
                "command": ["sleep", "5"],
                "resources": {"limits": {"cpu": "1", "memory": "16"}, "requests": {"cpu": "0.5"}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3},
                "readinessProbe": {"httpGet": {"port": "http"}},
            }],
            "volumes": [{"name": "c", "configMap": {"name": "5", "defaultMode": 493}}],
        })
    );
}

#[test]
fn what_is_of_another_type_is_an_error_with_path_and_line() {
    for (field, expected) in [
        ("hostNetwork: 'true'", "hostNetwork: must be true or false, without quotes"),
        ("hostNetwork: 1", "hostNetwork: must be true or false"),
        ("activeDeadlineSeconds: '5'", "activeDeadlineSeconds: must be a number, without quotes"),
        ("activeDeadlineSeconds: 1.5", "activeDeadlineSeconds: must be a number"),
        ("nodeName: [a]", "nodeName: must be a text, not a list"),
        ("tolerations: {key: a}", "tolerations: must be a list, not a mapping"),
        ("volumes: [{name: a, emptyDir: x}]", "volumes[0].emptyDir: must be a mapping of keys to values"),
        ("nodeSelector: {a: [b]}", "nodeSelector.a: must be a text, not a list"),
        ("nodeName: a, nodename: b", "nodename: given twice"),
    ] {
        let errors = pod(&format!("spec: {{containers: [{{image: a}}],\n  {field}}}")).unwrap_err();
        let error = format!("5: kubernetes.pod.spec.{expected}");
        assert!(errors.iter().any(|found| found.starts_with(&error)), "{field}: {errors:?}");
    }
}

#[test]
fn an_unknown_field_is_passed_on_and_told_of() {
    let config = pod(
        "spec:\n  containers: [{image: a, resources: {limits: {memory: 1Gi}}}]\n  hostNetwrk: true\n  newer: {a: 1}",
    );
    let config = config.unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "c.yaml:6: warning: kubernetes.pod.spec.hostNetwrk: unknown field; did you mean hostNetwork?; a cluster that \
             does not know it either leaves it out",
            "c.yaml:7: warning: kubernetes.pod.spec.newer: unknown field; a cluster that does not know it either leaves \
             it out"
        ]
    );
    assert_eq!(
        (&config.kubernetes.spec["hostNetwrk"], &config.kubernetes.spec["newer"]),
        (&json!(true), &json!({"a": 1}))
    );
    assert_eq!(spec("HostNetwork: yes"), json!({"hostNetwork": true}), "as ContainerSSH takes it");
    assert!(pod("spec: {containers: [{image: a}], newer: {a: 1, a: 2}}").is_err());
}

#[test]
fn a_percent_sign_that_stands_for_nothing_is_told_of() {
    for field in [
        "volumes: [{name: h, persistentVolumeClaim: {claimName: 'home-%u'}}]",
        "volumes: [{name: h, hostPath: {path: '/srv/%u'}}]",
        "hostname: '%u'",
        "volumes: [{name: h, csi: {driver: d, volumeAttributes: {source: '//s/%u'}}}]",
    ] {
        let errors = pod(&format!("spec: {{containers: [{{image: a}}],\n  {field}}}")).unwrap_err();
        let found = errors.iter().any(|error| error.starts_with("5: ") && error.contains("% stands for nothing here"));
        assert!(found, "{field}: {errors:?}");
    }
    let mount = "spec: {containers: [{image: a, volumeMounts: [{name: h, mountPath: /h, subPath: '%u'}]}]}";
    assert!(pod(mount).unwrap_err().concat().contains("volumeMounts[0].subPath: % stands for nothing here"));
    for metadata in ["namespace: 'ns-%u'", "generateName: '%u-'", "labels: {a: '%u'}"] {
        let errors = pod(&format!("metadata: {{{metadata}}}\nspec: {{containers: [{{image: a}}]}}"));
        assert!(errors.is_err(), "{metadata}");
    }
    assert_eq!(
        spec("volumes: [{name: h, hostPath: {path: '/srv/100%%'}}]")["volumes"][0]["hostPath"]["path"],
        "/srv/100%"
    );
    let meant = "metadata: {annotations: {a: '%u'}}\nspec: {containers: [{image: a, resources: {limits: {memory: 1Gi}}, \
        command: [date, +%u], env: [{name: A, value: '%u'}]}]}";
    let warnings = pod(meant).unwrap().warnings;
    assert!(
        warnings.len() == 2 && warnings.iter().all(|one| one.message.starts_with("%u is passed on")),
        "{warnings:?}"
    );
}

#[test]
fn an_answer_goes_over_what_is_there() {
    let config = pod("metadata: {labels: {a: x, b: x}}\nspec: {containers: [{image: a}], nodeName: n}").unwrap();
    let answer = json!({"kubernetes": {"pod": {
        "metadata": {"labels": {"b": 2}}, "spec": {"hostname": "100%", "containers": [{"image": "b"}]},
    }}});
    let pod = config.with_answer("alice", &answer).unwrap_or_else(|errors| panic!("{errors:?}")).kubernetes;
    assert_eq!(json!(pod.metadata), json!({"labels": {"a": "x", "b": "2"}}));
    assert_eq!(json!(pod.spec), json!({"containers": [{"image": "b"}], "nodeName": "n", "hostname": "100%"}));
}

#[test]
fn the_schema_has_every_type() {
    let definitions = definitions();
    assert_eq!(definitions.len(), objects().len());
    assert_eq!(definitions["PodSpec"]["properties"]["containers"]["items"]["$ref"], "#/$defs/Container");
}
