//! An engine that is none: it answers as it is told, and writes down what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use berth::backend::docker::Docker;
use berth::backend::{Backend, InUse};
use berth::http::Address;
use serde_json::{Value, json};

use crate::{settings, unique};

struct Engine {
    directory: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    /// Answers `GET`s by `answer`, which is told the path and how often that was asked for.
    fn start(answer: impl Fn(&str, usize) -> Value + Send + Sync + 'static) -> Self {
        let directory = std::env::temp_dir().join(format!("berth-engine-{}", unique()));
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("socket")).unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (all, answer) = (Arc::clone(&asked), Arc::new(answer));
        // Ends with the test's process: nothing more is asked once the test is over.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let answer = |method: &str, path: &str| {
                        let line = format!("{method} {path}");
                        let mut all = all.lock().unwrap();
                        let before = all.iter().filter(|asked| **asked == line).count();
                        all.push(line);
                        if method == "GET" { answer(path, before) } else { json!({}) }
                    };
                    serve(stream.unwrap(), &answer);
                });
            }
        });
        Engine { directory, asked }
    }

    fn docker(&self, instance: &str) -> Docker {
        let mut settings = settings();
        settings.connection.address = Address::Unix(self.directory.join("socket"));
        let agent = std::env::current_exe().unwrap();
        Docker::new(settings, instance.into(), self.directory.join("run"), InUse::default(), agent).unwrap()
    }

    /// What it was asked with these words.
    fn asked(&self, words: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(words)).cloned().collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// One request, and its answer.
fn serve(stream: UnixStream, answer: &dyn Fn(&str, &str) -> Value) {
    let mut reader = BufReader::new(&stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(("content-length", value)) = line.trim().to_lowercase().split_once(": ") {
            length = value.parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).unwrap();
    let words: Vec<&str> = first.split(' ').collect();
    let path = words[1].split_once("/v1.41").map_or(words[1], |(_, path)| path);
    let body = answer(words[0], path).to_string();
    let head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nLibpod-Api-Version: 5.0.0\r\nConnection: close";
    let _ = write!(&stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

#[test]
fn podman_is_told_to_kill_a_container_before_it_removes_it() {
    let stray = json!([{"Id": "stray", "Labels": {"berth.instance": "one"}}]);
    let engine = Engine::start(move |path, _| if path.starts_with("/containers") { stray.clone() } else { json!({}) });
    assert_eq!(engine.docker("one").reap().unwrap(), 1);
    let asked = engine.asked("/containers/stray");
    assert_eq!(asked, ["POST /containers/stray/kill?signal=KILL", "DELETE /containers/stray?force=true&v=true"]);
}

/// A container and the sign of life of another server, which says `name` each time.
fn another(path: &str, name: String) -> Value {
    if path.starts_with("/containers") {
        return json!([{"Id": "theirs", "Labels": {"berth.instance": "one", "berth.server": "other"}}]);
    }
    let labels = json!({"berth.instance": "one", "berth.server": "other", "berth.alive": ""});
    json!({"Volumes": [{"Name": name, "Labels": labels}]})
}

#[test]
fn what_another_server_has_made_is_left_while_that_gives_signs_of_life() {
    let engine = Engine::start(|path, before| another(path, format!("sign-{before}")));
    let docker = engine.docker("one");
    for _ in 0..20 {
        assert_eq!(docker.reap().unwrap(), 0);
    }
    assert_eq!(engine.asked("theirs"), [""; 0]);
    drop(docker);
    // Its own signs it takes away.
    let count = |words| engine.asked(words).len();
    assert_eq!((count("POST /volumes/create"), count("DELETE /volumes/berth-alive-")), (20, 1));
}

#[test]
fn a_server_that_gives_no_sign_for_long_is_taken_for_dead() {
    let engine = Engine::start(|path, _| another(path, "sign".into()));
    let docker = engine.docker("one");
    let removed: Vec<usize> = (0..12).map(|_| docker.reap().unwrap()).collect();
    assert_eq!(removed, [[0; 10].as_slice(), &[1, 0]].concat());
    assert_eq!(engine.asked("DELETE /volumes/sign"), ["DELETE /volumes/sign"]);
}

#[test]
fn signs_of_other_instances_do_not_matter() {
    let engine = Engine::start(|path, before| another(path, format!("sign-{before}")));
    assert_eq!(engine.docker("two").reap().unwrap(), 1);
}
