//! Host keys beside the one that a client came by: it is told of them all, and has those proved that are new to it. So
//! an operator can exchange one, and no client is startled (`PROTOCOL` of OpenSSH, section 2.5; ssh_config(5),
//! `UpdateHostKeys`).

use libssh_server::{HostKey, HostKeys, KeyKind};

use crate::connection::message::{GlobalRequest, number};
use crate::connection::wire::{Reader, Write};

/// The client's request, and what signatures begin with.
pub const PROVE: &[u8] = b"hostkeys-prove-00@openssh.com";

/// What the client is told after its login.
pub fn announcement(keys: &HostKeys) -> Vec<u8> {
    let mut specific = Vec::new();
    keys.iter().filter_map(|key| key.public_blob().ok()).for_each(|blob| specific.put_string(blob));
    GlobalRequest { name: b"hostkeys-00@openssh.com", want_reply: false, specific: &specific }.encode()
}

/// The answer to [`PROVE`], with a signature for each of the keys that the request names. Signing takes its time: there
/// is none where it names a key that is not the server's, or one twice.
pub fn proof(keys: &HostKeys, identifier: &[u8], request: &[u8]) -> Option<Vec<u8>> {
    let mut left: Vec<_> = keys.iter().filter_map(|key| Some((key, key.public_blob().ok()?))).collect();
    let (mut answer, mut fields) = (vec![number::REQUEST_SUCCESS], Reader::new(request));
    while !fields.rest().is_empty() {
        let named = fields.string().ok()?;
        let (key, blob) = left.swap_remove(left.iter().position(|(_, blob)| blob == named)?);
        answer.put_string(key.sign(algorithm(key), &signed(identifier, &blob)).ok()?);
    }
    Some(answer)
}

/// What the signature is for.
fn signed(identifier: &[u8], blob: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    [PROVE, identifier, blob].into_iter().for_each(|field| data.put_string(field));
    data
}

fn algorithm(key: &HostKey) -> &'static str {
    match key.kind() {
        KeyKind::Rsa => "rsa-sha2-512",
        KeyKind::Ed25519 | KeyKind::Ecdsa => key.type_name(),
    }
}

#[cfg(test)]
mod tests {
    use libssh_server::{HostKey, HostKeys, KeyKind};

    use super::{algorithm, announcement, proof, signed};
    use crate::auth::PublicKey;
    use crate::connection::message::{GlobalRequest, number};
    use crate::connection::wire::{Reader, Write};

    /// Keys of all kinds, and their encodings.
    fn keys() -> (HostKeys, Vec<Vec<u8>>) {
        let mut keys = HostKeys::default();
        for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
            keys.add(HostKey::generate(kind).unwrap());
        }
        let blobs = keys.iter().map(|key| key.public_blob().unwrap()).collect();
        (keys, blobs)
    }

    fn strings(strings: &[&[u8]]) -> Vec<u8> {
        let mut all = Vec::new();
        strings.iter().for_each(|string| all.put_string(string));
        all
    }

    #[test]
    fn all_keys_are_told_and_proved_in_the_order_that_is_asked_for() {
        let (keys, blobs) = keys();
        let message = announcement(&keys);
        let request = GlobalRequest::decode(&message[1..]).unwrap();
        let [one, two, three] = &blobs[..] else { panic!("three keys") };
        assert!(!request.want_reply && request.specific == strings(&[one, two, three]));
        let asked = [three, one, two];
        let answer = proof(&keys, b"session", &strings(&asked.map(Vec::as_slice))).unwrap();
        assert_eq!(answer[0], number::REQUEST_SUCCESS);
        let mut signatures = Reader::new(&answer[1..]);
        for blob in asked {
            let (key, signature) = (PublicKey::parse(blob).unwrap(), signatures.string().unwrap());
            let known = keys.iter().find(|key| key.public_blob().as_ref() == Ok(blob)).unwrap();
            let verify = |data: &[u8]| key.verify(algorithm(known).as_bytes(), signature, data);
            assert!(verify(&signed(b"session", blob)).is_ok() && verify(&signed(b"other", blob)).is_err());
        }
        signatures.end().unwrap();
    }

    #[test]
    fn nothing_is_proved_that_is_not_asked_for_properly() {
        let (keys, blobs) = keys();
        let stranger = HostKey::generate(KeyKind::Ed25519).unwrap().public_blob().unwrap();
        for asked in [&[&stranger[..]][..], &[&blobs[0], &blobs[1], &blobs[0]], &[&blobs[0], b""]] {
            assert_eq!(proof(&keys, b"session", &strings(asked)), None);
        }
        assert_eq!(proof(&keys, b"session", &[0, 0, 0, 9, 1]), None);
    }
}
