//! Owns how text from outside (a body, a server's message, a value of the config file) is shown. Refuses to show it
//! raw or whole, so that nobody can forge a log line or flood a log.

use std::error::Error;

/// The most characters of one foreign text that a message shows.
pub const MAX_CHARS: usize = 80;

/// `text` in backquotes, control and invisible characters escaped, cut after [`MAX_CHARS`] characters.
pub fn excerpt(text: &str) -> String {
    format!("`{}`", escape(text, MAX_CHARS))
}

/// An error and its causes on one line, outermost first, each shown once, escaped and cut like [`excerpt`].
pub fn chain(error: &dyn Error) -> String {
    let mut shown = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if !shown.is_empty() {
            shown.push_str(": ");
        }
        shown.push_str(&escape(&error.to_string(), MAX_CHARS));
        cause = error.source();
    }
    shown
}

/// The first `most` bytes of `text`, or fewer where that would halve a character.
pub fn prefix(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `text` with control and invisible characters escaped, cut after `most` characters.
pub fn escape(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let mut room = most;
    for c in text.chars() {
        // Quotes are harmless, and JSON is full of them.
        let escaped = if matches!(c, '\'' | '"') { c.to_string() } else { c.escape_debug().to_string() };
        let Some(left) = room.checked_sub(escaped.chars().count()) else {
            shown.push('…');
            break;
        };
        room = left;
        shown.push_str(&escaped);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_the_rest_stays_readable() {
        for (text, shown) in [
            ("Allocated", "`Allocated`"),
            ("空闲", "`空闲`"),
            ("a\nINFO forged", "`a\\nINFO forged`"),
            ("\u{1b}[31m\u{202e}", "`\\u{1b}[31m\\u{202e}`"),
            ("it's \"so\"", "`it's \"so\"`"),
        ] {
            assert_eq!(excerpt(text), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_80_characters() {
        assert_eq!(excerpt(&"x".repeat(80)), format!("`{}`", "x".repeat(80)));
        assert_eq!(excerpt(&"x".repeat(81)), format!("`{}…`", "x".repeat(80)));
        assert_eq!(excerpt(&"\n".repeat(100)).chars().count(), 80 + 3);
    }

    #[test]
    fn a_chain_tells_each_cause_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("no answer")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Outer(std::io::Error::other("refused"));
        assert_eq!(chain(&error), "no answer: refused");
    }
}
