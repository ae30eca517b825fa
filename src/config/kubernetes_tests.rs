//! Pods in configurations.

use super::*;
use crate::config::{BackendKind, Error, Place, parse};

fn read(text: &str) -> Result<Config, Vec<Error>> {
    let place = Place {
        file: "c.yaml".into(),
        directory: "/etc/berth".into(),
        host_name: "host".into(),
        run_directory: "/run/berth".into(),
        docker: Default::default(),
        kubernetes: KubernetesEnvironment::default(),
    };
    parse(text, &place)
}

#[test]
fn users_have_pods_of_their_own() {
    const POD: &str = "backend: kubernetes\nkubernetes: {pod: {spec: {containers: \
        [{image: a, resources: {limits: {memory: 1Gi}}}]}}}\n";
    let of_sam = |text: &str| {
        let config = read(&format!("{POD}auth: {{users: {{sam: {{kubernetes: {text}}}, sue: }}}}"));
        config.map(|config| (config.for_user("sam").kubernetes, config.for_user("sue").kubernetes))
    };
    let (sam, sue) = of_sam("{pod: {spec: {containers: [{image: b}]}}, timeouts: {podStart: 9s}}").unwrap();
    assert_eq!((&sam.spec["containers"][0]["image"], sam.pod_start), (&json!("b"), Duration::from_secs(9)));
    assert_eq!((&sue.spec["containers"][0]["image"], sue.pod_start), (&json!("a"), Duration::from_secs(60)));
    for (wrong, message) in [
        ("{connection: {}}", "auth.users.sam.kubernetes.connection: unknown key"),
        ("{pod: {spec: {}}}", "auth.users.sam.kubernetes: pod.spec.containers: missing"),
    ] {
        let errors = of_sam(wrong).err().unwrap();
        assert!(errors.len() == 1 && errors[0].to_string().contains(message), "{errors:?}");
    }
}

#[test]
fn pods_that_do_not_fit_together_are_told_of() {
    let of = |pod: &str| {
        let errors = read(&format!("backend: kubernetes\nkubernetes: {{pod: {pod}}}")).err();
        errors.map_or_else(String::new, |errors| errors[0].to_string())
    };
    let spec = "spec: {containers: [{name: a, image: b}, {name: c, image: d}]}";
    for (pod, message) in [
        (format!("{{{spec}, consoleContainerName: c}}"), ""),
        (format!("{{{spec}, consoleContainerName: e}}"), "there is no container \"e\""),
        (format!("{{{spec}, consoleContainerNumber: 2}}"), "there are 2 containers"),
        (format!("{{{spec}, createMissingPods: true}}"), "is for mode: persistent"),
        (format!("{{{spec}, mode: persistent, createMissingPods: true, metadata: {{name: a}}}}"), ""),
        (
            format!("{{{spec}, mode: persistent, createMissingPods: true, metadata: {{labels: {{a: b}}}}}}"),
            "takes the pods' name",
        ),
        (
            "{mode: persistent, createMissingPods: true, metadata: {name: a}}".into(),
            "missing; name at least one container",
        ),
        ("{mode: persistent, metadata: {name: a}}".into(), ""),
        ("{mode: persistent}".into(), "kubernetes.pod.mode: persistent: which pod?"),
        ("{mode: persistent, selectablePods: [web, '%u-*']}".into(), ""),
        ("{mode: persistent, selectablePods: '100%'}".into(), "must be a text in which % stands before u alone"),
        (format!("{{{spec}, selectablePods: web}}"), "kubernetes.pod.selectablePods: is for mode: persistent"),
        (format!("{{{spec}, disableAgent: true, agentImage: a}}"), "is for the agent"),
        (format!("{{{spec}, disableAgent: true, subsystems: {{sftp: internal-sftp}}}}"), "takes the agent"),
    ] {
        let found = of(&pod);
        assert!(found.contains(message) && (found.is_empty() == message.is_empty()), "{pod}: {found}");
    }
}

#[test]
fn what_pods_were_before_does_what_it_did_and_warns() {
    let text = "backend: kuberun\nkuberun: {connection: {host: a, timeout: 5s}, pod: {namespace: guests, \
        consoleContainerNumber: 1, podSpec: {containers: [{image: a}, {image: b}]}, disableCommand: false}}";
    let config = read(text).unwrap();
    let kubernetes = &config.kubernetes;
    assert_eq!((config.backend, kubernetes.mode), (BackendKind::Kubernetes, ExecutionMode::Session));
    assert_eq!((kubernetes.connection.namespace.as_deref(), kubernetes.console_container), (Some("guests"), 1));
    assert_eq!(kubernetes.spec["containers"][1]["image"], "b");
    let warnings = config.warnings.iter().filter(|warning| !warning.message.contains("no memory limit"));
    let warnings: Vec<String> = warnings.map(Error::to_string).collect();
    assert_eq!(warnings[0], "c.yaml:2: warning: kuberun: deprecated: use kubernetes");
    assert!(warnings.len() == 2 && warnings[1].contains("kuberun.connection.timeout"), "{warnings:?}");
    let refused = read("kuberun: {pod: {disableCommand: true}}").err().unwrap();
    assert!(refused.iter().any(|error| error.to_string().contains("use security.command")), "{refused:?}");
}
