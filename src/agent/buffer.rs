//! A queue of bytes that is read into and written from in place.

use std::ops::Range;

/// Bytes in the order they came. Storage grows to what is asked for, is kept for the next use, and moves only when the
/// free part in front is larger than what moves, so that each byte moves at most about once.
#[derive(Debug, Default)]
pub struct Buffer {
    /// Invariant: `held.start <= held.end <= storage.len()`. All of the storage is initialised, so that a read needs
    /// neither unsafe code nor clearing.
    storage: Vec<u8>,
    held: Range<usize>,
}

impl Buffer {
    /// How many bytes are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.held.clone()]
    }

    /// Free storage behind what is held, at least `count` bytes. What is put there counts once it is [`commit`]ted.
    ///
    /// [`commit`]: Buffer::commit
    pub fn space(&mut self, count: usize) -> &mut [u8] {
        if self.storage.len() - self.held.end < count && self.held.start >= self.held.len() {
            self.storage.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        let needed = self.held.end + count;
        if self.storage.len() < needed {
            // A fresh allocation is zero pages that cost no memory until they are used; `resize` would touch them.
            let mut larger = vec![0; needed.next_power_of_two()];
            larger[..self.held.len()].copy_from_slice(&self.storage[self.held.clone()]);
            self.storage = larger;
            self.held = 0..self.held.len();
        }
        &mut self.storage[self.held.end..]
    }

    /// Takes the first `count` bytes of the last [`space`](Buffer::space) as held.
    pub fn commit(&mut self, count: usize) {
        self.held.end = (self.held.end + count).min(self.storage.len());
    }

    /// Forgets the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.held.start = (self.held.start + count).min(self.held.end);
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }

    /// Adds a copy of `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn bytes_leave_in_the_order_they_came_however_the_storage_moves() {
        let mut buffer = Buffer::default();
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for round in 0..1000usize {
            let chunk: Vec<u8> = (0..round % 37).map(|i| next_in.wrapping_add(i as u8)).collect();
            next_in = next_in.wrapping_add(chunk.len() as u8);
            buffer.push(&chunk);
            let taken = buffer.len().min(round % 41);
            for (i, byte) in buffer.bytes()[..taken].iter().enumerate() {
                assert_eq!(*byte, next_out.wrapping_add(i as u8));
            }
            next_out = next_out.wrapping_add(taken as u8);
            buffer.consume(taken);
        }
    }

    #[test]
    fn storage_stays_within_a_small_multiple_of_what_was_held() {
        let mut buffer = Buffer::default();
        buffer.push(&[7; 1000]);
        for _ in 0..100_000 {
            buffer.push(&[1; 10]);
            buffer.consume(10);
        }
        assert_eq!(buffer.len(), 1000);
        assert!(buffer.storage.len() <= 4096, "{}", buffer.storage.len());
    }
}
