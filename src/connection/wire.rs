//! The data types of RFC 4251 section 5.

/// A message that ends too early, or holds something that its type forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed message")
    }
}

impl std::error::Error for Malformed {}

/// Reads fields off the front of a message. Borrows from it: a length that a peer claims allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes as they are.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// `byte`
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    /// `boolean`: any value but 0 is true.
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        Ok(self.u8()? != 0)
    }

    /// `uint32`
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    /// `uint64`
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*taken))
    }

    /// `string`: arbitrary bytes.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// `string` that must be UTF-8, as names and messages are.
    pub fn utf8(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// Succeeds where nothing is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends fields to a message.
pub trait Write {
    /// `byte`
    fn put_u8(&mut self, value: u8);
    /// `boolean`
    fn put_boolean(&mut self, value: bool);
    /// `uint32`
    fn put_u32(&mut self, value: u32);
    /// `uint64`
    fn put_u64(&mut self, value: u64);
    /// `string`. Nothing that berth sends comes near 4 GiB; a longer one would be a bug, and is cut.
    fn put_string(&mut self, value: impl AsRef<[u8]>);
}

impl Write for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_boolean(&mut self, value: bool) {
        self.push(value.into());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_string(&mut self, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.put_u32(length);
        self.extend_from_slice(&value[..length as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Reader, Write};

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Vec::new();
        message.put_u8(7);
        message.put_boolean(true);
        message.put_u32(0xdead_beef);
        message.put_u64(1 << 40);
        message.put_string("shell");
        let mut reader = Reader::new(&message);
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.boolean(), Ok(true));
        assert_eq!(reader.u32(), Ok(0xdead_beef));
        assert_eq!(reader.u64(), Ok(1 << 40));
        assert_eq!(reader.utf8(), Ok("shell"));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn a_string_longer_than_its_message_is_malformed() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]).string(), Err(Malformed));
        assert_eq!(Reader::new(&[0, 0]).u32(), Err(Malformed));
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0xc3]).utf8(), Err(Malformed));
    }
}
