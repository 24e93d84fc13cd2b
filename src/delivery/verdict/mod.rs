//! The verdict table: provider, phase, reply code, enhanced code and text -> scope and action, with a
//! diagnosis in plain words and the remedy. The whole policy, as data. Pure.
//!
//! Two rules stand above the table: a refusal before MAIL is the account's trouble and never bounces
//! a message, and a 5yz that the provider uses for a passing state (a full mailbox, a daily limit)
//! holds or waits. Rows are read from the top, the first that fits decides; a reply that only a
//! general row of RFC 5321 fits is reported as unknown, with its text, so that the table can grow.

mod gmail;
mod graph;
mod way;

use std::time::Duration;

pub use self::way::is_smtp_off;
use self::{
    Action::{
        Bounce, Delivered, Hold, Relogin, Retry, RetryThenBounce, RetryThenHold, Slow, Split, Wait,
    },
    Scope::{Account, Message, Recipient, Session},
    When::{Always, Login, Rcpt, Transaction},
};
use super::transport::{Cause, Failure, Phase};
use crate::{
    mail::{AccountName, Reply},
    net::{dial, http},
    oauth::Kind,
};

/// What a reply means and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub scope: Scope,
    /// What follows.
    pub action: Action,
    /// What is wrong, in plain words.
    pub reason: &'static str,
    /// What a person does about it; empty: nothing. See [`Verdict::remedy_for`].
    pub remedy: &'static str,
    /// Whether a row of a provider (or a reply every server gives) fitted.
    pub known: bool,
}

impl Verdict {
    /// The remedy with the account's own names in it, ready to be pasted.
    #[must_use]
    pub fn remedy_for(&self, account: &AccountName, mailbox: &str) -> String {
        let named = self.remedy.replace("<account>", account.as_str());
        named.replace("<mailbox>", mailbox)
    }
}

/// What a reply is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One recipient.
    Recipient,
    /// The message, for all its recipients.
    Message,
    /// This connection.
    Session,
    /// The account, whatever is sent.
    Account,
}

/// What follows from a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The provider has taken the message.
    Delivered,
    /// Tried again by the schedule.
    Retry,
    /// Tried again, returned to the sender after [`TRIES`] attempts.
    RetryThenBounce,
    /// Tried again, held for a person after [`TRIES`] attempts.
    RetryThenHold,
    /// The other recipients go in another transaction, at once.
    Split,
    /// The account waits so long and then sends less at a time; no retry is burnt.
    Slow(Duration),
    /// The account waits so long for a limit to pass; no retry is burnt.
    Wait(Duration),
    /// A new token, once; then as [`Action::Hold`].
    Relogin,
    /// Waits for a person: the account if the scope says so, else the message.
    Hold,
    /// Returned to the sender.
    Bounce,
}

impl Scope {
    /// The word for it in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Recipient => "recipient",
            Message => "message",
            Session => "session",
            Account => "account",
        }
    }
}

impl Action {
    /// The word for it in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Delivered => "delivered",
            Retry => "retry",
            RetryThenBounce => "retry_then_bounce",
            RetryThenHold => "retry_then_hold",
            Split => "split",
            Slow(_) => "slow",
            Wait(_) => "wait",
            Relogin => "relogin",
            Hold => "hold",
            Bounce => "bounce",
        }
    }
}

/// Attempts before [`Action::RetryThenBounce`] and [`Action::RetryThenHold`] give up.
pub const TRIES: u32 = 3;

/// Judges a reply. `phase` is where it came.
#[must_use]
pub fn judge(kind: Kind, phase: Phase, reply: &Reply) -> Verdict {
    if reply.is_positive() && phase == Phase::End {
        return DELIVERED;
    }
    let text = reply.text.to_ascii_lowercase();
    // What an API answers comes in the transport's own words; no other row is meant for it.
    let mut rows = graph::ROWS.iter().chain(gmail::ROWS).chain(ROWS);
    let verdict = rows
        .find(|row| row.fits(kind, phase, reply, &text))
        .map_or(UNINTELLIGIBLE, |row| row.verdict());
    way::as_asked(verdict, &text)
}

/// The verdict that a message's reason tells (`reason: reply`, or `why it is held; reason: reply`).
/// `None`: the reason is not of this table.
#[must_use]
pub fn told_as(kind: Kind, told: &str) -> Option<Verdict> {
    let of = |told: &str| {
        let rows = graph::ROWS.iter().chain(gmail::ROWS).chain(ROWS);
        let with_reply = rows.filter_map(|row| {
            let reply = told
                .strip_prefix(row.verdict().reason)?
                .strip_prefix(": ")?;
            Some((row, Reply::parse(reply)))
        });
        // Two rows may say the same and want different things done: the reply tells them apart.
        let said = |(row, reply): &(&Row, Option<Reply>)| {
            reply.as_ref().is_some_and(|reply| {
                let text = reply.text.to_ascii_lowercase();
                let phases = [Phase::Auth, Phase::Rcpt];
                phases
                    .iter()
                    .any(|phase| row.fits(kind, *phase, reply, &text))
            })
        };
        // Of equals the last one counts.
        let found = with_reply.max_by_key(|found| said(found));
        found.map(|(row, _)| row.verdict())
    };
    of(told).or_else(|| of(told.split_once("; ")?.1))
}

/// Judges a session that ended before every recipient had its reply.
#[must_use]
pub fn judge_failure(kind: Kind, failure: &Failure) -> Verdict {
    let account = |action, reason, remedy| Verdict {
        scope: Account,
        action,
        reason,
        remedy,
        known: true,
    };
    match &failure.cause {
        Cause::Refused { reply, .. } => judge(kind, failure.phase, reply),
        Cause::Tls(dial::TlsError::Certificate(_)) => account(
            Hold,
            "the server's TLS certificate is not valid for it",
            "nothing was sent: if its issuer inspects TLS on your network, put its root into smtp.ca_file or exempt this host; else compare smtp.host with the certificate",
        ),
        Cause::Tls(dial::TlsError::Refused(
            rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_),
        )) => account(
            Hold,
            "the server and we have no TLS version or cipher in common (1.2 is the least)",
            "nothing was sent: update the server, or use the host its provider has for TLS 1.2 and newer",
        ),
        Cause::Tls(dial::TlsError::Refused(_) | dial::TlsError::Name) => account(
            Hold,
            "the server's TLS certificate is not valid for it, or what answers there is not TLS",
            "nothing was sent: compare smtp.host with the certificate, and smtp.tls with the port",
        ),
        Cause::TlsSettings(_) => account(
            Hold,
            "TLS cannot be set up here",
            "install the system's CA certificates (package ca-certificates), or mend smtp.ca_file",
        ),
        Cause::NoStarttls => account(
            Hold,
            "the server does not offer STARTTLS, so nothing was sent",
            "look whether a firewall or proxy strips STARTTLS; else set smtp.tls and smtp.port as the provider says",
        ),
        Cause::Injected => account(
            Hold,
            "somebody put octets between STARTTLS and the handshake, so nothing was sent",
            "look for what stands between this machine and the server; this is what an attack looks like",
        ),
        Cause::NoMechanism(_) => account(
            Hold,
            "the server does not offer the configured way to authenticate",
            "set smtp.auth and smtp.tls as the provider says",
        ),
        Cause::Cleartext => account(
            Hold,
            "credentials would cross the network in clear, so they were not sent",
            "set smtp.tls to \"starttls\" or \"implicit\"",
        ),
        Cause::Credentials(_) => account(
            Hold,
            "the user name, password or token holds a control character",
            "mend smtp.username or smtp.password; for a token, sign in again",
        ),
        Cause::Http(error) => unreached(failure, error),
        Cause::Dial(_)
        | Cause::Tls(_)
        | Cause::Closed
        | Cause::Io(_)
        | Cause::Timeout(_)
        | Cause::Garbage(_)
        | Cause::Unexpected(_)
        | Cause::Unsettled
        | Cause::Body(_) => broken(failure),
    }
}

/// An exchange over HTTP that gave no answer.
fn unreached(failure: &Failure, error: &http::Error) -> Verdict {
    let certificate = "nothing was sent: if its issuer inspects TLS on your network, put its root into provider.ca_file or exempt this host";
    let (action, reason, remedy) = match error {
        _ if !failure.phase.is_login() => return broken(failure),
        http::Error::CaFile { .. } | http::Error::Setup(_) => (
            Hold,
            "TLS cannot be set up here",
            "install the system's CA certificates (package ca-certificates), or mend provider.ca_file",
        ),
        http::Error::Insecure(_) => (
            Hold,
            "the token would cross the network in clear, so nothing was sent",
            "write https:// in the account's url",
        ),
        http::Error::Exchange(text) if text.contains("invalid peer certificate") => (
            Hold,
            "the server's TLS certificate is not valid for it",
            certificate,
        ),
        http::Error::Proxy { .. } => (
            Retry,
            "the proxy does not let us through",
            "mend provider.proxy, or have the proxy allow this host",
        ),
        http::Error::Exchange(_) | http::Error::Timeout | http::Error::TooLarge => {
            (Retry, "the server cannot be reached", "")
        }
    };
    Verdict {
        scope: Account,
        action,
        reason,
        remedy,
        known: true,
    }
}

/// A session that broke: the account's trouble before MAIL, afterwards the message's.
fn broken(failure: &Failure) -> Verdict {
    let (scope, reason) = match (&failure.cause, failure.phase.is_login()) {
        (Cause::Dial(dial::Error::Resolve { .. }), _) => {
            (Account, "the server's name cannot be resolved")
        }
        (Cause::Dial(_), _) => (Account, "the server cannot be reached"),
        (Cause::Body(_), _) => (Message, "our copy of the message cannot be read"),
        (Cause::Garbage(_) | Cause::Unexpected(_), true) => {
            (Account, "what answers there is no mail server")
        }
        (_, true) => (Account, "the server ended the session"),
        (_, false) => (Message, "the session ended in the middle of the message"),
    };
    Verdict {
        scope,
        action: Retry,
        reason,
        remedy: "",
        known: true,
    }
}

/// One row. Fields, in order: provider (`None`: any), when, code (`5`: any 5yz), enhanced codes
/// (alternatives apart by a space, `5.7.500-699` a range, empty: any), text (alternatives apart by
/// `|`, lower case, empty: any), scope, action, reason, remedy.
struct Row(
    Option<Kind>,
    When,
    &'static str,
    &'static str,
    &'static str,
    Scope,
    Action,
    &'static str,
    &'static str,
);

/// The phases in which a row holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Before MAIL.
    Login,
    /// From MAIL on.
    Transaction,
    Rcpt,
}

impl Row {
    fn fits(&self, kind: Kind, phase: Phase, reply: &Reply, text: &str) -> bool {
        let Self(provider, when, code, enhanced, needles, ..) = self;
        let in_phase = match when {
            Always => true,
            Login => phase.is_login(),
            Transaction => !phase.is_login(),
            Rcpt => phase == Phase::Rcpt,
        };
        in_phase
            && provider.is_none_or(|provider| provider == kind)
            && reply.code.to_string().starts_with(code)
            && enhanced_fits(enhanced, reply)
            && (needles.is_empty() || needles.split('|').any(|needle| text.contains(needle)))
    }

    fn verdict(&self) -> Verdict {
        let Self(_, _, code, enhanced, text, scope, action, reason, remedy) = self;
        Verdict {
            scope: *scope,
            action: *action,
            reason,
            remedy,
            // The first digit alone says what everybody knows of RFC 5321.
            known: code.len() == 3 || !enhanced.is_empty() || !text.is_empty(),
        }
    }
}

fn enhanced_fits(pattern: &str, reply: &Reply) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let Some(code) = reply.enhanced else {
        return false;
    };
    pattern.split(' ').any(|one| match one.rsplit_once('.') {
        Some((start, details)) if start == format!("{}.{}", code.0, code.1) => {
            let (low, high) = details.split_once('-').unwrap_or((details, details));
            let bound = |text: &str| text.parse().unwrap_or(u16::MAX);
            (bound(low)..=bound(high)).contains(&code.2)
        }
        Some(_) | None => false,
    })
}

const DELIVERED: Verdict = Verdict {
    scope: Message,
    action: Delivered,
    reason: "the provider has taken the message",
    remedy: "",
    known: true,
};

/// A reply without meaning where it came: the connection is given up, the message kept.
const UNINTELLIGIBLE: Verdict = Verdict {
    scope: Session,
    action: Retry,
    reason: "the server's answer makes no sense here",
    remedy: "",
    known: false,
};

const MICROSOFT: Option<Kind> = Some(Kind::Microsoft);
const GOOGLE: Option<Kind> = Some(Kind::Google);
const ANY: Option<Kind> = None;

const MINUTE: Duration = Duration::from_secs(60);
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const QUARTER_HOUR: Duration = Duration::from_secs(900);
const HALF_HOUR: Duration = Duration::from_secs(1800);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // --- Microsoft: Exchange Online and Outlook.com -------------------------------------------------
    Row(MICROSOFT, Always, "432", "", "", Account, Slow(MINUTE),
        "too many connections to this mailbox at once", "lower limits.connections; other programs that send as this mailbox count too"),
    Row(MICROSOFT, Always, "4", "", "thread limit exceeded|concurrent connections limit", Account, Slow(MINUTE),
        "too many connections to this mailbox at once", "lower limits.connections; other programs that send as this mailbox count too"),
    Row(MICROSOFT, Always, "4", "", "submission rate", Account, Slow(MINUTE),
        "more messages a minute than Exchange takes from this mailbox", "lower limits.messages_per_minute; other programs that send as this mailbox count too"),
    Row(MICROSOFT, Always, "421", "4.7.0 4.7.66", "tls 1.", Account, Hold,
        "Exchange refuses the TLS version", "allow TLS 1.2 on the way to the server: a proxy or firewall lowers it"),
    Row(MICROSOFT, Always, "421", "4.3.2 4.3.11 4.3.111", "", Session, Retry,
        "Exchange is busy", ""),
    Row(MICROSOFT, Always, "421", "4.4.1 4.4.2", "", Session, Retry,
        "Exchange closed an idle or long session", ""),
    Row(MICROSOFT, Always, "430", "4.2.0", "", Account, RetryThenHold,
        "Exchange cannot open the mailbox for this application",
        "register the service principal with the object id of the enterprise application (New-ServicePrincipal) and give it the mailbox (Add-MailboxPermission ... -AccessRights FullAccess)"),
    Row(MICROSOFT, Always, "451", "4.7.500-699", "", Account, Slow(FIVE_MINUTES),
        "Exchange slows this sender down", ""),
    Row(MICROSOFT, Always, "451", "4.4.62", "", Account, Hold,
        "this tenant does not belong to the server", "set smtp.host to smtp.office365.com (or your cloud's host)"),
    Row(MICROSOFT, Always, "550", "5.7.64", "", Account, Hold,
        "this tenant does not belong to the server", "set smtp.host to smtp.office365.com (or your cloud's host)"),
    Row(MICROSOFT, Always, "451", "4.7.0", "temporary server error", Message, Retry,
        "Exchange has a passing problem", ""),
    Row(MICROSOFT, Always, "452", "4.3.1 4.4.0-999", "", Message, Retry,
        "Exchange is short of resources", ""),
    Row(MICROSOFT, Login, "501", "5.5.127", "", Account, Relogin,
        "the token is about to expire", "sign in again: gatepost login <account>"),
    Row(MICROSOFT, Login, "535", "5.7.139", "disabled for the tenant", Account, Hold,
        "SMTP AUTH is switched off for the whole tenant (it covers OAuth too)",
        "Set-TransportConfig -SmtpClientAuthenticationDisabled $false, or for this mailbox alone: Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false"),
    Row(MICROSOFT, Login, "535", "5.7.139", "disabled for the mailbox", Account, Hold,
        "SMTP AUTH is switched off for this mailbox (it covers OAuth too)",
        "Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false"),
    Row(MICROSOFT, Login, "535", "5.7.139", "smtpclientauthentication is disabled", Account, Hold,
        "SMTP AUTH is switched off",
        "Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false"),
    Row(MICROSOFT, Login, "535", "5.7.139", "security defaults", Account, Hold,
        "the organization's security defaults block SMTP AUTH",
        "turn security defaults off in Entra and use Conditional Access, or send by Graph (transport = \"graph\")"),
    Row(MICROSOFT, Login, "535", "5.7.139", "did not meet the criteria", Account, Hold,
        "a Conditional Access or authentication policy blocks this sign-in",
        "find the sign-in in the Entra sign-in log and exempt this application or mailbox from the policy named there"),
    Row(MICROSOFT, Login, "535", "5.7.139", "locked", Account, Hold,
        "the account is locked", "unlock it in Entra, then sign in again: gatepost login <account>"),
    Row(MICROSOFT, Login, "535", "5.7.139", "password expired|password has expired|password is expired", Account, Hold,
        "the account's password has expired", "change the password, then sign in again: gatepost login <account>"),
    Row(MICROSOFT, Login, "535", "5.7.139", "basic authentication", Account, Hold,
        "basic authentication is switched off", "set smtp.auth = \"xoauth2\" and a provider for this account"),
    Row(MICROSOFT, Login, "535", "5.7.139", "", Account, Hold,
        "Exchange refuses the sign-in by a policy", "look into the Entra sign-in log for the policy; gatepost doctor <account> shows what the token says"),
    Row(MICROSOFT, Login, "535", "5.7.3", "", Account, Relogin,
        "Exchange does not take the token",
        "check that it is for Outlook (scope https://outlook.office.com/SMTP.Send, not Graph), that its user may use this mailbox, and that SMTP AUTH is on for it; application tokens need New-ServicePrincipal with the enterprise application's object id"),
    Row(MICROSOFT, Always, "5", "5.7.57", "", Account, Relogin,
        "Exchange takes this session for not signed in", "sign in again: gatepost login <account>"),
    Row(MICROSOFT, Always, "550", "5.7.30", "", Account, Hold,
        "Exchange no longer takes passwords over SMTP", "set smtp.auth = \"xoauth2\" and a provider for this account"),
    Row(MICROSOFT, Transaction, "550", "5.7.60", "", Message, Bounce,
        "the account has no right to send as this sender", "give it Send As (Add-RecipientPermission), or set account.sender.rewrite"),
    Row(MICROSOFT, Transaction, "554", "5.2.252", "", Message, Bounce,
        "the account has no right to send as the address in From",
        "give it Send As (Add-RecipientPermission), for an alias Set-OrganizationConfig -SendFromAliasEnabled $true, or set account.sender.rewrite; an @ in an unquoted display name does it too"),
    Row(MICROSOFT, Transaction, "554", "", "sendasdenied", Message, Bounce,
        "the account has no right to send as the address in From",
        "give it Send As (Add-RecipientPermission), for an alias Set-OrganizationConfig -SendFromAliasEnabled $true, or set account.sender.rewrite; an @ in an unquoted display name does it too"),
    Row(MICROSOFT, Always, "550", "5.1.8", "", Account, Hold,
        "Exchange has blocked this mailbox for sending spam", "secure the mailbox and release it at Microsoft 365 Defender, Restricted entities"),
    Row(MICROSOFT, Always, "550", "5.7.232 5.7.233", "", Account, Wait(HALF_HOUR),
        "the tenant's limit of external recipients for a day is reached", "wait, or buy licences: the limit grows with them"),
    // Of the block codes, these are about one recipient or one message: the account must not stop for them.
    Row(MICROSOFT, Transaction, "550", "5.7.504 5.7.505 5.7.507 5.7.510 5.7.513", "", Recipient, Bounce,
        "the recipient's side refuses this sender", ""),
    Row(MICROSOFT, Transaction, "550", "5.7.509 5.7.512", "", Message, Bounce,
        "the message fails a check of its sender's domain or of its form", "set up SPF, DKIM and DMARC for the domain in From"),
    Row(MICROSOFT, Always, "550", "5.7.500-799", "", Account, Hold,
        "Exchange has blocked this mailbox, tenant or domain", "ask Microsoft support with the reply; look at Restricted entities in Microsoft 365 Defender"),
    Row(MICROSOFT, Transaction, "554", "", "submissionquotaexceeded", Account, Wait(HALF_HOUR),
        "the mailbox has sent to 10 000 recipients within a day", "wait: the limit slides; spread the mail over several mailboxes"),
    Row(MICROSOFT, Transaction, "554", "5.2.2", "", Account, Hold,
        "the mailbox is full (copies of sent mail count)", "empty Sent Items or set a retention policy"),
    Row(MICROSOFT, Transaction, "554", "", "mailbox full|quotaexceeded", Account, Hold,
        "the mailbox is full (copies of sent mail count)", "empty Sent Items or set a retention policy"),
    Row(MICROSOFT, Transaction, "554", "5.2.0", "", Message, RetryThenBounce,
        "Exchange could not submit this message", ""),
    Row(MICROSOFT, Transaction, "552", "5.3.4 5.2.3", "", Message, Bounce,
        "the message is larger than the mailbox may send", "raise the limit with Set-Mailbox -MaxSendSize"),
    Row(MICROSOFT, Transaction, "550", "5.1.1 5.1.10 5.4.1", "", Recipient, Bounce,
        "there is no such recipient", ""),
    Row(MICROSOFT, Transaction, "550", "5.6.0 5.6.11", "", Message, Bounce,
        "Exchange refuses the content of the message", ""),
    Row(MICROSOFT, Transaction, "554", "5.6.0 5.6.11", "", Message, Bounce,
        "Exchange refuses the content of the message", ""),

    // --- Google: Gmail and Workspace ----------------------------------------------------------------
    Row(GOOGLE, Always, "421", "4.7.28", "", Account, Slow(FIVE_MINUTES),
        "Google slows this sender down", ""),
    Row(GOOGLE, Always, "421", "4.7.0", "unsolicited|unusual rate", Account, Slow(FIVE_MINUTES),
        "Google slows this sender down", ""),
    Row(GOOGLE, Always, "421", "4.3.0 4.4.5 4.7.0", "", Session, Retry,
        "Google has a passing problem", ""),
    Row(GOOGLE, Transaction, "450", "4.2.1", "peak smtp relay limit", Account, Slow(FIVE_MINUTES),
        "the domain's relay limit is reached for now", ""),
    Row(GOOGLE, Rcpt, "450", "4.2.1", "", Recipient, Retry,
        "this recipient gets too much mail at once", ""),
    Row(GOOGLE, Transaction, "450", "4.2.1", "", Account, Slow(FIVE_MINUTES),
        "Google slows this sender down", ""),
    Row(GOOGLE, Always, "451", "4.3.0 4.4.2 4.5.0", "", Message, Retry,
        "Google has a passing problem", ""),
    Row(GOOGLE, Transaction, "452", "4.2.2", "", Recipient, Retry,
        "the recipient's mailbox is full", ""),
    Row(GOOGLE, Always, "454", "4.5.0", "", Session, Retry,
        "Google lost the order of the dialogue", ""),
    Row(GOOGLE, Login, "454", "4.7.0", "too many login attempts", Account, Wait(QUARTER_HOUR),
        "too many sign-ins within a short time", "look for other programs that sign in to this account"),
    Row(GOOGLE, Login, "534", "5.7.9 5.7.14", "", Account, Hold,
        "Google wants a browser sign-in or an application password", "set smtp.auth = \"xoauth2\" and a provider for this account, then gatepost login <account>"),
    Row(GOOGLE, Login, "535", "5.7.8 5.7.1", "", Account, Relogin,
        "Google does not take the token",
        "check that its scope is https://mail.google.com/ and that its user is this mailbox; then sign in again: gatepost login <account>"),
    Row(GOOGLE, Always, "550", "5.4.5", "", Account, Wait(HALF_HOUR),
        "the account's sending limit for a day is reached", "wait: the limit slides within 24 hours"),
    Row(GOOGLE, Always, "550", "", "daily smtp relay|daily user sending", Account, Wait(HALF_HOUR),
        "the sending limit for a day is reached", "wait: the limit slides within 24 hours"),
    Row(GOOGLE, Always, "550", "5.7.0 5.7.1", "relay denied|relaying denied|unauthorized relay|invalid credentials for relay", Account, Hold,
        "Google does not relay for this account or address", "register this sender at the SMTP relay service in the Admin console"),
    Row(GOOGLE, Transaction, "550", "5.7.26", "", Message, Bounce,
        "the domain in From is not authenticated (SPF, DKIM)", "set up SPF and DKIM for the domain, or send with the account's own address"),
    Row(GOOGLE, Transaction, "550", "5.1.1 5.2.1", "", Recipient, Bounce,
        "there is no such recipient", ""),
    Row(GOOGLE, Transaction, "550", "5.7.0 5.7.1", "", Message, Bounce,
        "a policy refuses the message", ""),
    Row(GOOGLE, Transaction, "552", "5.2.2", "tried to reach", Recipient, Bounce,
        "the recipient's mailbox is full", ""),
    Row(GOOGLE, Rcpt, "552", "5.2.2", "", Recipient, Bounce,
        "the recipient's mailbox is full", ""),
    Row(GOOGLE, Transaction, "552", "5.2.2", "", Account, Hold,
        "this account's storage is full (copies of sent mail count)", "free storage of the account or buy more: Gmail, Drive and Photos share it"),
    Row(GOOGLE, Transaction, "552", "5.2.3 5.3.4", "", Message, Bounce,
        "the message is larger than Google takes", "send a link instead of the attachment"),
    Row(GOOGLE, Transaction, "552", "5.7.0", "", Message, Bounce,
        "Google refuses an attachment", ""),
    Row(GOOGLE, Transaction, "554", "5.6.0 5.7.0", "", Message, Bounce,
        "Google refuses the content of the message", ""),

    // --- What every server may say ------------------------------------------------------------------
    // RFC 5321 says 452; Dovecot says 451.
    Row(ANY, Transaction, "45", "4.5.3", "", Recipient, Split,
        "too many recipients for one transaction", ""),
    // RFC 5321 §4.5.3.1.10: a 552 that means "too many recipients" is to be taken for a 452; others say it by 550.
    Row(ANY, Transaction, "5", "", "too many recipients", Recipient, Split,
        "too many recipients for one transaction", ""),
    // Said also by ourselves, when the server does not offer what the message needs.
    Row(ANY, Transaction, "55", "5.6.7", "", Message, Bounce,
        "an address or header needs SMTPUTF8, which the server does not offer", "use the ASCII form of the address, or an account whose server offers SMTPUTF8"),
    Row(ANY, Transaction, "554", "5.6.3", "", Message, Bounce,
        "the message holds 8-bit data, which the server does not take", "have the application encode it (quoted-printable or base64), or use an account whose server offers 8BITMIME"),
    Row(ANY, Login, "454", "4.7.0", "", Account, Retry,
        "the server cannot check the sign-in now", ""),
    Row(ANY, Login, "504", "", "", Account, Hold,
        "the server does not know the configured way to authenticate", "set smtp.auth and smtp.tls as the provider says"),
    Row(ANY, Always, "530", "", "starttls", Account, Hold,
        "the server demands TLS", "set smtp.tls = \"starttls\""),
    Row(ANY, Always, "530", "", "", Account, Relogin,
        "the server takes this session for not signed in", "set smtp.auth, or sign in again: gatepost login <account>"),
    Row(ANY, Login, "534", "", "", Account, Hold,
        "the server wants a stronger way to authenticate", "set smtp.auth as the provider says"),
    Row(ANY, Login, "535", "", "", Account, Relogin,
        "the server does not take the credentials", "check smtp.username and the password, or sign in again: gatepost login <account>"),
    Row(ANY, Login, "538", "", "", Account, Hold,
        "the server demands encryption", "set smtp.tls to \"starttls\" or \"implicit\""),
    Row(ANY, Login, "421", "", "", Account, Retry,
        "the server takes no session now", ""),
    Row(ANY, Transaction, "421", "", "", Session, Retry,
        "the server closed the session", ""),
    Row(ANY, Rcpt, "450", "", "", Recipient, Retry,
        "the recipient's mailbox is busy", ""),
    Row(ANY, Transaction, "451", "", "", Message, Retry,
        "the server has a passing problem", ""),
    Row(ANY, Rcpt, "452", "", "", Recipient, Retry,
        "the recipient's mailbox or the server is full", ""),
    Row(ANY, Transaction, "452", "", "", Message, Retry,
        "the server is full", ""),
    Row(ANY, Transaction, "501", "5.1.7", "", Message, Bounce,
        "the server does not take the sender's address", ""),
    Row(ANY, Rcpt, "501", "", "", Recipient, Bounce,
        "the server does not take the address", ""),
    Row(ANY, Transaction, "555", "", "", Message, Bounce,
        "the server does not take the address or a parameter", ""),
    Row(ANY, Transaction, "500", "", "", Message, RetryThenBounce,
        "the server does not understand the dialogue", ""),
    Row(ANY, Transaction, "501", "", "", Message, RetryThenBounce,
        "the server does not understand the dialogue", ""),
    Row(ANY, Transaction, "502", "", "", Message, RetryThenBounce,
        "the server does not understand the dialogue", ""),
    Row(ANY, Transaction, "503", "", "", Message, RetryThenBounce,
        "the server lost the order of the dialogue", ""),
    Row(ANY, Rcpt, "550", "", "", Recipient, Bounce,
        "the server refuses the recipient", ""),
    Row(ANY, Rcpt, "551", "", "", Recipient, Bounce,
        "the recipient is not there", ""),
    Row(ANY, Rcpt, "552", "", "", Recipient, Bounce,
        "the recipient's mailbox is full", ""),
    Row(ANY, Rcpt, "553", "", "", Recipient, Bounce,
        "the server does not take the address", ""),
    Row(ANY, Transaction, "550", "", "", Message, Bounce,
        "the server refuses the message", ""),
    Row(ANY, Transaction, "552", "", "", Message, Bounce,
        "the message is too large", ""),
    Row(ANY, Transaction, "553", "", "", Message, Bounce,
        "the server does not take an address of the message", ""),
    Row(ANY, Transaction, "554", "", "", Message, Bounce,
        "the server refuses the message", ""),

    // --- RFC 5321 §4.2.1, by the first digit alone ---------------------------------------------------
    Row(ANY, Login, "4", "", "", Account, Retry,
        "the server is not ready", ""),
    Row(ANY, Login, "5", "", "", Account, Hold,
        "the server refuses the session", "ask the provider what its answer means"),
    Row(ANY, Rcpt, "4", "", "", Recipient, Retry,
        "the server does not take the recipient now", ""),
    Row(ANY, Rcpt, "5", "", "", Recipient, Bounce,
        "the server refuses the recipient", ""),
    Row(ANY, Transaction, "4", "", "", Message, Retry,
        "the server does not take the message now", ""),
    Row(ANY, Transaction, "5", "", "", Message, Bounce,
        "the server refuses the message", ""),
];

#[cfg(test)]
mod tests;
