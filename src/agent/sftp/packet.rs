//! Requests as they come off the wire: draft-ietf-secsh-filexfer-02 sections 3 to 6, and the extensions of OpenSSH's
//! PROTOCOL file, section 4. Nothing here touches a file or allocates: a request borrows from the input buffer.

use super::Error;
use crate::connection::wire::{Malformed, Reader};

/// The largest packet either side may send, in bytes after its length field. OpenSSH's number on both ends.
pub(super) const MAX_PACKET: usize = 256 * 1024;

/// The most data that one READ returns or one WRITE should carry: a packet less room for its fields.
pub(super) const MAX_DATA: usize = MAX_PACKET - 1024;

/// The extensions that the server's VERSION announces, each with its version.
pub(super) const EXTENSIONS: [(&str, &str); 11] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

const SIZE: u32 = 0x1;
const OWNER: u32 = 0x2;
const PERMISSIONS: u32 = 0x4;
const TIMES: u32 = 0x8;
const EXTENDED: u32 = 0x8000_0000;

/// The flags of the attributes that the server sends: all but the extended ones.
pub(super) const ALL_ATTRIBUTES: u32 = SIZE | OWNER | PERMISSIONS | TIMES;

/// The payload of the first packet in `buffer`, or nothing where it has not arrived whole.
///
/// # Errors
/// A length that no packet can have. There is no way to find the next packet then: the session is over.
pub(super) fn split(buffer: &[u8]) -> Result<Option<&[u8]>, Error> {
    let mut reader = Reader::new(buffer);
    let Ok(length) = reader.u32() else { return Ok(None) };
    match usize::try_from(length) {
        Ok(0) => Err(Error::Malformed),
        Ok(length) if length <= MAX_PACKET => Ok(reader.bytes(length).ok()),
        _ => Err(Error::TooLong(length)),
    }
}

/// What a client may send.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    Init { version: u32 },
    Request { id: u32, request: Result<Request<'a>, Malformed> },
}

/// What a client asks for. Paths hold no NUL but any other byte; they need not be UTF-8.
#[derive(Debug)]
pub(super) enum Request<'a> {
    Open {
        path: &'a [u8],
        flags: u32,
        attributes: Attributes,
    },
    Close {
        handle: u32,
    },
    Read {
        handle: u32,
        offset: u64,
        length: u32,
    },
    Write {
        handle: u32,
        offset: u64,
        data: &'a [u8],
    },
    Lstat {
        path: &'a [u8],
    },
    Fstat {
        handle: u32,
    },
    Setstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Fsetstat {
        handle: u32,
        attributes: Attributes,
    },
    Opendir {
        path: &'a [u8],
    },
    Readdir {
        handle: u32,
    },
    Remove {
        path: &'a [u8],
    },
    Mkdir {
        path: &'a [u8],
        attributes: Attributes,
    },
    Rmdir {
        path: &'a [u8],
    },
    Realpath {
        path: &'a [u8],
    },
    Stat {
        path: &'a [u8],
    },
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Readlink {
        path: &'a [u8],
    },
    Symlink {
        target: &'a [u8],
        link: &'a [u8],
    },
    PosixRename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Statvfs {
        path: &'a [u8],
    },
    Fstatvfs {
        handle: u32,
    },
    Hardlink {
        from: &'a [u8],
        to: &'a [u8],
    },
    Fsync {
        handle: u32,
    },
    Lsetstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Limits,
    ExpandPath {
        path: &'a [u8],
    },
    CopyData(CopyData),
    HomeDirectory {
        user: &'a [u8],
    },
    /// Each list is whole `uint32`s.
    UsersGroupsById {
        users: &'a [u8],
        groups: &'a [u8],
    },
    /// A packet type or an extension that this server does not have.
    Unsupported,
}

impl Request<'_> {
    /// What sftp-server(8) calls it. `None` for what this server does not have.
    pub(super) fn name(&self) -> Option<&'static str> {
        Some(match self {
            Request::Open { .. } => "open",
            Request::Close { .. } => "close",
            Request::Read { .. } => "read",
            Request::Write { .. } => "write",
            Request::Lstat { .. } => "lstat",
            Request::Fstat { .. } => "fstat",
            Request::Setstat { .. } => "setstat",
            Request::Fsetstat { .. } => "fsetstat",
            Request::Opendir { .. } => "opendir",
            Request::Readdir { .. } => "readdir",
            Request::Remove { .. } => "remove",
            Request::Mkdir { .. } => "mkdir",
            Request::Rmdir { .. } => "rmdir",
            Request::Realpath { .. } => "realpath",
            Request::Stat { .. } => "stat",
            Request::Rename { .. } => "rename",
            Request::Readlink { .. } => "readlink",
            Request::Symlink { .. } => "symlink",
            Request::PosixRename { .. } => "posix-rename",
            Request::Statvfs { .. } => "statvfs",
            Request::Fstatvfs { .. } => "fstatvfs",
            Request::Hardlink { .. } => "hardlink",
            Request::Fsync { .. } => "fsync",
            Request::Lsetstat { .. } => "lsetstat",
            Request::Limits => "limits",
            Request::ExpandPath { .. } => "expand-path",
            Request::CopyData(_) => "copy-data",
            Request::HomeDirectory { .. } => "home-directory",
            Request::UsersGroupsById { .. } => "users-groups-by-id",
            Request::Unsupported => return None,
        })
    }
}

/// The fields of a `copy-data` request (draft-ietf-secsh-filexfer-extensions-00 section 7).
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyData {
    pub(super) from: u32,
    pub(super) from_offset: u64,
    /// In bytes; 0 means up to the end of the file.
    pub(super) length: u64,
    pub(super) to: u32,
    pub(super) to_offset: u64,
}

/// The attributes that a request sets: those that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

/// Reads a packet's payload.
///
/// # Errors
/// A payload without the fields that every packet starts with cannot be answered, since an answer needs a request's
/// id. Any later fault is the request's own, and is in [`Packet::Request`].
pub(super) fn parse(payload: &[u8]) -> Result<Packet<'_>, Malformed> {
    let mut reader = Reader::new(payload);
    let kind = reader.u8()?;
    let number = reader.u32()?;
    // Bytes after the last field are left alone, as OpenSSH does.
    Ok(if kind == 1 {
        Packet::Init { version: number }
    } else {
        Packet::Request { id: number, request: request(kind, reader) }
    })
}

fn request<'a>(kind: u8, mut reader: Reader<'a>) -> Result<Request<'a>, Malformed> {
    let r = &mut reader;
    Ok(match kind {
        3 => Request::Open { path: text(r)?, flags: r.u32()?, attributes: attributes(r)? },
        4 => Request::Close { handle: handle(r)? },
        5 => Request::Read { handle: handle(r)?, offset: r.u64()?, length: r.u32()? },
        6 => Request::Write { handle: handle(r)?, offset: r.u64()?, data: r.string()? },
        7 => Request::Lstat { path: text(r)? },
        8 => Request::Fstat { handle: handle(r)? },
        9 => Request::Setstat { path: text(r)?, attributes: attributes(r)? },
        10 => Request::Fsetstat { handle: handle(r)?, attributes: attributes(r)? },
        11 => Request::Opendir { path: text(r)? },
        12 => Request::Readdir { handle: handle(r)? },
        13 => Request::Remove { path: text(r)? },
        14 => Request::Mkdir { path: text(r)?, attributes: attributes(r)? },
        15 => Request::Rmdir { path: text(r)? },
        16 => Request::Realpath { path: text(r)? },
        17 => Request::Stat { path: text(r)? },
        18 => Request::Rename { from: text(r)?, to: text(r)? },
        19 => Request::Readlink { path: text(r)? },
        // The draft says link first; OpenSSH has always had it the other way round, and so have all clients since.
        20 => Request::Symlink { target: text(r)?, link: text(r)? },
        200 => extended(r)?,
        _ => Request::Unsupported,
    })
}

fn extended<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Malformed> {
    Ok(match text(r)? {
        b"posix-rename@openssh.com" => Request::PosixRename { from: text(r)?, to: text(r)? },
        b"statvfs@openssh.com" => Request::Statvfs { path: text(r)? },
        b"fstatvfs@openssh.com" => Request::Fstatvfs { handle: handle(r)? },
        b"hardlink@openssh.com" => Request::Hardlink { from: text(r)?, to: text(r)? },
        b"fsync@openssh.com" => Request::Fsync { handle: handle(r)? },
        b"lsetstat@openssh.com" => Request::Lsetstat { path: text(r)?, attributes: attributes(r)? },
        b"limits@openssh.com" => Request::Limits,
        b"expand-path@openssh.com" => Request::ExpandPath { path: text(r)? },
        b"copy-data" => Request::CopyData(CopyData {
            from: handle(r)?,
            from_offset: r.u64()?,
            length: r.u64()?,
            to: handle(r)?,
            to_offset: r.u64()?,
        }),
        b"home-directory" => Request::HomeDirectory { user: text(r)? },
        b"users-groups-by-id@openssh.com" => Request::UsersGroupsById { users: ids(r)?, groups: ids(r)? },
        _ => Request::Unsupported,
    })
}

/// A path or a name. OpenSSH lets a client end it with one NUL, and so does this.
fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let bytes = reader.string()?;
    let text = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if text.contains(&0) { Err(Malformed) } else { Ok(text) }
}

/// A handle is four bytes. Anything else becomes the number that no handle has.
fn handle(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    Ok(reader.string()?.try_into().map_or(u32::MAX, u32::from_be_bytes))
}

fn ids<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let list = reader.string()?;
    if list.len().is_multiple_of(4) { Ok(list) } else { Err(Malformed) }
}

/// Draft section 5.
fn attributes(reader: &mut Reader<'_>) -> Result<Attributes, Malformed> {
    let flags = reader.u32()?;
    let mut attributes = Attributes::default();
    if flags & SIZE != 0 {
        attributes.size = Some(reader.u64()?);
    }
    if flags & OWNER != 0 {
        attributes.owner = Some((reader.u32()?, reader.u32()?));
    }
    if flags & PERMISSIONS != 0 {
        attributes.permissions = Some(reader.u32()?);
    }
    if flags & TIMES != 0 {
        attributes.times = Some((reader.u32()?, reader.u32()?));
    }
    if flags & EXTENDED != 0 {
        // The loop ends with the packet, whatever the count says.
        for _ in 0..reader.u32()? {
            reader.string()?;
            reader.string()?;
        }
    }
    Ok(attributes)
}

/// Requests as a session takes them apart. Nothing is done with them.
pub(crate) fn fuzz(mut bytes: &[u8]) {
    while let Ok(Some(payload)) = split(bytes) {
        let _ = parse(payload);
        bytes = bytes.get(4 + payload.len()..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::{Attributes, MAX_PACKET, Packet, Request, fuzz, parse, split};
    use crate::agent::sftp::Error;
    use crate::connection::wire::{Malformed, Write};
    use proptest::prelude::*;

    fn packet(kind: u8, fields: &[u8]) -> Vec<u8> {
        let mut payload = vec![kind, 0, 0, 0, 7];
        payload.extend_from_slice(fields);
        payload
    }

    fn request(payload: &[u8]) -> Result<Request<'_>, Malformed> {
        match parse(payload).unwrap() {
            Packet::Request { id: 7, request } => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_packet_is_split_off_once_it_is_whole() {
        let mut buffer = Vec::new();
        buffer.put_string([1, 2, 3]);
        buffer.put_string([4]);
        for end in 0..7 {
            assert!(split(&buffer[..end]).unwrap().is_none());
        }
        assert_eq!(split(&buffer).unwrap(), Some(&[1, 2, 3][..]));
    }

    #[test]
    fn a_length_that_no_packet_has_is_an_error() {
        assert!(matches!(split(&[0, 0, 0, 0]), Err(Error::Malformed)));
        let longest = u32::try_from(MAX_PACKET).unwrap();
        assert!(matches!(split(&longest.to_be_bytes()), Ok(None)));
        assert!(matches!(split(&(longest + 1).to_be_bytes()), Err(Error::TooLong(_))));
        assert!(matches!(split(&[0xff; 4]), Err(Error::TooLong(_))));
    }

    #[test]
    fn a_path_ends_at_one_trailing_nul_and_holds_no_other() {
        let path = |bytes: &[u8]| {
            let mut fields = Vec::new();
            fields.put_string(bytes);
            packet(17, &fields)
        };
        assert!(matches!(request(&path(b"a\xff/\n\0")), Ok(Request::Stat { path: b"a\xff/\n" })));
        assert!(request(&path(b"a\0b")).is_err());
        assert!(request(&path(b"a\0\0")).is_err());
    }

    #[test]
    fn a_handle_of_another_size_is_no_handle() {
        for size in [0, 3, 5, 300] {
            let mut fields = Vec::new();
            fields.put_string(vec![0; size]);
            assert!(matches!(request(&packet(4, &fields)), Ok(Request::Close { handle: u32::MAX })));
        }
    }

    #[test]
    fn extended_attributes_are_passed_over() {
        let mut fields = Vec::new();
        fields.put_string("d");
        fields.put_u32(0x8000_0004);
        fields.put_u32(0o700);
        fields.put_u32(1);
        fields.put_string("name");
        fields.put_string("value");
        let Ok(Request::Mkdir { path: b"d", attributes }) = request(&packet(14, &fields)) else { panic!() };
        assert_eq!(attributes, Attributes { permissions: Some(0o700), ..Attributes::default() });
    }

    #[test]
    fn a_count_of_extended_attributes_larger_than_its_packet_is_malformed() {
        let mut fields = Vec::new();
        fields.put_string("d");
        fields.put_u32(0x8000_0000);
        fields.put_u32(u32::MAX);
        assert!(request(&packet(14, &fields)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn no_fields_make_a_request_panic(kind: u8, fields in prop::collection::vec(0_u8..6, 0..80)) {
            let mut buffer = Vec::new();
            buffer.put_string(packet(kind, &fields));
            fuzz(&buffer);
        }

        #[test]
        fn a_request_cut_short_is_malformed(path in prop::collection::vec(1_u8.., 0..30), data: [u8; 8]) {
            let mut fields = Vec::new();
            fields.put_string(&path);
            fields.put_u32(0xf);
            fields.put_u64(1);
            fields.put_u32(2);
            fields.put_u32(3);
            fields.put_u32(4);
            fields.extend_from_slice(&data);
            let whole = packet(9, &fields);
            prop_assert!(request(&whole).is_ok());
            for end in 5..whole.len() {
                prop_assert!(request(&whole[..end]).is_err());
            }
        }
    }
}
