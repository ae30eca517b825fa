//! Countries of addresses, from a database of MaxMind's.
//!
//! The format is "MaxMind DB File Format Specification", version 2: a binary tree over the bits of addresses, whose
//! leaves are places in a data section of typed values, and metadata at the end that describe both.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::bounded;

/// The largest database, in bytes. Those of countries have some ten megabytes.
const LARGEST: u64 = 256 * 1024 * 1024;

/// What stands before the metadata.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// How far back from the end that is looked for, in bytes.
const METADATA_LIMIT: usize = 128 * 1024;

/// What lies between the tree and the data, in bytes.
const SEPARATOR: usize = 16;

/// The deepest nesting of values, pointers included.
const DEEPEST: u32 = 32;

/// Why a database cannot be used.
#[derive(Debug)]
pub enum Error {
    /// The file could not be read.
    Io(PathBuf, io::Error),
    /// It is no database of this format, or not a whole one.
    Format(PathBuf),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Error::Format(path) => write!(f, "{}: not a database in MaxMind's format", path.display()),
        }
    }
}

impl std::error::Error for Error {}

/// A database, in memory.
pub struct Database {
    bytes: Vec<u8>,
    nodes: usize,
    /// The size of a node's two records, in bits: 24, 28 or 32 each.
    record: usize,
    /// Whether the tree is over the bits of IPv6 addresses, in which IPv4 ones are those below ::/96.
    is_ipv6: bool,
}

impl Database {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error| Error::Io(path.to_owned(), error);
        let bytes = bounded::read(path, LARGEST).map_err(failed)?;
        let bytes = bytes.ok_or_else(|| failed(io::Error::other("larger than 256 MiB")))?;
        Database::parse(bytes).ok_or_else(|| Error::Format(path.to_owned()))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let start = bytes.len().saturating_sub(METADATA_LIMIT);
        let marker = bytes.get(start..)?.windows(MARKER.len()).rposition(|window| window == MARKER)?;
        let metadata = Section { bytes: bytes.get(start + marker + MARKER.len()..)? };
        let number = |key| metadata.number(metadata.get(0, key, DEEPEST)?);
        let (nodes, record) = (number("node_count")? as usize, number("record_size")? as usize);
        let is_ipv6 = number("ip_version")? == 6;
        let good = matches!(record, 24 | 28 | 32) && nodes.checked_mul(record / 4)? <= bytes.len();
        good.then_some(Database { bytes, nodes, record, is_ipv6 })
    }

    /// The country of an address by its code (ISO 3166-1), where the database knows one.
    pub fn country(&self, address: IpAddr) -> Option<&str> {
        let address = address.to_canonical();
        let (bits, length) = match address {
            IpAddr::V4(address) if self.is_ipv6 => (u128::from(u32::from(address)), 128),
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) if self.is_ipv6 => (u128::from(address), 128),
            IpAddr::V6(_) => return None,
        };
        let mut node = 0;
        for bit in 0..length {
            if node >= self.nodes {
                break;
            }
            node = self.child(node, (bits >> (127 - bit)) & 1 == 1)?;
        }
        // Just the number of nodes is for nothing that is known.
        let place = node.checked_sub(self.nodes)?.checked_sub(SEPARATOR)?;
        let data = Section { bytes: self.bytes.get(self.nodes * (self.record / 4) + SEPARATOR..)? };
        let country = data.get(place, "country", DEEPEST).or_else(|| data.get(place, "registered_country", DEEPEST))?;
        data.text(data.get(country, "iso_code", DEEPEST)?)
    }

    fn child(&self, node: usize, right: bool) -> Option<usize> {
        let size = self.record / 4;
        let bytes = self.bytes.get(node * size..(node + 1) * size)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        Some(match (self.record, right) {
            (28, false) => usize::from(bytes[3] >> 4) << 24 | number(&bytes[..3]),
            (28, true) => usize::from(bytes[3] & 15) << 24 | number(&bytes[4..]),
            (_, false) => number(&bytes[..size / 2]),
            (_, true) => number(&bytes[size / 2..]),
        })
    }
}

/// A section of typed values. Places are counted from its beginning.
struct Section<'a> {
    bytes: &'a [u8],
}

/// The types of values that matter here.
const POINTER: u8 = 1;
const TEXT: u8 = 2;
const DOUBLE: u8 = 3;
const MAP: u8 = 7;
const ARRAY: u8 = 11;
const BOOLEAN: u8 = 14;
const FLOAT: u8 = 15;

impl<'a> Section<'a> {
    /// A value's type, its size, and where its contents begin.
    fn head(&self, place: usize) -> Option<(u8, usize, usize)> {
        let control = *self.bytes.get(place)?;
        let (kind, mut at) = match control >> 5 {
            0 => (self.bytes.get(place + 1)?.checked_add(7)?, place + 2),
            kind => (kind, place + 1),
        };
        let short = usize::from(control & 31);
        if kind == POINTER || short < 29 {
            return Some((kind, short, at));
        }
        let count = short - 28;
        let more = self.number_at(at, count)?;
        at += count;
        Some((kind, more + [29, 285, 65_821][count - 1], at))
    }

    fn number_at(&self, at: usize, count: usize) -> Option<usize> {
        Some(
            self.bytes.get(at..at.checked_add(count)?)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)),
        )
    }

    /// Where a pointer leads, and where what follows it begins.
    fn pointer(&self, control: usize, at: usize) -> Option<(usize, usize)> {
        let count = (control >> 3) + 1;
        let high = if count == 4 { 0 } else { (control & 7) << (8 * count) };
        let base = [0, 2048, 526_336, 0][count - 1];
        Some((high + self.number_at(at, count)? + base, at + count))
    }

    /// Where the value at a place is really, and what is behind it.
    fn resolve(&self, place: usize) -> Option<(usize, Option<usize>)> {
        match self.head(place)? {
            (POINTER, control, at) => {
                let (target, next) = self.pointer(control, at)?;
                Some((target, Some(next)))
            }
            _ => Some((place, None)),
        }
    }

    /// The place behind a value.
    fn skip(&self, place: usize, depth: u32) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        let (kind, size, mut at) = self.head(place)?;
        match kind {
            POINTER => Some(self.pointer(size, at)?.1),
            MAP | ARRAY => {
                let values = if kind == MAP { size.checked_mul(2)? } else { size };
                for _ in 0..values {
                    at = self.skip(at, depth)?;
                }
                Some(at)
            }
            BOOLEAN => Some(at),
            DOUBLE => Some(at + 8),
            FLOAT => Some(at + 4),
            _ => at.checked_add(size),
        }
    }

    /// The place of a map's value.
    fn get(&self, place: usize, key: &str, depth: u32) -> Option<usize> {
        let (place, _) = self.resolve(place)?;
        let (MAP, size, mut at) = self.head(place)? else { return None };
        for _ in 0..size {
            let (name, behind) = self.resolve(at)?;
            let value = match behind {
                Some(behind) => behind,
                None => self.skip(at, depth)?,
            };
            if self.text(name)? == key {
                return Some(self.resolve(value)?.0);
            }
            at = self.skip(value, depth)?;
        }
        None
    }

    fn text(&self, place: usize) -> Option<&'a str> {
        let (TEXT, size, at) = self.head(place)? else { return None };
        std::str::from_utf8(self.bytes.get(at..at.checked_add(size)?)?).ok()
    }

    fn number(&self, place: usize) -> Option<u64> {
        let (5 | 6 | 9, size @ 0..=8, at) = self.head(place)? else { return None };
        Some(self.number_at(at, size)? as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&[TEXT << 5 | text.len() as u8], text.as_bytes()].concat()
    }

    fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![MAP << 5 | entries.len() as u8];
        for (key, value) in entries {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes
    }

    fn number(number: u16) -> Vec<u8> {
        [&[5 << 5 | 2][..], &number.to_be_bytes()].concat()
    }

    /// A database in which 192.0.2.0/24 is in DE and 2001:db8::/32 in FR, by a pointer to the name of its key.
    fn database(record: usize, version: u16) -> Vec<u8> {
        let german = map(&[
            ("continent", map(&[("names", map(&[("en", text("Europe"))]))])),
            ("country", map(&[("geoname_id", number(1)), ("iso_code", text("DE"))])),
        ]);
        // "country" stands behind the first map's first entry.
        let key = german.windows(7).position(|window| window == b"country").unwrap() - 1;
        let french = [&[MAP << 5 | 1, POINTER << 5, key as u8][..], &map(&[("iso_code", text("FR"))])].concat();
        let (mut nodes, mut leaves) = (vec![[0, 0]], Vec::new());
        let mut insert = |bits: u128, length: u32, place: usize| {
            let mut node = 0;
            for bit in 0..length {
                let side = usize::from((bits >> (127 - bit)) & 1 == 1);
                if bit + 1 == length {
                    leaves.push((node, side, place));
                } else {
                    if nodes[node][side] == 0 {
                        nodes.push([0, 0]);
                        nodes[node][side] = nodes.len() - 1;
                    }
                    node = nodes[node][side];
                }
            }
        };
        if version == 6 {
            insert(0xc000_0200, 120, 0);
            insert(0x2001_0db8 << 96, 32, german.len());
        } else {
            insert(0xc000_0200 << 96, 24, 0);
        }
        let count = nodes.len();
        for child in nodes.iter_mut().flatten().filter(|child| **child == 0) {
            *child = count;
        }
        for (node, side, place) in leaves {
            nodes[node][side] = count + SEPARATOR + place;
        }
        let mut bytes = Vec::new();
        for [left, right] in nodes {
            let (left, right) = ((left as u32).to_be_bytes(), (right as u32).to_be_bytes());
            match record {
                24 => bytes.extend([&left[1..], &right[1..]].concat()),
                28 => bytes.extend([&left[1..], &[left[0] << 4 | right[0]], &right[1..]].concat()),
                _ => bytes.extend([left, right].concat()),
            }
        }
        bytes.extend([0; SEPARATOR]);
        bytes.extend([german, french].concat());
        bytes.extend(MARKER);
        bytes.extend(map(&[
            ("build_epoch", number(1)),
            ("node_count", number(count as u16)),
            ("record_size", number(record as u16)),
            ("ip_version", number(version)),
        ]));
        bytes
    }

    #[test]
    fn an_address_has_the_country_of_its_network() {
        for record in [24, 28, 32] {
            let found =
                |database: &Database, address: &str| database.country(address.parse().unwrap()).map(str::to_owned);
            let both = Database::parse(database(record, 6)).unwrap();
            for (address, country) in [
                ("192.0.2.1", Some("DE")),
                ("::ffff:192.0.2.255", Some("DE")),
                ("192.0.3.1", None),
                ("2001:db8::1", Some("FR")),
                ("2001:db9::1", None),
            ] {
                assert_eq!(found(&both, address).as_deref(), country, "{address} by {record}");
            }
            let ipv4 = Database::parse(database(record, 4)).unwrap();
            assert_eq!(found(&ipv4, "192.0.2.1").as_deref(), Some("DE"));
            assert_eq!((found(&ipv4, "192.0.3.1"), found(&ipv4, "2001:db8::1")), (None, None));
        }
    }

    #[test]
    fn what_is_no_database_is_none() {
        assert!(Database::parse(Vec::new()).is_none());
        assert!(Database::parse(MARKER.to_vec()).is_none());
        let whole = database(24, 6);
        assert!(Database::parse(whole[whole.len() - 60..].to_vec()).is_none());
    }

    proptest! {
        #[test]
        fn no_database_panics(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
            let mut bytes = database(28, 6);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.drain(..cut.min(at));
            if let Some(database) = Database::parse(bytes) {
                for address in ["192.0.2.1", "2001:db8::1", "ffff::1"] {
                    let _ = database.country(address.parse().unwrap());
                }
            }
        }
    }
}
