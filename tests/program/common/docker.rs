//! The Docker daemon, as its own client sees it.

use super::client::Client;

/// The daemon's socket: Docker's own, or that of which `DOCKER_HOST` tells, as `scripts/podman` sets it.
pub fn daemon_socket() -> String {
    match std::env::var("DOCKER_HOST") {
        Ok(host) => host.strip_prefix("unix://").expect("DOCKER_HOST is a socket").to_owned(),
        Err(_) => "/var/run/docker.sock".to_owned(),
    }
}

/// Runs `docker` with these arguments, which must succeed, and gives what it printed.
#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    Client::new("docker").args(arguments).run().succeeds().text().trim().to_owned()
}

/// Kills a container. Podman looks at it once more afterwards, when the server has perhaps removed it.
#[track_caller]
pub fn kill(container: &str) {
    let ran = Client::new("docker").args(["kill", container]).run();
    assert!(ran.code == Some(0) || ran.stderr.contains("no container with name or ID"), "{ran:?}");
}

/// The ids of an instance's containers, running or not.
#[track_caller]
pub fn containers(instance: &str) -> Vec<String> {
    let filter = format!("label=berth.instance={instance}");
    docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]).lines().map(str::to_owned).collect()
}

/// Removes the signs of life of servers that were killed.
pub fn remove_signs(instance: &str) {
    let script = r#"timeout 20 docker volume ls --quiet --filter "label=berth.instance=$0" |
        xargs -r timeout 20 docker volume rm"#;
    Client::new("sh").args(["-c", script, instance]).run();
}

/// Removes an instance's containers, as far as that goes: for a test that has failed, so it must not fail by itself.
pub fn remove_containers(instance: &str) {
    let script = r#"timeout 20 docker ps --all --quiet --filter "label=berth.instance=$0" |
        xargs -r timeout 20 docker rm --force --volumes"#;
    Client::new("sh").args(["-c", script, instance]).run();
}
