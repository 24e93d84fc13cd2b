//! As whom a message leaves: the account's rule for senders that are not its own.
//!
//! The message in the queue stays as it was; the rule of the account that sends it is applied on the
//! way out, so that mail which falls back to another account leaves by that one's rule.

use std::io;

use crate::{
    mail::{
        Address, Body, Message, ReversePath,
        author::{self, Stand},
        header::Scan,
    },
    route,
};

use super::transport::{Head, start_of};

/// What of a sender is replaced by the account's mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rewrite {
    /// Nothing: the provider may refuse what the mailbox may not send as.
    #[default]
    Never,
    /// The reverse-path.
    Envelope,
    /// The author in `From`.
    Header,
    /// Either.
    Both,
}

/// An account's rule for senders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SenderRule {
    /// What is replaced.
    pub rewrite: Rewrite,
    /// The name shown with the mailbox; none: the author's own.
    pub display_name: Option<String>,
    /// Whether answers go to the author who was replaced.
    pub reply_to_original: bool,
    /// Patterns of addresses that the mailbox may send as (Send As, aliases); they stay.
    pub keep: Vec<String>,
}

impl SenderRule {
    /// The reverse-path on the wire. The null path is replaced like any other: printers send so, and
    /// a mailbox may send as nobody but itself.
    pub(super) fn reverse_path<'a>(
        &self,
        path: &'a ReversePath,
        mailbox: Option<&'a ReversePath>,
    ) -> &'a ReversePath {
        let rewrites = matches!(self.rewrite, Rewrite::Envelope | Rewrite::Both);
        match mailbox {
            Some(mailbox) if rewrites && !self.is_own(&path.to_string(), mailbox) => mailbox,
            Some(_) | None => path,
        }
    }

    /// The header section that replaces the message's own; `None`: it leaves as it is.
    ///
    /// # Errors
    /// The body file cannot be read.
    pub(super) async fn head(
        &self,
        message: &Message,
        mailbox: Option<&ReversePath>,
    ) -> io::Result<Option<Head>> {
        let rewrites = matches!(self.rewrite, Rewrite::Header | Rewrite::Both);
        let Some(path @ ReversePath::Address(mailbox)) = mailbox.filter(|_| rewrites) else {
            return Ok(None);
        };
        let start = match &message.body {
            Body::Memory(octets) => octets.clone(),
            Body::File(file) => start_of(file, HEADER_LEN_MAX).await?.into(),
        };
        let end = Scan::new(0).finish(&start).end;
        let section = start.get(..end).unwrap_or_default();
        let stand = Stand {
            mailbox,
            display_name: self.display_name.as_deref(),
            reply_to_original: self.reply_to_original,
        };
        let octets = author::replace(section, &stand, |address| self.is_own(address, path));
        Ok(octets.map(|octets| Head {
            octets,
            replaces: end,
        }))
    }

    fn is_own(&self, address: &str, mailbox: &ReversePath) -> bool {
        mailbox.to_string().eq_ignore_ascii_case(address)
            || self
                .keep
                .iter()
                .any(|pattern| route::matches(pattern, address))
    }
}

/// The mailbox as a reverse-path; `None`: it is no mail address (a smarthost's login).
pub(super) fn mailbox(text: &str) -> Option<ReversePath> {
    Address::parse(text).ok().map(ReversePath::Address)
}

/// Larger than any header section that is accepted, with our own fields.
const HEADER_LEN_MAX: usize = 256 * 1024;
