//! Owns how text from outside (a body, a server's message, a value of the config file) is shown. Refuses to show it
//! raw or whole, so that nobody can forge a log line or flood a log.

use std::error::Error;

use serde_json::{Map, Value};

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
        let escaped = match c {
            // Quotes are harmless, and JSON is full of them.
            '\'' | '"' => c.to_string(),
            _ if is_blank(c) => c.escape_unicode().to_string(),
            _ => c.escape_debug().to_string(),
        };
        let Some(left) = room.checked_sub(escaped.chars().count()) else {
            shown.push('…');
            break;
        };
        room = left;
        shown.push_str(&escaped);
    }
    shown
}

/// Whether a character is a letter or a symbol to Unicode, and yet blank: Hangul fillers, the empty braille pattern, the null
/// notehead.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{1d159}')
}

/// `value` as JSON on one line, with the same characters escaped as JSON has it, and each text cut after [`MAX_CHARS`]
/// characters.
pub fn json(value: &Value) -> String {
    let mut shown = String::new();
    for c in cut(value).to_string().chars() {
        // JSON's own signs.
        if matches!(c, '"' | '\\' | '\'') || !(is_blank(c) || c.escape_debug().len() > 1) {
            shown.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|half| shown.push_str(&format!("\\u{half:04x}")));
        }
    }
    shown
}

fn cut(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]).into(),
            None => value.clone(),
        },
        Value::Array(list) => list.iter().map(cut).collect(),
        Value::Object(map) => {
            // Not collected, which would bring a sort of its own into the binary.
            let mut shown = Map::new();
            map.iter().for_each(|(key, value)| drop(shown.insert(key.clone(), cut(value))));
            shown.into()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
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
            ("\u{9b}31m\u{a0}\u{200b}\u{3000}\u{feff}", "`\\u{9b}31m\\u{a0}\\u{200b}\\u{3000}\\u{feff}`"),
            ("\u{115f}\u{1160}\u{2800}\u{3164}\u{ffa0}", "`\\u{115f}\\u{1160}\\u{2800}\\u{3164}\\u{ffa0}`"),
            ("\u{1d159}한글⠁", "`\\u{1d159}한글⠁`"),
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
    fn json_stays_json_without_what_a_terminal_obeys_and_with_short_texts() {
        let value = serde_json::json!({"a": ["\u{9b}\u{202e}\u{1b}\u{7f}\u{1d159}\u{3164}", "空闲\n\\", 7, null], "b": "é".repeat(81)});
        let shown = json(&value);
        assert_eq!(
            shown,
            format!(
                r#"{{"a":["\u009b\u202e\u001b\u007f\ud834\udd59\u3164","空闲\n\\",7,null],"b":"{}…"}}"#,
                "é".repeat(80)
            )
        );
        let read: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read["a"], value["a"]);
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
