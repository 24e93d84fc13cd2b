//! Who may send as whom, and who may connect. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Auth, AuthWithoutTls, Contract, Listener, Rules, Tls};
use crate::{
    mail::ReversePath,
    smtp::server::{Dsn, Mechanism, Settings},
};

/// Recipients of a message whose client waits: every provider takes so many in one transaction, so
/// that one reply can speak for all of them.
const DIRECT_RECIPIENTS_MAX: usize = 100;

/// Whether a peer may connect; a Unix socket's file permissions have decided already.
pub(super) fn may_connect(allow: &[IpNet], peer: Option<IpAddr>) -> bool {
    allow.is_empty() || peer.is_none_or(|peer| allow.iter().any(|net| net.contains(&peer)))
}

/// Whether a client may use this reverse-path. A client that the configuration no longer knows, or
/// has disabled, may use none. The null path matches as an empty text, so only `*` lets it through: a stolen device
/// must not get around its patterns by sending as nobody.
pub(super) fn may_send_as(rules: &Rules, login: Option<&str>, reverse_path: &ReversePath) -> bool {
    let Some(login) = login else { return true };
    let client = rules.clients.get(login).filter(|client| !client.disabled);
    let Some(client) = client else { return false };
    if client.senders.is_empty() {
        return true;
    }
    let sender = reverse_path.to_string();
    client
        .senders
        .iter()
        .any(|pattern| matches(pattern.as_bytes(), sender.as_bytes()))
}

/// What a session offers: to a peer on this machine credentials may cross in clear, to others not,
/// unless the operator said otherwise.
pub(super) fn settings(listener: &Listener, rules: &Rules, local: bool) -> Settings {
    // Offering AUTH while nobody can log in makes clients fail that would have gone without.
    let auth = match listener.auth {
        Auth::None => false,
        Auth::Optional => !rules.clients.is_empty(),
        Auth::Required => true,
    };
    Settings {
        hostname: rules.hostname.clone(),
        max_message_size: listener.max_message_size,
        max_recipients: match listener.delivery {
            Contract::Direct => listener.max_recipients.min(DIRECT_RECIPIENTS_MAX),
            Contract::Queue | Contract::Hybrid { .. } => listener.max_recipients,
        },
        starttls: matches!(listener.tls, Tls::Starttls | Tls::Auto),
        dsn: match listener.delivery {
            Contract::Direct => Dsn::NotOffered,
            Contract::Queue | Contract::Hybrid { .. } => Dsn::Offered,
        },
        mechanisms: if auth {
            vec![Mechanism::Plain, Mechanism::Login]
        } else {
            Vec::new()
        },
        auth_required: listener.auth == Auth::Required,
        auth_without_tls: match listener.auth_without_tls {
            AuthWithoutTls::Never => false,
            AuthWithoutTls::Loopback => local,
            AuthWithoutTls::Always => true,
        },
        qualify_domain: rules.hostname.clone(),
    }
}

/// Whether `text` matches `pattern`, where `*` stands for any run of octets; ASCII case does not
/// count. Linear in practice and never worse than pattern times text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(octet) = text.get(at) {
        match pattern.get(here) {
            Some(b'*') => {
                star = Some((here, at));
                here += 1;
                continue;
            }
            Some(wanted) if wanted.eq_ignore_ascii_case(octet) => {
                at += 1;
                here += 1;
                continue;
            }
            Some(_) | None => (),
        }
        // Let the last star take one octet more.
        let Some((behind, from)) = star else {
            return false;
        };
        star = Some((behind, from + 1));
        (here, at) = (behind + 1, from + 1);
    }
    pattern
        .get(here..)
        .is_none_or(|rest| rest.iter().all(|octet| *octet == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mail::Address, submission::Client};

    #[test]
    fn patterns_match_whole_addresses() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a@b.c", true),
            ("*@contoso.com", "Printer@CONTOSO.com", true),
            ("*@contoso.com", "a@contoso.com.evil", false),
            ("*@contoso.com", "a@x@contoso.com", true),
            ("a@contoso.com", "b@contoso.com", false),
            ("a*b*c", "a123b456c", true),
            ("a*b*c", "a123c456b", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_client_sends_only_as_what_it_may() {
        let mut rules = Rules::default();
        let client = |senders: &[&str]| Client {
            password_hash: String::new(),
            account: None,
            senders: senders.iter().map(|&sender| sender.to_owned()).collect(),
            disabled: false,
        };
        rules.clients.insert("any".to_owned(), client(&[]));
        rules.clients.insert("one".to_owned(), client(&["*@a.b"]));
        let mut disabled = client(&[]);
        disabled.disabled = true;
        rules.clients.insert("disabled".to_owned(), disabled);
        let inside = ReversePath::Address(Address::parse("x@a.b").unwrap());
        let outside = ReversePath::Address(Address::parse("x@c.d").unwrap());
        for (login, path, expected) in [
            (None, &outside, true),
            (Some("any"), &outside, true),
            (Some("any"), &ReversePath::Null, true),
            (Some("one"), &inside, true),
            (Some("one"), &outside, false),
            (Some("one"), &ReversePath::Null, false),
            (Some("removed"), &inside, false),
            (Some("disabled"), &inside, false),
        ] {
            assert_eq!(
                may_send_as(&rules, login, path),
                expected,
                "{login:?} {path}"
            );
        }
    }

    #[test]
    fn the_allow_list_decides_unless_it_is_empty() {
        let allow = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        for (peer, expected) in [
            (Some("127.0.0.1"), true),
            (Some("::1"), true),
            (Some("192.0.2.1"), false),
            (None, true),
        ] {
            let peer = peer.map(|peer| peer.parse().unwrap());
            assert_eq!(may_connect(&allow, peer), expected);
            assert!(may_connect(&[], peer));
        }
    }
}
