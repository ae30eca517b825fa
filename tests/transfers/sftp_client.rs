//! A client that speaks SFTP's packets.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use berth::connection::wire::{Reader, Write as _};

use crate::tree::{OLD, Scratch, command, plant, tree};

pub const BERTH: &str = concat!(env!("CARGO_BIN_EXE_berth"), " agent sftp");

/// OpenSSH's server, where distributions put it.
pub fn openssh() -> &'static str {
    ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("install OpenSSH's sftp-server to compare with")
}

/// A client that speaks packets.
pub struct Client {
    server: Child,
    /// Taken to end the server's input.
    pub input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Client {
    /// A server that has not had INIT.
    pub fn silent(server: &str, directory: &Path) -> Self {
        let mut child = command(server, directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Client { input: child.stdin.take(), output: child.stdout.take().unwrap(), server: child }
    }

    pub fn new(server: &str, directory: &Path) -> Self {
        let mut client = Client::silent(server, directory);
        client.send(&packet(1, 3, |_| {}));
        client.receive();
        client
    }

    pub fn send(&mut self, packet: &[u8]) {
        self.input.as_mut().unwrap().write_all(packet).unwrap();
    }

    /// The next answer, without its length.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.output.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.output.read_exact(&mut answer).unwrap();
        answer
    }

    pub fn ask(&mut self, packet: &[u8]) -> Vec<u8> {
        self.send(packet);
        self.receive()
    }

    /// Whether the server exits well once its input ends.
    pub fn ends_well(mut self) -> bool {
        self.input = None;
        self.server.wait().unwrap().success()
    }
}

/// A packet with its length; `number` is the request's id, or INIT's version.
pub fn packet(kind: u8, number: u32, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = vec![kind];
    payload.put_u32(number);
    fields(&mut payload);
    let mut packet = Vec::new();
    packet.put_string(payload);
    packet
}

pub fn on_path(kind: u8, path: impl AsRef<[u8]>) -> Vec<u8> {
    packet(kind, 9, |fields| fields.put_string(path))
}

pub fn on_handle(kind: u8, handle: u32) -> Vec<u8> {
    packet(kind, 9, |fields| fields.put_string(handle.to_be_bytes()))
}

pub fn on_paths(kind: u8, first: &str, second: &str) -> Vec<u8> {
    packet(kind, 9, |fields| {
        fields.put_string(first);
        fields.put_string(second);
    })
}

pub fn extended(name: &str, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    packet(200, 9, |packet| {
        packet.put_string(name);
        fields(packet);
    })
}

pub fn open(path: impl AsRef<[u8]>, flags: u32, mode: Option<u32>) -> Vec<u8> {
    packet(3, 9, |fields| {
        fields.put_string(path);
        fields.put_u32(flags);
        put_mode(fields, mode);
    })
}

pub fn put_mode(fields: &mut Vec<u8>, mode: Option<u32>) {
    fields.put_u32(if mode.is_some() { 4 } else { 0 });
    if let Some(mode) = mode {
        fields.put_u32(mode);
    }
}

pub fn read(handle: u32, offset: u64, length: u32) -> Vec<u8> {
    packet(5, 9, |fields| {
        fields.put_string(handle.to_be_bytes());
        fields.put_u64(offset);
        fields.put_u32(length);
    })
}

pub fn write(handle: u32, offset: u64, data: impl AsRef<[u8]>) -> Vec<u8> {
    packet(6, 9, |fields| {
        fields.put_string(handle.to_be_bytes());
        fields.put_u64(offset);
        fields.put_string(data);
    })
}

/// `kind` 9 takes a path and 10 a handle.
pub fn set_attributes(kind: u8, of: impl AsRef<[u8]>, attributes: &[u8]) -> Vec<u8> {
    packet(kind, 9, |fields| {
        fields.put_string(of);
        fields.extend_from_slice(attributes);
    })
}

pub fn all_attributes(size: u64, owner: u32, mode: u32, time: u32) -> Vec<u8> {
    let mut fields = Vec::new();
    fields.put_u32(0xf);
    fields.put_u64(size);
    for field in [owner, owner, mode, time, time] {
        fields.put_u32(field);
    }
    fields
}

pub fn copy_data(from: u32, from_offset: u64, length: u64, to: u32, to_offset: u64) -> Vec<u8> {
    extended("copy-data", |fields| {
        fields.put_string(from.to_be_bytes());
        fields.put_u64(from_offset);
        fields.put_u64(length);
        fields.put_string(to.to_be_bytes());
        fields.put_u64(to_offset);
    })
}

/// The code of a STATUS answer.
pub fn status(answer: &[u8]) -> u32 {
    assert_eq!(answer[0], 101, "{answer:?}");
    u32::from_be_bytes(answer[5..9].try_into().unwrap())
}

/// An entry of a NAME answer: name, line, and attributes.
pub type Name = (Vec<u8>, Vec<u8>, Vec<u8>);

/// The entries of a NAME answer, sorted.
pub fn names(answer: &[u8]) -> Vec<Name> {
    assert_eq!(answer[0], 104, "{answer:?}");
    let mut reader = Reader::new(&answer[5..]);
    let mut names: Vec<_> = (0..reader.u32().unwrap())
        .map(|_| {
            let name = reader.string().unwrap().to_vec();
            let line = reader.string().unwrap().to_vec();
            (name, line, reader.bytes(32).unwrap().to_vec())
        })
        .collect();
    names.sort();
    names
}

/// An answer without the times that nobody set: the servers work one after the other, and reading alone moves a file's
/// access time. In an ATTRS answer the size, two ids and the mode are before the times.
fn timeless(mut answer: Vec<u8>) -> Vec<u8> {
    if answer.len() == 37 && answer[0] == 105 {
        for time in [29..33, 33..37] {
            if answer[time.clone()] > OLD.to_be_bytes()[..] {
                answer[time].fill(0);
            }
        }
    }
    answer
}

/// Has both servers do the same in the same tree, and wants the same answers and the same tree after it.
pub fn compare(name: &str, script: &[Vec<u8>]) {
    compare_called(name, "", script);
}

/// As [`compare`], with both called with these options.
pub fn compare_called(name: &str, options: &str, script: &[Vec<u8>]) {
    let outcomes = [openssh(), BERTH].map(|server| {
        let scratch = Scratch::new(name);
        plant(&scratch.0);
        let mut client = Client::new(&format!("{server} {options}"), &scratch.0);
        let answers: Vec<_> = script.iter().map(|packet| timeless(client.ask(packet))).collect();
        assert!(client.ends_well());
        (answers, tree(&scratch.0))
    });
    let [(expected, expected_tree), (answers, tree)] = outcomes;
    for (index, (expected, answer)) in expected.iter().zip(&answers).enumerate() {
        let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let asked = show(&script[index]);
        assert_eq!(show(expected), show(answer), "left OpenSSH, right berth; request {index}: {asked}");
    }
    assert_eq!(expected_tree, tree);
}
