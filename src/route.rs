//! Envelope and client -> account. Pure; the first matching route wins.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::mail::{AccountName, Envelope};

/// The routing table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Router {
    /// In order; the first whose conditions all hold wins.
    pub routes: Vec<Route>,
    /// When no route matches.
    pub default_account: Option<AccountName>,
}

/// One `[[route]]`: every condition that is given must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Pattern for the reverse-path, `*` matches any run of characters; case-insensitive.
    pub sender: Option<String>,
    /// Pattern that every recipient must match.
    pub recipient: Option<String>,
    /// The client's login name.
    pub client: Option<String>,
    /// The listener's address as configured.
    pub listener: Option<String>,
    /// The peer's network.
    pub network: Option<IpNet>,
    /// Where the mail goes.
    pub account: AccountName,
}

/// What is known about who submits.
#[derive(Debug, Clone, Default)]
pub struct Origin<'a> {
    /// The login name, if the client authenticated.
    pub client: Option<&'a str>,
    /// The account that this client is bound to; it wins over every route.
    pub client_account: Option<&'a AccountName>,
    /// The listener's address as configured.
    pub listener: &'a str,
    /// The peer; none on a Unix socket.
    pub peer: Option<IpAddr>,
}

impl Router {
    /// The account for a message: the client's own, else the first matching route's, else the
    /// default. `None`: nothing matches, the transaction is refused with 550 5.7.1.
    #[must_use]
    pub fn route<'a>(
        &'a self,
        envelope: &Envelope,
        origin: &Origin<'a>,
    ) -> Option<&'a AccountName> {
        origin
            .client_account
            .or_else(|| {
                self.routes
                    .iter()
                    .find(|r| r.holds(envelope, origin))
                    .map(|r| &r.account)
            })
            .or(self.default_account.as_ref())
    }
}

impl Route {
    fn holds(&self, envelope: &Envelope, origin: &Origin<'_>) -> bool {
        let all_recipients = |pattern: &String| {
            envelope
                .recipients
                .iter()
                .all(|r| matches(pattern, &r.address.to_string()))
        };
        self.sender
            .as_ref()
            .is_none_or(|p| matches(p, &envelope.reverse_path.to_string()))
            && self.recipient.as_ref().is_none_or(all_recipients)
            && self
                .client
                .as_deref()
                .is_none_or(|c| origin.client == Some(c))
            && self
                .listener
                .as_deref()
                .is_none_or(|l| origin.listener == l)
            && self
                .network
                .is_none_or(|n| origin.peer.is_some_and(|p| n.contains(&p)))
    }
}

/// Whether `text` matches `pattern`: `*` stands for any run of characters, letters compare without
/// case. Greedy with one point to fall back to: never exponential.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut fallback: Option<(usize, usize)> = None;
    while let Some(octet) = text.get(t) {
        match (pattern.get(p), fallback) {
            (Some(b'*'), _) => {
                fallback = Some((p, t));
                p += 1;
            }
            (Some(wanted), _) if wanted.eq_ignore_ascii_case(octet) => {
                p += 1;
                t += 1;
            }
            (_, Some((star, taken))) => {
                fallback = Some((star, taken + 1));
                p = star + 1;
                t = taken + 1;
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Address, BodyType, Recipient, ReversePath};

    fn envelope(from: &str, to: &[&str]) -> Envelope {
        let parse = |text: &str| Address::parse(text).unwrap();
        Envelope {
            reverse_path: ReversePath::Address(parse(from)),
            recipients: to.iter().map(|t| Recipient::new(parse(t))).collect(),
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        }
    }

    #[test]
    fn the_client_wins_then_the_first_route_whose_conditions_all_hold_then_the_default() {
        let route = |sender: &str, account: &str| Route {
            sender: Some(sender.into()),
            recipient: None,
            client: None,
            listener: None,
            network: None,
            account: AccountName::new(account),
        };
        let mut second = route("*", "second");
        second.network = Some("192.0.2.0/24".parse().unwrap());
        let router = Router {
            routes: vec![route("*@a.example", "first"), second],
            default_account: Some(AccountName::new("rest")),
        };
        let bound = AccountName::new("own");
        let near = Origin {
            peer: Some("192.0.2.9".parse().unwrap()),
            ..Origin::default()
        };
        let login = Origin {
            client_account: Some(&bound),
            ..Origin::default()
        };
        for (from, origin, want) in [
            ("x@a.example", &Origin::default(), "first"),
            ("x@b.example", &near, "second"),
            ("x@b.example", &Origin::default(), "rest"),
            ("x@a.example", &login, "own"),
        ] {
            let chosen = router.route(&envelope(from, &["y@c.example"]), origin);
            assert_eq!(chosen.map(AccountName::as_str), Some(want), "{from}");
        }
        assert_eq!(
            Router::default().route(&envelope("x@a.example", &[]), &near),
            None
        );
    }
}
