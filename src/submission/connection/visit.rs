//! What a session leaves in the table of clients ([`crate::submission::seen`]).

use super::Connection;
use crate::{
    smtp::{
        replies::Reply,
        server::{Credentials, Question},
    },
    submission::{
        remedy::Case,
        seen::{Event, Explained, Visit, Who},
    },
};

/// What explains a later refusal.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The reverse-path given last; `<>`: the null one.
    sender: Option<String>,
    /// The login name tried last, if there is such a client: others may be passwords.
    login: Option<String>,
    /// Whether the table knows of the session.
    is_seen: bool,
}

impl Connection {
    /// Keeps what a question says of the client.
    pub(super) fn heed(&mut self, question: &Question) {
        match question {
            Question::Login(
                Credentials::Password { username, .. } | Credentials::Bearer { username, .. },
            ) => {
                let known = self.context.shared.rules().clients.contains_key(username);
                self.said.login = known.then(|| username.clone());
            }
            Question::Mail { reverse_path, .. } => {
                let sender = reverse_path.address();
                let sender = sender.map_or_else(|| "<>".to_owned(), ToString::to_string);
                self.said.sender = Some(sender);
            }
            Question::Rcpt(_) => (),
        }
    }

    /// A message was accepted.
    pub(super) fn see_message(&mut self, octets: u64) {
        let sender = self.said.sender.clone().unwrap_or_default();
        self.see(Event::Message { sender, octets });
    }

    /// A reply that refuses. More recipients than fit are no refusal: they come again.
    pub(super) fn see_reply(&mut self, reply: &Reply) {
        if !reply.is_refusal() || *reply == Reply::TOO_MANY_RECIPIENTS {
            return;
        }
        let rules = self.context.shared.rules();
        let explained = Case {
            reply,
            listener: &self.context.live.listener,
            rules: &rules,
            peer: self.context.peer.ip(),
            login: self.session.login().or(self.said.login.as_deref()),
            sender: self.said.sender.as_deref(),
        }
        .explain();
        self.see(Event::Refused(explained));
    }

    /// Trouble for which there is no reply.
    pub(super) fn see_trouble(&mut self, reason: String, remedy: &str) {
        self.see(Event::Refused(Explained {
            reply: String::new(),
            reason,
            remedy: Some(remedy.to_owned()),
        }));
    }

    /// The session is over; one that did nothing is seen all the same.
    pub(super) fn see_end(&mut self) {
        self.see(Event::Session);
    }

    fn see(&mut self, event: Event) {
        let who = Who {
            address: self.context.peer.ip(),
            helo: self.session.helo().map(str::to_owned),
            login: self.session.login().map(str::to_owned),
        };
        let shared = &self.context.shared;
        let visit = Visit {
            listener: &self.context.live.listener.name,
            tls: self.session.is_tls(),
            at: shared.clock.now(),
            is_new: !std::mem::replace(&mut self.said.is_seen, true),
        };
        shared.seen.note(who, visit, event);
    }
}
