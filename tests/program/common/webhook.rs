//! A server that is asked by webhooks, as strict as ContainerSSH's own about questions.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What a server does with a question.
pub enum Answer {
    /// Status 200, with this.
    Json(Value),
    /// This status, with these headers and an empty body.
    Status(u16, &'static str),
    /// These bytes, and then nothing more; the connection is closed.
    Raw(Vec<u8>),
    /// A head, and a body until the client has had enough.
    Endless,
    /// Nothing, until the client goes.
    Silence,
}

type Script = dyn Fn(&str, &Value) -> Answer + Send + Sync;

/// The server. Its thread ends with the tests.
pub struct WebhookServer {
    pub port: u16,
    questions: Arc<Mutex<Vec<(String, Value)>>>,
}

/// The keys that a question may have.
const KEYS: [&str; 10] = [
    "username",
    "remoteAddress",
    "connectionId",
    "clientVersion",
    "passwordBase64",
    "publicKey",
    "authenticatedUsername",
    "metadata",
    "environment",
    "files",
];

impl WebhookServer {
    /// Answers by `script`, which gets a path and a question: JSON, or a form as a text.
    pub fn start(script: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let questions = Arc::new(Mutex::default());
        let (asked, script): (_, Arc<Script>) = (Arc::clone(&questions), Arc::new(script));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
                // A client may go in the middle of anything.
                std::thread::spawn(move || serve(client, &asked, script.as_ref()));
            }
        });
        WebhookServer { port, questions }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it was asked, in order: paths and questions.
    pub fn questions(&self) -> Vec<(String, Value)> {
        self.questions.lock().unwrap().clone()
    }

    /// What it was asked at this path.
    pub fn questions_at(&self, path: &str) -> Vec<Value> {
        self.questions().into_iter().filter(|(asked, _)| asked == path).map(|(_, question)| question).collect()
    }
}

fn serve(client: TcpStream, asked: &Mutex<Vec<(String, Value)>>, script: &Script) -> Option<()> {
    let mut writer = client.try_clone().ok()?;
    let mut reader = BufReader::new(client);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let is_form = head.contains("Content-Type: application/x-www-form-urlencoded\r\n");
        let question: Value = match body.as_slice() {
            [] => Value::Null,
            form if is_form => String::from_utf8(form.to_vec()).unwrap().into(),
            json => serde_json::from_slice(json).unwrap(),
        };
        let known = question.as_object().is_none_or(|fields| fields.keys().all(|key| KEYS.contains(&key.as_str())));
        asked.lock().unwrap().push((path.clone(), question.clone()));
        let answer = if known { script(&path, &question) } else { Answer::Status(400, "") };
        match answer {
            Answer::Json(value) => {
                let body = value.to_string();
                write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
            }
            Answer::Status(status, headers) => {
                write!(writer, "HTTP/1.1 {status} Status\r\n{headers}Content-Length: 0\r\n\r\n").ok()?;
            }
            Answer::Raw(bytes) => return writer.write_all(&bytes).ok(),
            Answer::Endless => {
                writer.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"success\": true, \"x\": \"").ok()?;
                loop {
                    writer.write_all(&[b'x'; 64 * 1024]).ok()?;
                }
            }
            Answer::Silence => return reader.read_to_end(&mut Vec::new()).map(drop).ok(),
        }
    }
}
