//! The fault script: what goes wrong next, in the order it was written.
//!
//! Pure but for one short lock. A fault that names a phase is played by the first fitting moment and
//! counted down; what is used up is forgotten. Nothing here knows sockets: the SMTP driver and the
//! token endpoint ask [`Script::take`] and act.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Faults waiting at once; a script longer than this is a mistake, and memory is bounded by it.
const FAULTS_MAX: usize = 100;

/// The longest wait a fault may ask for: above it, no client is still there to see the answer.
const DELAY_MAX: Duration = Duration::from_secs(600);

/// RFC 5321 §4.5.3.1.5: a reply line, its CRLF included, is at most 512 octets.
const REPLY_LEN_MAX: usize = 510;

/// The token endpoint's answers are small; a script is no file store.
const BODY_LEN_MAX: usize = 16 * 1024;

/// The moments of an SMTP session at which a fault can be played.
///
/// `accepted` lies after the message was taken and before its 250 is written: a drop there is the
/// outcome no sender can know (RFC 1047).
const SMTP_PHASES: [&str; 9] = [
    "banner",
    "ehlo",
    "starttls",
    "auth",
    "mail",
    "rcpt",
    "data",
    "end_of_data",
    ACCEPTED,
];

/// The last of them.
const ACCEPTED: &str = "accepted";

/// The moment at the token endpoint at which an answer can be slow.
const TOKEN_PHASE: &str = "token";

/// The moments of a request that sends mail by Graph or the Gmail API: it was read and nothing is
/// taken; the message is taken and nothing is answered yet.
const API_PHASES: [&str; 2] = ["api", "api_accepted"];

/// A fault to play.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// Answer `phase` with this reply: `reject`, `throttle`. After 421, and in place of the banner,
    /// the connection is closed.
    Reply {
        /// `banner`, `ehlo`, `starttls`, `auth`, `mail`, `rcpt`, `data`, `end_of_data` (the message
        /// is not taken) or `accepted` (it is taken all the same).
        phase: String,
        /// `550 5.1.1 no such user`: 4yz or 5yz.
        reply: String,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Drop the connection in this phase, without an answer.
    Drop {
        /// As above. `end_of_data`: before the message was taken; `accepted`: after it.
        phase: String,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Take the message, write so many octets of the reply that says so, and end the connection.
    Cut {
        /// Octets of the reply; all of it if there are fewer.
        octets: u16,
        /// End it by a reset (RST) instead of a close (FIN).
        #[serde(default)]
        reset: bool,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Wait before answering.
    Slow {
        /// As above, or `token`.
        phase: String,
        /// Milliseconds.
        delay_ms: u64,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Revoke every token issued so far: the mailbox must sign in again.
    Revoke,
    /// End the life of every access token issued so far; refresh tokens live on.
    Expire,
    /// Answer the next request to Graph or the Gmail API that sends mail so; nothing is taken.
    Api {
        /// HTTP status.
        status: u16,
        /// Body, sent as JSON.
        body: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u64>,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Answer the token endpoint so.
    Token {
        /// HTTP status.
        status: u16,
        /// Body, sent as JSON.
        body: String,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
}

/// Why a fault cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// There is no such moment.
    #[error(
        "phase {0:?}: use one of {smtp}, {api}",
        smtp = SMTP_PHASES.join(", "),
        api = API_PHASES.join(", ")
    )]
    Phase(String),
    /// No reply a server could write.
    #[error("reply {0:?}: want one line of a 4yz or 5yz reply, like \"450 4.2.1 try later\"")]
    Reply(String),
    /// No HTTP error status, or a body that is too long.
    #[error("status {0}: want 400 to 599, and a body of at most 16 KiB")]
    Token(u16),
    /// Nobody waits so long.
    #[error("delay_ms {0}: at most 600000")]
    Delay(u64),
    /// The script is long enough.
    #[error("the script holds 100 faults already; clear it first")]
    Full,
}

/// What to do at one moment, all faults that fit it taken together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Play {
    /// First wait so long.
    pub(super) delay: Option<Duration>,
    /// Then do this in place of the usual.
    pub(super) deed: Option<Deed>,
}

/// What is done in place of the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Write this line.
    Reply(String),
    /// Hang up.
    Drop,
    /// Write the beginning of the usual reply and end the connection.
    Cut {
        /// So much of it.
        octets: u16,
        /// By a reset.
        reset: bool,
    },
    /// Answer an HTTP request.
    Http {
        /// Status.
        status: u16,
        /// JSON.
        body: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u64>,
    },
}

/// The faults still to be played.
#[derive(Debug, Default)]
pub(super) struct Script(Mutex<Vec<Fault>>);

impl Script {
    /// Appends a fault. [`Fault::Revoke`] and [`Fault::Expire`] are deeds of the moment: the caller
    /// does them, they never stand in the script.
    pub(super) fn add(&self, fault: Fault) -> Result<(), Invalid> {
        fault.check()?;
        if matches!(fault, Fault::Revoke | Fault::Expire) {
            return Ok(());
        }
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() >= FAULTS_MAX {
            return Err(Invalid::Full);
        }
        faults.push(fault);
        Ok(())
    }

    /// What still waits, with what is left of each count.
    pub(super) fn list(&self) -> Vec<Fault> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// What to do at `phase`: the first fitting wait and the first fitting deed, each counted down.
    pub(super) fn take(&self, phase: &str) -> Play {
        let mut play = Play::default();
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter_mut().filter(|fault| fault.fits(phase)) {
            if let Fault::Slow { delay_ms, .. } = fault {
                if play.delay.is_some() {
                    continue;
                }
                play.delay = Some(Duration::from_millis(*delay_ms));
            } else {
                if play.deed.is_some() {
                    continue;
                }
                play.deed = fault.deed();
            }
            if let Some(times) = fault.times() {
                *times = times.saturating_sub(1);
            }
        }
        faults.retain_mut(|fault| fault.times().is_none_or(|times| *times > 0));
        play
    }
}

impl Fault {
    fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Reply { phase, reply, .. } => {
                if !SMTP_PHASES.contains(&phase.as_str()) {
                    return Err(Invalid::Phase(phase.clone()));
                }
                if is_refusal(reply) {
                    Ok(())
                } else {
                    Err(Invalid::Reply(reply.clone()))
                }
            }
            Self::Drop { phase, .. } => check_phase(phase),
            Self::Cut { .. } => Ok(()),
            Self::Slow {
                phase, delay_ms, ..
            } => {
                if phase != TOKEN_PHASE {
                    check_phase(phase)?;
                }
                if Duration::from_millis(*delay_ms) > DELAY_MAX {
                    return Err(Invalid::Delay(*delay_ms));
                }
                Ok(())
            }
            Self::Token { status, body, .. } | Self::Api { status, body, .. } => {
                if (400..600).contains(status) && body.len() <= BODY_LEN_MAX {
                    Ok(())
                } else {
                    Err(Invalid::Token(*status))
                }
            }
            Self::Revoke | Self::Expire => Ok(()),
        }
    }

    fn fits(&self, at: &str) -> bool {
        match self {
            Self::Reply { phase, .. } | Self::Drop { phase, .. } | Self::Slow { phase, .. } => {
                phase == at
            }
            Self::Cut { .. } => at == ACCEPTED,
            Self::Token { .. } => at == TOKEN_PHASE,
            Self::Api { .. } => at == "api",
            Self::Revoke | Self::Expire => false,
        }
    }

    fn deed(&self) -> Option<Deed> {
        match self {
            Self::Reply { reply, .. } => Some(Deed::Reply(reply.clone())),
            Self::Drop { .. } => Some(Deed::Drop),
            Self::Cut { octets, reset, .. } => Some(Deed::Cut {
                octets: *octets,
                reset: *reset,
            }),
            Self::Token { status, body, .. } => Some(Deed::Http {
                status: *status,
                body: body.clone(),
                retry_after: None,
            }),
            Self::Api {
                status,
                body,
                retry_after,
                ..
            } => Some(Deed::Http {
                status: *status,
                body: body.clone(),
                retry_after: *retry_after,
            }),
            Self::Slow { .. } | Self::Revoke | Self::Expire => None,
        }
    }

    fn times(&mut self) -> Option<&mut u32> {
        match self {
            Self::Reply { times, .. }
            | Self::Drop { times, .. }
            | Self::Cut { times, .. }
            | Self::Slow { times, .. }
            | Self::Api { times, .. }
            | Self::Token { times, .. } => times.as_mut(),
            Self::Revoke | Self::Expire => None,
        }
    }
}

fn check_phase(phase: &str) -> Result<(), Invalid> {
    if SMTP_PHASES.contains(&phase) || API_PHASES.contains(&phase) {
        Ok(())
    } else {
        Err(Invalid::Phase(phase.to_owned()))
    }
}

/// One line of a refusal that is safe to write on the wire.
fn is_refusal(reply: &str) -> bool {
    let bytes = reply.as_bytes();
    bytes.len() <= REPLY_LEN_MAX
        && bytes.iter().all(|byte| (0x20..0x7f).contains(byte))
        && matches!(bytes, [b'4' | b'5', b'0'..=b'5', b'0'..=b'9', b' ', _, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(phase: &str, times: Option<u32>) -> Fault {
        Fault::Reply {
            phase: phase.to_owned(),
            reply: "450 4.2.1 try later".to_owned(),
            times,
        }
    }

    #[test]
    fn a_fault_is_played_as_often_as_it_says_and_in_its_phase_alone() {
        let script = Script::default();
        script.add(reply("rcpt", Some(2))).unwrap();
        assert_eq!(script.take("mail"), Play::default());
        assert!(script.take("rcpt").deed.is_some());
        assert!(script.take("rcpt").deed.is_some());
        assert_eq!(script.take("rcpt"), Play::default());
        assert!(script.list().is_empty(), "what is used up is forgotten");
    }

    #[test]
    fn a_fault_without_a_count_stays_until_cleared() {
        let script = Script::default();
        script.add(reply("auth", None)).unwrap();
        for _ in 0..5 {
            assert!(script.take("auth").deed.is_some());
        }
        script.clear();
        assert_eq!(script.take("auth"), Play::default());
    }

    #[test]
    fn a_wait_and_a_deed_of_one_phase_are_played_together_and_deeds_in_order() {
        let script = Script::default();
        let wait = Fault::Slow {
            phase: "data".to_owned(),
            delay_ms: 5,
            times: Some(1),
        };
        let drop = Fault::Drop {
            phase: "data".to_owned(),
            times: Some(1),
        };
        for fault in [reply("data", Some(1)), wait, drop] {
            script.add(fault).unwrap();
        }
        let first = script.take("data");
        assert_eq!(first.delay, Some(Duration::from_millis(5)));
        assert!(matches!(first.deed, Some(Deed::Reply(_))));
        assert_eq!(script.take("data").deed, Some(Deed::Drop));
        assert_eq!(script.take("data"), Play::default());
    }

    #[test]
    fn what_no_server_could_say_is_refused_with_the_reason() {
        let script = Script::default();
        let bad_replies = [
            "",
            "250 ok",
            "550",
            "550 ",
            "550 a\r\n250 b",
            "600 x",
            "450-x",
        ];
        for bad in bad_replies {
            let fault = Fault::Reply {
                phase: "mail".to_owned(),
                reply: bad.to_owned(),
                times: None,
            };
            assert_eq!(script.add(fault), Err(Invalid::Reply(bad.to_owned())));
        }
        let nowhere = Fault::Drop {
            phase: "lunch".to_owned(),
            times: None,
        };
        assert!(matches!(script.add(nowhere), Err(Invalid::Phase(_))));
        for _ in 0..FAULTS_MAX {
            script.add(reply("mail", None)).unwrap();
        }
        assert_eq!(script.add(reply("mail", None)), Err(Invalid::Full));
    }

    #[test]
    fn the_script_reads_as_json_with_the_count_left_out() {
        let fault: Fault = serde_json::from_str(r#"{"fault":"drop","phase":"accepted"}"#).unwrap();
        let want = Fault::Drop {
            phase: "accepted".to_owned(),
            times: None,
        };
        assert_eq!(fault, want);
    }
    #[test]
    fn every_fault_in_the_manual_can_be_played() {
        let manual = include_str!("../../docs/sandbox.md");
        let faults: Vec<&str> = manual
            .split(['`', '\''])
            .filter(|text| text.starts_with(r#"{"fault""#))
            .collect();
        assert!(faults.len() > 5, "the manual has its examples");
        for text in faults {
            let fault: Fault = serde_json::from_str(text).expect(text);
            assert_eq!(Script::default().add(fault), Ok(()), "{text}");
        }
    }
}
