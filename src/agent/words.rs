//! A command's words, as a shell would make them, for images that have none.
//!
//! Quotes, backslashes, `~` and the patterns `*`, `?` and `[...]` mean what they mean to `sh` in the C locale, which
//! is what clients that name remote files rely on. Variables, substitutions and operators are beyond it: their
//! characters stand for themselves.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::glob::Glob;
use super::passwd;

/// More than this the words may not come to, with what becomes of their patterns, in bytes: the kernel would not take
/// it as arguments.
const LIMIT: usize = 2 * 1024 * 1024;

/// Why a command has no words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A quote has no end.
    Unterminated,
    /// It comes to over [`LIMIT`].
    TooLong,
}

/// A byte of a word, and whether it was quoted.
type Byte = (u8, bool);

/// A word as it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Word {
    /// Without quotes and backslashes.
    bytes: Vec<Byte>,
    /// Where in the command it ends.
    pub end: usize,
}

impl Word {
    /// What it says, with nothing expanded.
    pub fn literal(&self) -> OsString {
        OsString::from_vec(plain(&self.bytes))
    }
}

/// The words of `command`, not expanded.
pub fn split(command: &[u8]) -> Result<Vec<Word>, Error> {
    let mut words = Vec::new();
    let mut word: Option<Vec<Byte>> = None;
    let mut quote = None;
    let mut bytes = command.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (None, byte) if byte.is_ascii_whitespace() => {
                words.extend(word.take().map(|bytes| Word { bytes, end: at }));
            }
            (None, b'\'' | b'"') => {
                quote = Some(*byte);
                word.get_or_insert_default();
            }
            (Some(open), byte) if open == *byte => quote = None,
            (None | Some(b'"'), b'\\') => match bytes.next() {
                Some((_, b'\n')) => {}
                // Between double quotes, a backslash is one unless it has something to protect.
                Some((_, next)) if quote.is_some() && !b"$`\"\\".contains(next) => {
                    word.get_or_insert_default().extend([(b'\\', true), (*next, true)]);
                }
                Some((_, next)) => word.get_or_insert_default().push((*next, true)),
                None => word.get_or_insert_default().push((b'\\', true)),
            },
            (_, byte) => word.get_or_insert_default().push((*byte, quote.is_some())),
        }
    }
    if quote.is_some() {
        return Err(Error::Unterminated);
    }
    words.extend(word.map(|bytes| Word { bytes, end: command.len() }));
    Ok(words)
}

/// The words of `command`, each expanded: `~` is `home`, and a pattern becomes the files that it stands for, or stays
/// where there are none.
pub fn expand(command: &[u8], home: &OsStr) -> Result<Vec<OsString>, Error> {
    let mut expanded = Vec::new();
    let mut size = 0;
    for word in split(command)? {
        let bytes = with_home(word.bytes, home);
        let mut files = files(&bytes)?;
        if files.is_empty() {
            files.push(plain(&bytes));
        }
        size += size_of_all(&files);
        if size > LIMIT {
            return Err(Error::TooLong);
        }
        expanded.extend(files.into_iter().map(OsString::from_vec));
    }
    Ok(expanded)
}

fn plain(bytes: &[Byte]) -> Vec<u8> {
    bytes.iter().map(|(byte, _)| *byte).collect()
}

fn size_of_all(words: &[Vec<u8>]) -> usize {
    words.iter().map(|word| word.len() + 1).sum()
}

/// Puts a home directory in the place of `~` and `~user`, where that is not quoted and the user exists.
fn with_home(word: Vec<Byte>, home: &OsStr) -> Vec<Byte> {
    let end = word.iter().position(|(byte, _)| *byte == b'/').unwrap_or(word.len());
    let (tilde, rest) = word.split_at(end);
    if tilde.first() != Some(&(b'~', false)) || tilde.iter().any(|(_, quoted)| *quoted) {
        return word;
    }
    let home = match &plain(tilde)[1..] {
        b"" => home.to_owned(),
        user => match passwd::by_name(user) {
            Some(entry) => entry.home,
            None => return word,
        },
    };
    // No part of it is a pattern.
    let home = home.as_bytes().iter().map(|byte| (*byte, true));
    home.chain(rest.iter().copied()).collect()
}

/// The files that a word stands for, sorted. None where no part of it is a pattern.
fn files(word: &[Byte]) -> Result<Vec<Vec<u8>>, Error> {
    let mut found = vec![Vec::new()];
    let mut is_pattern = false;
    // Each part ends with its slash.
    for part in word.split_inclusive(|(byte, _)| *byte == b'/') {
        let (name, slash) = match part {
            [name @ .., (b'/', _)] => (name, true),
            name => (name, false),
        };
        match Glob::new(name) {
            Some(glob) => {
                is_pattern = true;
                found = matches(&found, &glob, slash)?;
            }
            None => found.iter_mut().for_each(|path| path.extend(plain(part))),
        }
        if size_of_all(&found) > LIMIT {
            return Err(Error::TooLong);
        }
    }
    if !is_pattern {
        return Ok(Vec::new());
    }
    found.retain(|path| Path::new(OsStr::from_bytes(path)).symlink_metadata().is_ok());
    found.sort_unstable();
    Ok(found)
}

/// What fits the pattern in each of these directories; with `slash`, the directories among it.
fn matches(directories: &[Vec<u8>], glob: &Glob, slash: bool) -> Result<Vec<Vec<u8>>, Error> {
    let mut found = Vec::new();
    let mut size = 0;
    for directory in directories {
        let path = if directory.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(directory)) };
        let Ok(entries) = std::fs::read_dir(path) else { continue };
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name();
            if !glob.matches(name.as_bytes()) || slash && !path.join(&name).is_dir() {
                continue;
            }
            let file = [&directory[..], name.as_bytes(), if slash { b"/" } else { b"" }].concat();
            size += file.len() + 1;
            if size > LIMIT {
                return Err(Error::TooLong);
            }
            found.push(file);
        }
    }
    Ok(found)
}

/// A command's words, and their patterns against names. No file is looked for.
pub(crate) fn fuzz(command: &[u8]) {
    let Ok(words) = split(command) else { return };
    let mut last = 0;
    for word in words {
        assert!((last..=command.len()).contains(&word.end));
        last = word.end;
        let literal = word.literal();
        if let Some(glob) = Glob::new(&word.bytes) {
            for name in [literal.as_bytes(), command, b""] {
                glob.matches(name);
            }
        }
        with_home(word.bytes, OsStr::new("/home"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, expand, split};
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn literals(command: &str) -> Vec<String> {
        split(command.as_bytes()).unwrap().iter().map(|word| word.literal().into_string().unwrap()).collect()
    }

    #[test]
    fn quotes_and_backslashes_are_the_shells() {
        assert_eq!(literals(" echo\t 'a  b'\n\"c d\" "), ["echo", "a  b", "c d"]);
        assert_eq!(literals(r#"a\ b 'a\b' "a\b\"\$" a"b"'c'\d"#), ["a b", r"a\b", r#"a\b"$"#, "abcd"]);
        assert_eq!(literals(r#"'' "" '"' "'" \' end\"#), ["", "", "\"", "'", "'", "end\\"]);
        assert_eq!(literals("a\\\nb $HOME `x` | > &"), ["ab", "$HOME", "`x`", "|", ">", "&"]);
        assert_eq!(literals("  "), [""; 0]);
        for open in ["'", "\"", "a 'b\"", "\"\\\""] {
            assert_eq!(split(open.as_bytes()), Err(Error::Unterminated), "{open}");
        }
    }

    #[test]
    fn a_word_says_where_it_ends() {
        let words = split(b" 's'cp -t x").unwrap();
        assert_eq!(words.iter().map(|word| word.end).collect::<Vec<_>>(), [6, 9, 11]);
    }

    fn expanded(command: &str) -> Vec<String> {
        let words = expand(command.as_bytes(), OsStr::new("/ho*me")).unwrap();
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn a_tilde_is_a_home_directory_unless_it_is_quoted() {
        assert_eq!(expanded(r"~ ~/a ~root/b a~ '~' \~/x"), ["/ho*me", "/ho*me/a", "/root/b", "a~", "~", "~/x"]);
        assert_eq!(expanded("~no-such-user/x ~'root' ~ro\\ot"), ["~no-such-user/x", "~root", "~root"]);
    }

    #[test]
    fn a_pattern_is_the_files_that_it_stands_for() {
        let directory = std::env::temp_dir().join(format!("berth-words-{}", std::process::id()));
        let root = directory.to_str().unwrap();
        for name in ["a.txt", "b.txt", "b*", ".hidden", "d/x.txt", "d/y", "e e/x.txt", "f/.x.txt"] {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", directory.join("link")).unwrap();
        let there = |pattern: &str| -> Vec<String> {
            let words = expanded(&format!("{root}/{pattern}"));
            words.iter().map(|word| word.strip_prefix(root).unwrap()[1..].to_owned()).collect()
        };
        assert_eq!(there("*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(there("*/x.*"), ["d/x.txt", "e e/x.txt"]);
        assert_eq!(there("*/"), ["d/", "e e/", "f/"]);
        assert_eq!(there("[d-f]*//x.txt"), ["d//x.txt", "e e//x.txt"]);
        assert_eq!(there(".h*"), [".hidden"]);
        assert_eq!(there("l?nk"), ["link"]);
        assert_eq!(there("'b*'"), ["b*"]);
        assert_eq!(there("b\\*"), ["b*"]);
        assert_eq!(there("\"e e\"/*"), ["e e/x.txt"]);
        assert_eq!(there("*.none"), ["*.none"]);
        assert_eq!(there("*/../a.txt"), ["d/../a.txt", "e e/../a.txt", "f/../a.txt"]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn words_that_the_kernel_would_not_take_are_refused() {
        let deep = "/*/..".repeat(400);
        assert_eq!(expand(deep.as_bytes(), OsStr::new("/")), Err(Error::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn whatever_is_quoted_comes_back(words in prop::collection::vec(prop::collection::vec(1_u8.., 0..9), 1..4)) {
            let quoted = |word: &Vec<u8>| {
                let inner = word.split(|byte| *byte == b'\'').collect::<Vec<_>>().join(&b"'\\''"[..]);
                [b"'", &inner[..], b"'"].concat()
            };
            let command = words.iter().map(quoted).collect::<Vec<_>>().join(&b' ');
            let found: Vec<_> = expand(&command, OsStr::new("/")).unwrap();
            prop_assert_eq!(found.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(), words);
        }

        #[test]
        fn no_command_makes_it_panic(command in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[ab \\\\'\"~\\[\\]!*?-]{0,20}".prop_map(String::into_bytes),
        ]) {
            let _ = expand(&command, OsStr::new("/"));
        }
    }
}
