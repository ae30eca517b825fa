//! An SSH agent that offers whatever it is told to, as keys.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use super::security_key::SecurityKey;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Listens on a new socket, and lists `keys` to everyone; signs nothing.
pub fn offer_keys(socket: &Path, keys: &[Vec<u8>]) {
    listen(socket, keys.to_vec(), None);
}

/// Listens on a new socket, and signs for everyone with a security key, as whom it offers `blobs`: the key itself, or
/// certificates of it.
pub fn offer_security_key(socket: &Path, key: SecurityKey, blobs: &[Vec<u8>]) {
    listen(socket, blobs.to_vec(), Some(key));
}

fn listen(socket: &Path, blobs: Vec<Vec<u8>>, key: Option<SecurityKey>) {
    let listener = UnixListener::bind(socket).unwrap();
    let agent = Arc::new((blobs, key));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let agent = Arc::clone(&agent);
            // A client that breaks off is no failure of the test's.
            std::thread::spawn(move || client.and_then(|client| serve(client, &agent.0, agent.1.as_ref())));
        }
    });
}

fn serve(mut client: UnixStream, blobs: &[Vec<u8>], key: Option<&SecurityKey>) -> std::io::Result<()> {
    loop {
        let request = read_string(&mut client)?;
        let answer = match request.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => {
                let mut answer = vec![IDENTITIES_ANSWER];
                answer.extend((blobs.len() as u32).to_be_bytes());
                for blob in blobs {
                    answer.extend([string(blob), string(b"crafted")].concat());
                }
                answer
            }
            Some((&SIGN_REQUEST, mut fields)) => match key {
                Some(key) => {
                    let _blob = read_string(&mut fields)?;
                    [&[SIGN_RESPONSE][..], &string(&key.sign(&read_string(&mut fields)?))].concat()
                }
                None => vec![FAILURE],
            },
            _ => vec![FAILURE],
        };
        client.write_all(&string(&answer))?;
    }
}

fn read_string(source: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A string as SSH encodes it: its length before it.
pub fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&(bytes.as_ref().len() as u32).to_be_bytes(), bytes.as_ref()].concat()
}
