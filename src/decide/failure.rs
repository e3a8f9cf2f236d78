//! Owns why a write did not, or may not have, taken effect, and what follows from that: how soon it is tried again, and what is
//! known of the object (behaviour 4.5, 8.2).

use std::fmt;
use std::time::Duration;

use ureq::http::StatusCode;

use super::guarded::Hold;
use super::pace::Retry;
use crate::excerpt::excerpt;

/// Why a write did not, or may not have, taken effect.
#[derive(Debug)]
pub enum WriteError {
    /// No connection, no TLS, no answer in time, or one that breaks off or cannot be understood.
    NoAnswer {
        /// Why.
        error: Box<dyn std::error::Error + Send + Sync>,
        /// Whether a patch had a connection to be sent on.
        perhaps_written: bool,
    },
    /// An answer with another status than 2xx.
    Refused(Refusal),
    /// What was read forbids to write.
    Hold(Hold),
}

/// An answer of the API server that is no success.
#[derive(Debug)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// Its message, escaped and cut.
    pub message: String,
    /// The pause that it asks for.
    pub retry_after: Option<Duration>,
    /// What an operator can do about it.
    pub advice: String,
    /// Whether the patch may have taken effect all the same.
    pub perhaps_written: bool,
    /// Whether an admission policy or a webhook forbids it, and not a missing rule of RBAC.
    pub by_admission: bool,
}

impl WriteError {
    /// The same of a request that changes nothing.
    pub fn without_effect(self) -> Self {
        match self {
            Self::NoAnswer { error, .. } => Self::NoAnswer { error, perhaps_written: false },
            Self::Refused(refusal) => Self::Refused(Refusal { perhaps_written: false, ..refusal }),
            Self::Hold(_) => self,
        }
    }

    /// A short name of the kind of failure, the same for failures that a log need not tell apart.
    pub fn kind(&self) -> String {
        match self {
            Self::NoAnswer { .. } => "no answer".into(),
            Self::Refused(refusal) => refusal.status.as_str().to_owned(),
            Self::Hold(Hold::OtherPod) => "other pod".into(),
            Self::Hold(Hold::Superseded) => "superseded".into(),
            Self::Hold(Hold::Protected(_)) => "protected".into(),
        }
    }

    /// How long this is normal: OpenKruiseGame creates a GameServer after its pod, and the previous pod's goes soon. An
    /// admission policy that refuses the previous pod's may also be one that has to be corrected.
    pub fn patience(&self) -> Duration {
        match self {
            Self::Refused(refusal) if refusal.by_admission => Duration::from_secs(15),
            _ => match self.retry() {
                Retry::Appearing => Duration::from_secs(60),
                Retry::Transient | Retry::Persistent | Retry::Protected => Duration::ZERO,
            },
        }
    }

    /// How soon it may be over.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoAnswer { .. } => Retry::Transient,
            // An admission policy refuses even to read the GameServer of the previous pod.
            Self::Refused(refusal) if refusal.by_admission => Retry::Appearing,
            Self::Refused(refusal) => match refusal.status {
                StatusCode::NOT_FOUND => Retry::Appearing,
                StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => Retry::Transient,
                status if status.is_server_error() => Retry::Transient,
                _ => Retry::Persistent,
            },
            Self::Hold(Hold::OtherPod) => Retry::Appearing,
            Self::Hold(Hold::Superseded) => Retry::Persistent,
            Self::Hold(Hold::Protected(_)) => Retry::Protected,
        }
    }

    /// The pause that the server asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::NoAnswer { .. } | Self::Hold(_) => None,
        }
    }

    /// Whether the patch may have taken effect, or may still.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::NoAnswer { perhaps_written, .. } => *perhaps_written,
            Self::Refused(refusal) => refusal.perhaps_written,
            Self::Hold(_) => false,
        }
    }

    /// Whether the object changed after it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(Refusal { status: StatusCode::CONFLICT, .. }))
    }

    /// Whether the object is not there, or is another pod's.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.status == StatusCode::NOT_FOUND,
            Self::Hold(hold) => *hold == Hold::OtherPod,
            Self::NoAnswer { .. } => false,
        }
    }

    /// Whether a later pod of this name has taken over. A Pod of another uid than the process was started in is a later one.
    pub fn is_superseded(&self) -> bool {
        match self {
            Self::Hold(hold) => *hold == Hold::Superseded,
            Self::Refused(_) | Self::NoAnswer { .. } => false,
        }
    }

    /// Whether it was something in the patch that was refused, so that another patch may be accepted.
    pub fn is_about_the_fields(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                let is_invalid = matches!(refusal.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
                is_invalid || refusal.by_admission
            }
            Self::NoAnswer { .. } | Self::Hold(_) => false,
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { .. } => f.write_str("no response"),
            Self::Refused(Refusal { status, message, advice, .. }) => {
                write!(f, "status {}, {message}{advice}", status.as_u16())
            }
            Self::Hold(Hold::OtherPod) => f.write_str("the GameServer still belongs to the previous pod of this name"),
            Self::Hold(Hold::Superseded) => f.write_str("a later pod of this name has taken over"),
            Self::Hold(Hold::Protected(state)) => {
                write!(f, "opsState {} was set by someone else and is protected", excerpt(state))
            }
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoAnswer { error, .. } => Some(&**error),
            Self::Refused(_) | Self::Hold(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, by_admission: bool) -> WriteError {
        WriteError::Refused(Refusal {
            status: StatusCode::from_u16(status).unwrap(),
            message: "no".into(),
            retry_after: Some(Duration::from_secs(7)),
            advice: "; do this".into(),
            perhaps_written: status >= 500,
            by_admission,
        })
    }

    #[test]
    fn each_failure_has_its_consequences() {
        let no_answer = |perhaps_written| WriteError::NoAnswer { error: "cut off".into(), perhaps_written };
        let s = Duration::from_secs;
        // What is true of it: `u`nanswered, `c`onflict, `m`issing, `s`uperseded, `f`ields alone were refused.
        for (error, kind, retry, patience, is) in [
            (no_answer(true), "no answer", Retry::Transient, 0, "u"),
            (no_answer(false), "no answer", Retry::Transient, 0, ""),
            (refused(400, false), "400", Retry::Persistent, 0, "f"),
            (refused(401, false), "401", Retry::Persistent, 0, ""),
            (refused(403, false), "403", Retry::Persistent, 0, ""),
            (refused(403, true), "403", Retry::Appearing, 15, "f"),
            (refused(404, false), "404", Retry::Appearing, 60, "m"),
            (refused(409, false), "409", Retry::Transient, 0, "c"),
            (refused(422, false), "422", Retry::Persistent, 0, "f"),
            (refused(429, false), "429", Retry::Transient, 0, ""),
            (refused(503, false), "503", Retry::Transient, 0, "u"),
            (WriteError::Hold(Hold::OtherPod), "other pod", Retry::Appearing, 60, "m"),
            (WriteError::Hold(Hold::Superseded), "superseded", Retry::Persistent, 0, "s"),
            (WriteError::Hold(Hold::Protected("A".into())), "protected", Retry::Protected, 0, ""),
        ] {
            assert_eq!((error.kind().as_str(), error.retry(), error.patience()), (kind, retry, s(patience)), "{error}");
            let found = [
                (error.is_unanswered(), 'u'),
                (error.is_conflict(), 'c'),
                (error.is_missing(), 'm'),
                (error.is_superseded(), 's'),
                (error.is_about_the_fields(), 'f'),
            ];
            let found: String = found.iter().filter(|(is, _)| *is).map(|(_, letter)| letter).collect();
            assert_eq!(found, is, "{error}");
            let is_refusal = matches!(error, WriteError::Refused(_));
            assert_eq!(error.retry_after(), is_refusal.then_some(s(7)), "{error}");
        }
        assert_eq!(refused(403, true).to_string(), "status 403, no; do this");
        let caused = std::error::Error::source(&no_answer(true)).map(ToString::to_string);
        assert_eq!((no_answer(true).to_string(), caused), ("no response".into(), Some("cut off".into())));
    }

    #[test]
    fn what_changes_nothing_was_not_written_whatever_the_answer_was() {
        for error in [refused(500, false), WriteError::NoAnswer { error: "cut off".into(), perhaps_written: true }] {
            assert!(error.is_unanswered() && !error.without_effect().is_unanswered());
        }
    }
}
