//! Tokens in paths and arguments: a percent sign and a letter, as in sshd_config(5), TOKENS.

/// Puts values in place of tokens, and a percent sign in place of two.
///
/// # Errors
/// The token that has no value.
pub(super) fn expand(text: &str, value: impl Fn(char) -> Option<String>) -> Result<String, String> {
    let mut pieces = text.split('%');
    let mut expanded = pieces.next().unwrap_or_default().to_owned();
    while let Some(piece) = pieces.next() {
        let mut characters = piece.chars();
        match characters.next() {
            Some(letter) => {
                expanded += &value(letter).ok_or_else(|| format!("%{letter}"))?;
                expanded += characters.as_str();
            }
            // Two of them, with nothing between.
            None => {
                expanded.push('%');
                expanded += pieces.next().ok_or("%")?;
            }
        }
    }
    Ok(expanded)
}

/// Whether a text has no tokens but these.
///
/// # Errors
/// What is wrong with it.
pub fn check_tokens(text: &str, letters: &str) -> Result<(), String> {
    let known = |letter| letters.contains(letter).then(String::new);
    expand(text, known).map(drop).map_err(|token| {
        let known: Vec<String> = letters.chars().map(|letter| format!("%{letter}")).collect();
        format!("{token} stands for nothing here: use {} or %%, which is a percent sign", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::{check_tokens, expand};

    #[test]
    fn tokens_are_replaced_once() {
        let value = |letter: char| (letter == 'u').then(|| "100%u".to_owned());
        for (text, expanded) in
            [("", ""), ("a", "a"), ("%u", "100%u"), ("/%u/é%u.pub", "/100%u/é100%u.pub"), ("%%u%%%%%u", "%u%%100%u")]
        {
            assert_eq!(expand(text, value).as_deref(), Ok(expanded), "{text}");
        }
        for (text, token) in [("%", "%"), ("%%%", "%"), ("a%h", "%h"), ("%é", "%é"), ("%u%U", "%U")] {
            assert_eq!(
                expand(text, value).as_deref(),
                Err(&token.to_owned()).map_err(|token: &String| token),
                "{text}"
            );
        }
    }

    #[test]
    fn an_unknown_token_is_told_of_with_those_that_are_known() {
        assert_eq!(check_tokens("/keys/%u %k 100%%", "uk"), Ok(()));
        let error = check_tokens("%h/.ssh", "uk").unwrap_err();
        assert_eq!(error, "%h stands for nothing here: use %u, %k or %%, which is a percent sign");
    }
}
