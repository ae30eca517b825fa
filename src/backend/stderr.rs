//! What agents say on standard error, on its way to the log.

/// The longest line that is logged whole, in bytes.
const LINE: usize = 1024;

/// How much of one agent's is logged, in bytes. It is its container's, whoever has power there.
const LOGGED: usize = 64 * 1024;

/// It, line by line, and no more than [`LOGGED`].
#[derive(Debug)]
pub(super) struct StandardError {
    name: String,
    line: Vec<u8>,
    left: usize,
}

impl StandardError {
    /// Of whom `name` says.
    pub fn new(name: String) -> Self {
        StandardError { name, line: Vec::new(), left: LOGGED }
    }

    /// Takes some of it.
    pub fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.left == 0 {
                return;
            }
            self.line.extend_from_slice(piece.get(..LINE.min(piece.len())).unwrap_or_default());
            if piece.ends_with(b"\n") || self.line.len() >= LINE {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii_end();
        self.left = self.left.saturating_sub(text.len() + 1);
        if !text.is_empty() {
            log::info!("{}: {}", self.name, text.escape_ascii());
        }
        if self.left == 0 {
            log::warn!("{}: no more of its standard error is logged", self.name);
        }
    }
}

impl Drop for StandardError {
    fn drop(&mut self) {
        if self.left > 0 && !self.line.is_empty() {
            self.write();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE, StandardError};

    #[test]
    fn the_log_is_bounded_whatever_is_said() {
        let mut log = StandardError::new("test".into());
        for _ in 0..10_000 {
            log.take(&[b'x'; 3000]);
            log.take(b"\n\n\n\x1b[2J");
            assert!(log.line.len() <= 2 * LINE);
        }
        assert_eq!(log.left, 0);
    }
}
