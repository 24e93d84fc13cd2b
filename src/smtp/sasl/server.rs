//! Server side: what a client sends after AUTH, decoded strictly. Pure.
//!
//! Strict in meaning, lenient in spelling: base64 without padding is taken, because devices send
//! it; text that is not UTF-8, a missing part or a foreign authorization identity is not.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use zeroize::Zeroizing;

use crate::{
    secret::Secret,
    smtp::server::{Credentials, Mechanism},
};

/// The prompts of LOGIN, which devices compare octet by octet: `Username:` and `Password:`.
const USERNAME_PROMPT: &str = "VXNlcm5hbWU6";
const PASSWORD_PROMPT: &str = "UGFzc3dvcmQ6";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An exchange that waits for the client's next line.
#[derive(Debug)]
pub struct Exchange(Wait);

#[derive(Debug)]
enum Wait {
    /// The one response of PLAIN, XOAUTH2 and OAUTHBEARER.
    Response(Mechanism),
    Username,
    Password {
        username: String,
    },
}

/// What a line of the client leads to.
#[derive(Debug)]
pub enum Turn {
    /// Send this challenge (base64) and wait.
    Challenge(Exchange, &'static str),
    /// The client has said everything.
    Presented(Credentials),
    /// `*`: the client gives up (RFC 4954 §4).
    Cancelled,
    /// Not what the mechanism says here.
    Malformed,
}

impl Exchange {
    /// Begins with the initial response of the AUTH line, if it had one; `=` is the empty one.
    #[must_use]
    pub fn begin(mechanism: Mechanism, initial: Option<&[u8]>) -> Turn {
        let exchange = Self(match mechanism {
            Mechanism::Plain | Mechanism::Xoauth2 | Mechanism::OauthBearer => {
                Wait::Response(mechanism)
            }
            Mechanism::Login => Wait::Username,
        });
        match (initial, mechanism) {
            // `AUTH LOGIN =` asks for the prompt as `AUTH LOGIN` does.
            (None, Mechanism::Login) | (Some(b"="), Mechanism::Login) => {
                Turn::Challenge(exchange, USERNAME_PROMPT)
            }
            (None, _) => Turn::Challenge(exchange, ""),
            (Some(b"="), _) => exchange.respond(b""),
            (Some(initial), _) => exchange.respond(initial),
        }
    }

    /// The client's answer to a challenge, in base64.
    #[must_use]
    pub fn respond(self, line: &[u8]) -> Turn {
        let line = line.trim_ascii();
        if line == b"*" {
            return Turn::Cancelled;
        }
        let Some(text) = decode(line) else {
            return Turn::Malformed;
        };
        let credentials = match self.0 {
            Wait::Username => {
                let username = text.to_string();
                return Turn::Challenge(Self(Wait::Password { username }), PASSWORD_PROMPT);
            }
            Wait::Password { username } => Some(Credentials::Password {
                username,
                password: Secret::new(text.as_str()),
            }),
            Wait::Response(Mechanism::Xoauth2) => xoauth2(&text),
            Wait::Response(Mechanism::OauthBearer) => oauthbearer(&text),
            Wait::Response(Mechanism::Plain | Mechanism::Login) => plain(&text),
        };
        credentials.map_or(Turn::Malformed, Turn::Presented)
    }
}

/// A challenge text in base64.
#[must_use]
pub fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn decode(line: &[u8]) -> Option<Zeroizing<String>> {
    let octets = Zeroizing::new(BASE64.decode(line).ok()?);
    let text = std::str::from_utf8(&octets).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 §2). Nobody may act as somebody else, so the
/// authorization identity is empty or the same.
fn plain(text: &str) -> Option<Credentials> {
    let mut parts = text.split('\0');
    let (authzid, authcid, password) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && !authcid.is_empty();
    let same = authzid.is_empty() || authzid == authcid;
    (whole && same).then(|| Credentials::Password {
        username: authcid.to_owned(),
        password: Secret::new(password),
    })
}

/// `user=` mailbox `^A auth=Bearer ` token `^A^A`.
fn xoauth2(text: &str) -> Option<Credentials> {
    let fields = text.strip_suffix("\x01\x01")?;
    let mut fields = fields.split('\x01');
    bearer(fields.next()?.strip_prefix("user=")?, fields)
}

/// `n,a=` mailbox `,^A` fields `^A^A` (RFC 7628 §3.1); `=2C` and `=3D` stand for comma and equals.
fn oauthbearer(text: &str) -> Option<Credentials> {
    let (gs2, fields) = text.strip_suffix("\x01\x01")?.split_once('\x01')?;
    let mut header = gs2.split(',');
    let (binding, authzid) = (header.next()?, header.next()?);
    if !matches!(binding, "n" | "y") || header.next() != Some("") || header.next().is_some() {
        return None;
    }
    let username = authzid
        .strip_prefix("a=")
        .or(authzid.is_empty().then_some(""))?;
    let username = username.replace("=2C", ",").replace("=3D", "=");
    bearer(&username, fields.split('\x01'))
}

fn bearer<'a>(username: &str, mut fields: impl Iterator<Item = &'a str>) -> Option<Credentials> {
    let auth = fields.find_map(|field| field.strip_prefix("auth="))?;
    let (scheme, token) = auth.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Credentials::Bearer {
            username: username.to_owned(),
            token: Secret::new(token.trim_start()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password {
            username: username.to_owned(),
            password: Secret::new(password),
        }
    }

    fn begin(mechanism: Mechanism, text: &str) -> Option<Credentials> {
        match Exchange::begin(mechanism, Some(encode(text).as_bytes())) {
            Turn::Presented(credentials) => Some(credentials),
            Turn::Challenge(..) | Turn::Cancelled | Turn::Malformed => None,
        }
    }

    #[test]
    fn plain_takes_its_three_parts_and_nothing_else() {
        for (text, expected) in [
            ("\0user\0pass", Some(password("user", "pass"))),
            ("user\0user\0pass", Some(password("user", "pass"))),
            (
                "\0ü@x\0p\u{e4}ss word",
                Some(password("ü@x", "p\u{e4}ss word")),
            ),
            ("\0user\0", Some(password("user", ""))),
            ("admin\0user\0pass", None),
            ("\0\0pass", None),
            ("user\0pass", None),
            ("\0user\0pass\0", None),
            ("", None),
        ] {
            assert_eq!(begin(Mechanism::Plain, text), expected, "{text:?}");
        }
    }

    #[test]
    fn base64_may_lack_its_padding_but_must_be_base64() {
        let whole = encode("\0user\0pass!");
        for line in [
            whole.as_str(),
            whole.trim_end_matches('='),
            &format!(" {whole} "),
        ] {
            let turn = Exchange::begin(Mechanism::Plain, Some(line.as_bytes()));
            assert!(matches!(turn, Turn::Presented(_)), "{line}");
        }
        for line in ["AHVzZXI$", "/w==", "=="] {
            let turn = Exchange::begin(Mechanism::Plain, Some(line.as_bytes()));
            assert!(matches!(turn, Turn::Malformed), "{line}");
        }
    }

    #[test]
    fn login_prompts_as_devices_expect_and_takes_the_name_early() {
        for initial in [None, Some(b"=".as_slice()), Some(b"dXNlcg==")] {
            let mut turn = Exchange::begin(Mechanism::Login, initial);
            if initial.is_none_or(|initial| initial == b"=") {
                let Turn::Challenge(exchange, prompt) = turn else {
                    panic!("no prompt for {initial:?}");
                };
                assert_eq!(prompt, "VXNlcm5hbWU6");
                turn = exchange.respond(b"dXNlcg==");
            }
            let Turn::Challenge(exchange, prompt) = turn else {
                panic!("no second prompt for {initial:?}");
            };
            assert_eq!(prompt, "UGFzc3dvcmQ6");
            let Turn::Presented(credentials) = exchange.respond(b"cGFzcw==") else {
                panic!("nothing presented for {initial:?}");
            };
            assert_eq!(credentials, password("user", "pass"));
        }
    }

    #[test]
    fn a_star_cancels_at_every_turn() {
        for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::Xoauth2] {
            let Turn::Challenge(exchange, _) = Exchange::begin(mechanism, None) else {
                panic!("no challenge");
            };
            assert!(matches!(exchange.respond(b"*"), Turn::Cancelled));
        }
    }

    #[test]
    fn bearer_forms_give_mailbox_and_token() {
        let expected = |username: &str| {
            Some(Credentials::Bearer {
                username: username.to_owned(),
                token: Secret::new("t0k.en"),
            })
        };
        let xoauth2 = "user=a@b\x01auth=Bearer t0k.en\x01\x01";
        assert_eq!(begin(Mechanism::Xoauth2, xoauth2), expected("a@b"));
        for (text, username) in [
            ("n,a=a@b,\x01auth=Bearer t0k.en\x01\x01", "a@b"),
            (
                "n,a=a=2Cb@c,\x01host=h\x01port=587\x01auth=Bearer t0k.en\x01\x01",
                "a,b@c",
            ),
            ("y,,\x01auth=bearer t0k.en\x01\x01", ""),
        ] {
            assert_eq!(begin(Mechanism::OauthBearer, text), expected(username));
        }
        for text in [
            "user=a@b\x01auth=Bearer t\x01",
            "user=a@b\x01\x01\x01",
            "p=x,a=a@b,\x01auth=Bearer t\x01\x01",
            "n,a=a@b\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(begin(Mechanism::Xoauth2, text), None, "{text:?}");
            assert_eq!(begin(Mechanism::OauthBearer, text), None, "{text:?}");
        }
    }
}
