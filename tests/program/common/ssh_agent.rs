//! An SSH agent that offers whatever it is told to, as keys.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;

/// Listens on a new socket, and lists `keys` to everyone; signs nothing.
pub fn offer_keys(socket: &Path, keys: &[Vec<u8>]) {
    let mut answer = vec![IDENTITIES_ANSWER];
    answer.extend((keys.len() as u32).to_be_bytes());
    for key in keys {
        answer.extend(string(key));
        answer.extend(string(b"crafted"));
    }
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // A client that breaks off is no failure of the test's.
            let _ = client.and_then(|client| serve(client, &answer));
        }
    });
}

fn serve(mut client: UnixStream, identities: &[u8]) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        client.read_exact(&mut request)?;
        let answer = if request == [REQUEST_IDENTITIES] { identities } else { &[FAILURE] };
        client.write_all(&string(answer))?;
    }
}

/// A string as SSH encodes it: its length before it.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}
