//! Owns what a probe got, whatever its kind. A kind makes one, and [`result`](super::result) takes the result out of it.

use std::fmt;

use crate::excerpt::excerpt;

/// What a probe got.
#[derive(Debug, PartialEq)]
pub struct Document {
    /// The status of an HTTP response; no other kind has one.
    pub status: Option<u16>,
    /// Its bytes, as far as any rule needs them.
    pub content: Content,
}

/// The bytes of a document. They need not be UTF-8.
#[derive(Debug, PartialEq)]
pub enum Content {
    /// The kind has no document, or no rule needs it.
    Nothing,
    /// All of them.
    Whole(Vec<u8>),
    /// The beginning of a document that is longer than what is read.
    Cut(Vec<u8>),
}

impl Document {
    /// Of a kind that has no document.
    pub fn nothing() -> Self {
        Self { status: None, content: Content::Nothing }
    }

    /// A document that was read to its end.
    pub fn whole(bytes: impl Into<Vec<u8>>) -> Self {
        Self { status: None, content: Content::Whole(bytes.into()) }
    }

    /// The beginning of a document that is longer than what is read.
    pub fn cut(bytes: impl Into<Vec<u8>>) -> Self {
        Self { status: None, content: Content::Cut(bytes.into()) }
    }
}

impl fmt::Display for Document {
    /// As `probe` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(status) = self.status {
            write!(f, "{status}")?;
            f.write_str(if matches!(self.content, Content::Nothing) { ", " } else { " " })?;
        }
        match (&self.content, self.status) {
            (Content::Nothing, Some(_)) => f.write_str("body not read"),
            (Content::Nothing, None) => f.write_str("a connection"),
            (Content::Whole(bytes), _) => f.write_str(&excerpt(&String::from_utf8_lossy(bytes))),
            (Content::Cut(bytes), _) => write!(f, "{}, and more", excerpt(&String::from_utf8_lossy(bytes))),
        }
    }
}
