//! Owns what people write into YAML by mistake and YAML takes for something else, so that its own message leads nowhere: looked
//! for when a file is refused.

use super::keys::MAPS;
use super::syntax::is_invisible;

pub(super) const FULL_WIDTH_COLON: char = '：';

/// What to write in its place.
pub(super) const COLON: &str = "write a colon and a space `: ` in place of the full-width colon `：`";

/// The mistakes in a text, each with its line.
pub(super) fn mistakes(text: &str) -> Vec<String> {
    let mut lines = text.lines().enumerate();
    lines.by_ref().filter_map(|(index, line)| Some(format!("line {}: {}", index + 1, mistake(line)?))).collect()
}

fn mistake(line: &str) -> Option<String> {
    let content = line.trim_start_matches([' ', '-']);
    match content.chars().next()? {
        '#' => return None,
        '\t' if !content.trim().is_empty() => return Some("must be indented by spaces, got a tab".into()),
        c if is_invisible(c) && !content.trim().is_empty() => {
            return Some(format!("must be indented by spaces, got U+{:04X}", u32::from(c)));
        }
        _ => {}
    }
    let (key, _) = content.split_once(FULL_WIDTH_COLON)?;
    let key = key.rsplit(['{', ',']).next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    MAPS.iter().any(|map| map.keys.contains(&key)).then(|| COLON.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_with_their_lines() {
        for (text, said) in [
            ("plugins:\n\t- name: http_probe", &["line 2: must be indented by spaces, got a tab"][..]),
            ("a:\n  -\tb: c", &["line 2: must be indented by spaces, got a tab"]),
            (
                "a:\n\u{3000}b: c\n \u{a0}d: e",
                &["line 2: must be indented by spaces, got U+3000", "line 3: must be indented by spaces, got U+00A0"],
            ),
            ("- url：http://h", &["line 1: write a colon and a space `: ` in place of the full-width colon `：`"]),
            (
                "- {state: A, min： 1}",
                &["line 1: write a colon and a space `: ` in place of the full-width colon `：`"],
            ),
            // What is no key of ours may be text.
            ("state: 等级：3", &[]),
            ("a:\tb\n\t\n  # 说明：url\n", &[]),
        ] {
            assert_eq!(mistakes(text), said, "{text:?}");
        }
    }
}
