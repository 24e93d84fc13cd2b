//! Envelope and client -> account. Pure; the first matching route wins.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::mail::{AccountName, Envelope, ReversePath};

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
                let route = self.routes.iter().find(|r| r.applies(envelope, origin));
                route.map(|r| &r.account)
            })
            .or(self.default_account.as_ref())
    }
}

impl Route {
    /// Whether every condition that is given holds.
    fn applies(&self, envelope: &Envelope, origin: &Origin<'_>) -> bool {
        let holds = |pattern: &Option<String>, test: &dyn Fn(&str) -> bool| {
            pattern.as_deref().is_none_or(test)
        };
        holds(&self.sender, &|p| matches_sender(p, &envelope.reverse_path))
            && holds(&self.recipient, &|p| {
                let mut recipients = envelope.recipients.iter();
                recipients.all(|r| matches(p, &r.address.to_string()))
            })
            && holds(&self.client, &|name| origin.client == Some(name))
            && holds(&self.listener, &|address| origin.listener == address)
            && self.network.is_none_or(|net| {
                origin
                    .peer
                    .is_some_and(|ip| net.contains(&ip.to_canonical()))
            })
    }
}

/// Whether a reverse-path matches a sender pattern. The null path `<>` matches the pattern `<>`,
/// and `*` as everything does.
#[must_use]
pub fn matches_sender(pattern: &str, sender: &ReversePath) -> bool {
    match sender {
        ReversePath::Null => pattern == "<>" || matches(pattern, ""),
        ReversePath::Address(address) => matches(pattern, &address.to_string()),
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters, also an empty
/// one, and everything else for itself. Case-insensitive. Takes time linear in both lengths, so a
/// pattern full of stars costs a peer's chosen text no more than its length.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The leftmost place of each part leaves the most room for those after it.
    for part in middle.split('*') {
        let Some((_, after)) = text.split_once(part) else {
            return false;
        };
        text = after;
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Address, BodyType, Recipient};

    /// Stars match any run, everything else itself, whatever its case.
    #[test]
    fn a_star_stands_for_any_run() {
        let cases = [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("*@contoso.com", "a@contoso.com", true),
            ("*@CONTOSO.com", "A@contoso.COM", true),
            ("*@contoso.com", "a@contoso.com.evil.example", false),
            ("*@contoso.com", "a@notcontoso.com", false),
            ("*@*.contoso.com", "a@b.contoso.com", true),
            ("*@*.contoso.com", "a@contoso.com", false),
            ("printer-*@contoso.com", "printer-7@contoso.com", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
            ("straße@*", "STRASSE@x", false),
            ("jörg@*", "JÖRG@x", true),
            ("[a-z]@x", "b@x", false),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(matches(pattern, text), want, "{pattern:?} on {text:?}");
        }
    }

    /// The classic blow-up of backtracking matchers must stay a matter of milliseconds.
    #[test]
    fn many_stars_on_a_long_text_stay_linear() {
        let pattern = "*a".repeat(2_000) + "b";
        let text = "a".repeat(200_000);
        assert!(!matches(&pattern, &text));
    }

    fn envelope(from: Option<&str>, to: &[&str]) -> Envelope {
        let address = |text: &str| Address::parse(text).unwrap();
        Envelope {
            reverse_path: from.map_or(ReversePath::Null, |f| ReversePath::Address(address(f))),
            recipients: to.iter().map(|t| Recipient::new(address(t))).collect(),
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        }
    }

    fn route(account: &str) -> Route {
        Route {
            sender: None,
            recipient: None,
            client: None,
            listener: None,
            network: None,
            account: AccountName::new(account),
        }
    }

    fn router() -> Router {
        let given = |text: &str| Some(text.to_owned());
        Router {
            routes: vec![
                Route {
                    sender: given("*@contoso.com"),
                    recipient: given("*@partner.example"),
                    ..route("both")
                },
                Route {
                    sender: given("*@contoso.com"),
                    ..route("sender")
                },
                Route {
                    sender: given("<>"),
                    ..route("null")
                },
                Route {
                    client: given("printer-2"),
                    ..route("client")
                },
                Route {
                    listener: given("127.0.0.1:2526"),
                    ..route("listener")
                },
                Route {
                    network: "10.1.0.0/16".parse().ok(),
                    ..route("network")
                },
            ],
            default_account: Some(AccountName::new("default")),
        }
    }

    fn origin() -> Origin<'static> {
        Origin {
            listener: "127.0.0.1:2525",
            ..Origin::default()
        }
    }

    /// Sender and recipients: all conditions together, in order, and the default last.
    #[test]
    fn the_first_route_whose_conditions_all_hold_wins() {
        let contoso = Some("a@contoso.com");
        let router = router();
        for (from, to, want) in [
            (contoso, vec!["x@partner.example"], "both"),
            (contoso, vec!["x@partner.example", "y@z.example"], "sender"),
            (None, vec!["x@y.example"], "null"),
            (Some("a@b.example"), vec!["x@y.example"], "default"),
        ] {
            let account = router.route(&envelope(from, &to), &origin());
            assert_eq!(
                account.map(AccountName::as_str),
                Some(want),
                "{from:?} {to:?}"
            );
        }
    }

    /// Who submits: each condition alone, and a client's own account over all of them.
    #[test]
    fn who_submits_decides_too() {
        let own = AccountName::new("own");
        let (mut client, mut listener, mut owned) = (origin(), origin(), origin());
        client.client = Some("printer-2");
        listener.listener = "127.0.0.1:2526";
        owned.client_account = Some(&own);
        let at = |ip: &str| Origin {
            peer: ip.parse().ok(),
            ..origin()
        };
        let router = router();
        for (origin, want) in [
            (client, "client"),
            (listener, "listener"),
            (at("10.1.2.3"), "network"),
            (at("::ffff:10.1.2.3"), "network"),
            (at("10.2.0.1"), "default"),
            (owned, "own"),
        ] {
            let envelope = envelope(Some("a@b.example"), &["x@y.example"]);
            let account = router.route(&envelope, &origin);
            assert_eq!(account.map(AccountName::as_str), Some(want), "{origin:?}");
        }
    }

    /// Without a default, mail that no route wants has no account: it is refused, never guessed.
    #[test]
    fn nothing_matches_nothing() {
        let router = Router {
            default_account: None,
            ..router()
        };
        let envelope = envelope(Some("a@b.example"), &["x@y.example"]);
        assert_eq!(router.route(&envelope, &Origin::default()), None);
    }
}
