//! What the operator reads of a refusal: why, and what to do, to the line of the configuration.
//!
//! The client reads a constant that tells nothing; this is the other reader. Pure.

use std::{fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

use super::{Listener, Rules, seen::Explained};
use crate::smtp::replies::Reply;

/// A refusal and what is known around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) reply: &'a Reply,
    pub(super) listener: &'a Listener,
    pub(super) rules: &'a Rules,
    pub(super) peer: Option<IpAddr>,
    /// What it is logged in as, or tried to log in as, if there is such a client.
    pub(super) login: Option<&'a str>,
    /// The reverse-path it gave last.
    pub(super) sender: Option<&'a str>,
}

impl Case<'_> {
    /// Why, and what to do.
    pub(super) fn explain(&self) -> Explained {
        let reply = self.reply.0.trim_ascii_end();
        let (reason, remedy) = self
            .access()
            .or_else(|| self.login())
            .or_else(|| self.mail())
            .or_else(|| self.protocol())
            .unwrap_or_else(|| (plain(reply), None));
        Explained {
            reply: reply.to_owned(),
            reason,
            remedy,
        }
    }

    fn is(&self, reply: &Reply) -> bool {
        self.reply == reply
    }

    /// `in the [[listener]] with address = "...": line`.
    fn listener_line(&self, line: &str) -> String {
        let name = &self.listener.name;
        format!("in the [[listener]] with address = \"{name}\": {line}; then `gatepost reload`")
    }

    /// Who may connect, and how.
    fn access(&self) -> Option<(String, Option<String>)> {
        let listener = self.listener;
        if self.is(&Reply::ACCESS_DENIED) {
            let peer = self.peer?;
            let mut nets: Vec<String> = listener.allow.iter().map(IpNet::to_string).collect();
            nets.push(IpNet::from(peer).to_string());
            let line = format!(
                "allow = [\"{}\"] (a public address needs auth = \"required\" as well)",
                nets.join("\", \"")
            );
            return said(
                "its address is not in the allow list",
                self.listener_line(&line),
            );
        }
        if self.is(&Reply::TOO_MANY_SESSIONS) {
            let (all, each) = (
                listener.max_connections,
                listener.max_connections_per_client,
            );
            let line = format!(
                "max_connections_per_client above {each} or max_connections above {all}, if the \
                 device means it"
            );
            return said(
                "it has too many connections open",
                self.listener_line(&line),
            );
        }
        if self.is(&Reply::NOT_TLS) {
            let line = "tls = \"implicit\" with certificate_file and key_file";
            let line = self.listener_line(line);
            let remedy = format!("turn SSL/TLS off in the device (or to STARTTLS), or {line}");
            return said("it begins with TLS, and this listener does not", remedy);
        }
        if self.is(&Reply::NO_STARTTLS) {
            let line = self.listener_line("tls = \"starttls\" with certificate_file and key_file");
            let remedy = format!("turn TLS off in the device, or {line}");
            return said("it wants STARTTLS, which this listener has not", remedy);
        }
        None
    }

    /// Logins.
    fn login(&self) -> Option<(String, Option<String>)> {
        if self.is(&Reply::AUTH_FAILED) || self.is(&Reply::TOO_MANY_LOGINS) {
            let is_disabled = |login| self.rules.clients.get(login).is_some_and(|c| c.disabled);
            return match self.login {
                Some(login) if is_disabled(login) => said(
                    &format!("the client {login} is disabled"),
                    format!(
                        "enable it in the console under Clients, or in the file with disabled = false in \
                         the [[client]] {login}; or keep the device away"
                    ),
                ),
                Some(login) => said(
                    &format!("wrong password for the client {login}"),
                    format!(
                        "type it anew in the device; or give it another: made in the console, under \
                         Clients; made in the file, with `gatepost hash-password` into password_hash of \
                         the [[client]] {login}"
                    ),
                ),
                None => {
                    let mut remedy =
                        "add it in the console under Clients, or in the file: [[client]] with name = \
                         \"...\" and password_hash from `gatepost hash-password`; there are: "
                            .to_owned();
                    let known: Vec<&str> = self.rules.clients.keys().map(String::as_str).collect();
                    remedy.push_str(if known.is_empty() { "none" } else { "" });
                    remedy.push_str(&known.join(", "));
                    said("no [[client]] has the user name it gave", remedy)
                }
            };
        }
        if self.is(&Reply::AUTH_LATER) {
            let remedy = "nobody is let in from there, or by that name, for a while: mend the password in \
                          the device, then wait some minutes";
            return said("too many logins failed", remedy.to_owned());
        }
        if self.is(&Reply::NO_AUTH) {
            let remedy = "turn authentication off in the device, or add a [[client]] for it (and auth \
                          = \"optional\")";
            return said(
                "it wants to log in, which is not offered here",
                remedy.to_owned(),
            );
        }
        if self.is(&Reply::TLS_FIRST) || self.is(&Reply::TLS_AND_LOGIN_FIRST) {
            let line = self.listener_line("auth_without_tls = \"always\"");
            let remedy = format!("turn STARTTLS on in the device, or {line} (passwords in clear)");
            return said("it would have to log in without TLS", remedy);
        }
        if self.is(&Reply::LOGIN_FIRST) {
            let line = self.listener_line("auth = \"optional\" and allow = [its network]");
            let remedy = format!("give it the name and password of a [[client]], or {line}");
            return said("it did not log in", remedy);
        }
        None
    }

    /// What it sends, and as whom.
    fn mail(&self) -> Option<(String, Option<String>)> {
        let sender = self.sender.unwrap_or("<>");
        if self.is(&Reply::SENDER_REFUSED) {
            let client = self.rules.clients.get(self.login?)?;
            let login = self.login.unwrap_or_default();
            let mut senders = client.senders.join("\", \"");
            write!(senders, "\", \"{sender}").unwrap_or_default();
            let line = format!("in the [[client]] {login}: senders = [\"{senders}\"]");
            let reason = format!("it sends as {sender}, which it may not");
            let edit = format!("made in the console: edit it under Clients, and add {sender}");
            return said(
                &reason,
                format!("{line}; {edit}; or another sender in the device"),
            );
        }
        if self.is(&Reply::NO_ROUTE) {
            let remedy = format!(
                "[[route]] with sender = \"{sender}\" and account = \"NAME\", or default_account = \
                 \"NAME\""
            );
            return said(&format!("no account sends for {sender}"), remedy);
        }
        if self.is(&Reply::TOO_BIG) {
            let mebibytes = self.listener.max_message_size >> 20;
            let line = format!("max_message_size above {mebibytes}MiB (providers have limits too)");
            let remedy = format!(
                "a lower resolution in the scanner, or {}",
                self.listener_line(&line)
            );
            return said("its message is too big", remedy);
        }
        if self.is(&Reply::BARE_LF) || self.is(&Reply::BARE_CR) || self.is(&Reply::BARE_ENDINGS) {
            let remedy = self.listener_line("line_endings = \"normalize\"");
            return said("it ends lines with bare LF or CR", remedy);
        }
        if self.is(&Reply::DATA_LINE_TOO_LONG) {
            let remedy = self.listener_line("long_lines = \"pass\"");
            return said("it writes lines over 998 octets", remedy);
        }
        if self.is(&Reply::STORE_FULL) {
            return said(
                "no space for mail",
                "make room on the disk of state_dir".to_owned(),
            );
        }
        if self.is(&Reply::STORE_BROKEN) {
            return said("mail could not be stored", "see the log".to_owned());
        }
        None
    }

    /// How it speaks.
    fn protocol(&self) -> Option<(String, Option<String>)> {
        if self.is(&Reply::OUT_OF_STEP) || self.is(&Reply::INJECTED) {
            let remedy =
                "look at who it is: this is how commands are smuggled, or a very simple program";
            return said("it went on without waiting for a reply", remedy.to_owned());
        }
        if self.is(&Reply::BAD_RECIPIENT) || self.is(&Reply::BAD_SENDER) {
            let remedy =
                "correct it in the device; several recipients each need a field of their own";
            return said("an address it gave is none", remedy.to_owned());
        }
        if self.is(&Reply::NEEDS_SMTPUTF8) {
            let remedy = "use an address without umlauts and the like in the device";
            return said("an address it gave is not ASCII", remedy.to_owned());
        }
        None
    }
}

fn said(reason: &str, remedy: String) -> Option<(String, Option<String>)> {
    Some((reason.to_owned(), Some(remedy)))
}

/// A reply without its codes: for what needs no other words.
fn plain(reply: &str) -> String {
    let is_code = |word: &&str| {
        word.chars()
            .all(|char| char.is_ascii_digit() || char == '.')
    };
    let words: Vec<&str> = reply.split(' ').skip_while(is_code).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::testing::{listener, rules};

    fn explain(reply: &Reply, login: Option<&str>) -> (String, String) {
        let (listener, rules) = (listener(), rules());
        let case = Case {
            reply,
            listener: &listener,
            rules: &rules,
            peer: "192.0.2.7".parse().ok(),
            login,
            sender: Some("x@other.example"),
        };
        let explained = case.explain();
        assert!(!explained.reply.is_empty() && !explained.reply.ends_with('\n'));
        (explained.reason, explained.remedy.unwrap_or_default())
    }

    #[test]
    fn the_remedy_is_the_line_to_write() {
        for (reply, login, reason, remedy) in [
            (
                Reply::ACCESS_DENIED,
                None,
                "allow list",
                "allow = [\"192.0.2.7/32\"]",
            ),
            (
                Reply::BARE_LF,
                None,
                "bare LF",
                "\"test\": line_endings = \"normalize\"",
            ),
            (
                Reply::BARE_ENDINGS,
                None,
                "bare LF",
                "line_endings = \"normalize\"",
            ),
            (
                Reply::AUTH_FAILED,
                Some("printer"),
                "client printer",
                "hash-password",
            ),
            (
                Reply::AUTH_FAILED,
                None,
                "no [[client]]",
                "there are: printer",
            ),
            (
                Reply::SENDER_REFUSED,
                Some("printer"),
                "x@other.example",
                "senders = [\"*@a.example\", \"x@other.example\"]",
            ),
            (
                Reply::NO_ROUTE,
                None,
                "x@other.example",
                "sender = \"x@other.example\"",
            ),
            (
                Reply::TOO_BIG,
                None,
                "too big",
                "max_message_size above 2MiB",
            ),
            (Reply::NO_STARTTLS, None, "STARTTLS", "tls = \"starttls\""),
            (
                Reply::NOT_TLS,
                None,
                "begins with TLS",
                "tls = \"implicit\"",
            ),
            (
                Reply::TLS_FIRST,
                None,
                "without TLS",
                "auth_without_tls = \"always\"",
            ),
        ] {
            let found = explain(&reply, login);
            assert!(
                found.0.contains(reason) && found.1.contains(remedy),
                "{found:?}"
            );
        }
    }

    #[test]
    fn other_refusals_say_what_the_client_read() {
        let (reason, remedy) = explain(&Reply::NESTED_MAIL, None);
        assert_eq!(
            (reason.as_str(), remedy.as_str()),
            ("sender already given", "")
        );
    }
}
