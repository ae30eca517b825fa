//! A shell's patterns for the names of files.

use crate::pattern;

/// `*`, `?` and `[...]` in the C locale: of bytes, without classes like `[:alpha:]`.
#[derive(Debug)]
pub struct Glob(Vec<Element>);

#[derive(Debug, PartialEq, Eq)]
enum Element {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Many,
    /// `[...]`: whether it is what is not there, and what is, from the first to the last.
    Set(bool, Vec<(u8, u8)>),
}

impl Glob {
    /// Reads a name, each of its bytes with whether it was quoted. `None` where it is no pattern.
    pub fn new(name: &[(u8, bool)]) -> Option<Self> {
        let mut elements = Vec::new();
        let mut rest = name;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            elements.push(match first {
                (b'*', false) => Element::Many,
                (b'?', false) => Element::Any,
                (b'[', false) => match set(after) {
                    Some((set, after)) => {
                        rest = after;
                        set
                    }
                    None => Element::Byte(b'['),
                },
                (byte, _) => Element::Byte(*byte),
            });
        }
        let is_pattern = elements.iter().any(|element| !matches!(element, Element::Byte(_)));
        is_pattern.then_some(Glob(elements))
    }

    /// Whether a file of this name is meant. A dot in front must be in the pattern, too.
    pub fn matches(&self, name: &[u8]) -> bool {
        if name.first() == Some(&b'.') && self.0.first() != Some(&Element::Byte(b'.')) {
            return false;
        }
        pattern::fits(&self.0, name, |element| *element == Element::Many, Element::is)
    }
}

impl Element {
    /// Whether it stands for this one byte.
    fn is(&self, byte: u8) -> bool {
        match self {
            Element::Byte(expected) => *expected == byte,
            Element::Any => true,
            Element::Many => false,
            Element::Set(negated, ranges) => ranges.iter().any(|(from, to)| (from..=to).contains(&&byte)) != *negated,
        }
    }
}

/// A set, from behind its `[`, and what follows it. `None` where it has no end.
fn set(bytes: &[(u8, bool)]) -> Option<(Element, &[(u8, bool)])> {
    let (negated, mut rest) = match bytes {
        [(b'!' | b'^', false), rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut ranges = Vec::new();
    loop {
        rest = match rest {
            // In the first place it stands for itself.
            [(b']', false), rest @ ..] if !ranges.is_empty() => return Some((Element::Set(negated, ranges), rest)),
            [(from, _), (b'-', false), (to, quoted), rest @ ..] if (*to, *quoted) != (b']', false) => {
                ranges.push((*from, *to));
                rest
            }
            [(byte, _), rest @ ..] => {
                ranges.push((*byte, *byte));
                rest
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    fn matches(pattern: &str, name: &str) -> bool {
        let bytes: Vec<_> = pattern.bytes().map(|byte| (byte, false)).collect();
        Glob::new(&bytes).unwrap_or_else(|| panic!("{pattern} is no pattern")).matches(name.as_bytes())
    }

    #[test]
    fn names_are_matched_as_by_a_shell() {
        for (pattern, name) in [
            ("*", "a"),
            ("a*", "a"),
            ("*a*b*", "xxaxxbxx"),
            ("*ab", "aab"),
            ("?b?", "abc"),
            ("[abc]", "b"),
            ("[a-c]x", "bx"),
            ("[!a-c]", "d"),
            ("[^a-c]", "d"),
            ("[]]", "]"),
            ("[]-a]", "^"),
            ("[a-]", "-"),
            ("[!]]", "a"),
            (".*", ".a"),
            ("[*", "[a"),
        ] {
            assert!(matches(pattern, name), "{pattern} and {name}");
        }
        for (pattern, name) in [
            ("*", ".a"),
            ("?a", ".a"),
            ("[.]a", ".a"),
            ("a?", "a"),
            ("*a", "ab"),
            ("[a-c]", "d"),
            ("[!a-c]", "b"),
            ("[c-a]", "b"),
            ("*a*b*", "ba"),
        ] {
            assert!(!matches(pattern, name), "{pattern} and {name}");
        }
        assert!(Glob::new(&[(b'[', false), (b'a', false)]).is_none());
        assert!(Glob::new(&[(b'*', true)]).is_none());
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"*a".repeat(1000), &"a".repeat(999)));
    }
}
