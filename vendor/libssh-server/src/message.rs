//! Messages as bytes.

use crate::number;

/// SSH_MSG_DISCONNECT (RFC 4253 section 11.1), with as much of the description as is sensible.
pub(crate) fn disconnect(reason: u32, description: &str) -> Vec<u8> {
    let description = &description.as_bytes()[..description.len().min(255)];
    let mut message = vec![number::DISCONNECT];
    message.extend_from_slice(&reason.to_be_bytes());
    frame(&mut message, description);
    message.extend_from_slice(&0u32.to_be_bytes());
    message
}

/// Appends bytes behind their length as uint32. They are no more than a packet has.
pub(crate) fn frame(frames: &mut Vec<u8>, bytes: &[u8]) {
    frames.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    frames.extend_from_slice(bytes);
}

/// What [`frame`] has put together.
pub(crate) fn frames(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk()?;
        let (bytes, after) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after;
        Some(bytes)
    })
}

/// How much of a peer's last words is told, in bytes: as much as OpenSSH tells.
const LAST_WORDS: usize = 400;

/// What SSH_MSG_DISCONNECT says (RFC 4253 section 11.1).
pub(crate) fn farewell(message: &[u8]) -> String {
    let (reason, rest) = message[1..].split_first_chunk().unwrap_or((&[0; 4], &[]));
    let text = frames(rest).next().unwrap_or_default();
    let text = &text[..text.len().min(LAST_WORDS)];
    format!("Received SSH_MSG_DISCONNECT: {}:{}", u32::from_be_bytes(*reason), String::from_utf8_lossy(text))
}

#[cfg(test)]
mod tests {
    use super::{LAST_WORDS, farewell, frame};

    #[test]
    fn last_words_are_told_in_part_where_they_are_many() {
        let told = |words: &[u8]| {
            let mut message = vec![1, 0, 0, 0, 11];
            frame(&mut message, words);
            farewell(&message)
        };
        let begin = "Received SSH_MSG_DISCONNECT: 11:";
        assert_eq!(told(b"bye"), format!("{begin}bye"));
        assert_eq!(told(&[b'x'; 200_000]), format!("{begin}{}", "x".repeat(LAST_WORDS)));
    }
}
