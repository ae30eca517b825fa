//! Patterns: of `*` and `?`, as in ssh_config(5), PATTERNS, and of other elements.

/// Whether `text` matches a pattern.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    fits(pattern, text, |byte| *byte == b'*', |expected, byte| *expected == b'?' || *expected == byte)
}

/// Whether `text` fits the elements of a pattern, of which some stand for any bytes (`is_star`) and the others for one
/// (`is_one`). In time linear in both lengths multiplied, whatever the pattern.
pub fn fits<E>(pattern: &[E], text: &[u8], is_star: impl Fn(&E) -> bool, is_one: impl Fn(&E, u8) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, with that star holding one byte more.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(element) if is_star(element) => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(element) if is_one(element, text[t]) => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((after, held)) => {
                    star = Some((after, held + 1));
                    (p, t) = (after, held + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(is_star)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_opensshs_do() {
        for (pattern, text, expected) in [
            ("LANG", "LANG", true),
            ("LANG", "LANGUAGE", false),
            ("LC_*", "LC_", true),
            ("*A?C*", "xxABCyy", true),
            ("*A?C", "xxABCyy", false),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "a1b2b3c", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
