//! How each type of value is written: one [`Leaf`] a type.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use jiff::civil::Date;
use url::{ParseError, Url};

use super::{
    field::{Leaf, Raw, Wrong, kind_of},
    nearest::nearest,
    units::{self, ByteSize},
};
use crate::{
    mail::Address,
    oauth::{ClientAuthentication, Kind, preset::Cloud},
    submission,
};

/// A text that is not shown in problems: a URL that holds a password, a hash.
#[derive(Debug, Clone)]
pub(super) struct Hidden(pub(super) String);

impl Leaf for String {
    const REMEDY: &'static str = "write it in double quotes";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let text = raw.text()?;
        if text.chars().any(char::is_control) {
            return Err(Wrong::with_remedy(
                "holds a control character",
                "take line ends and tabs out",
            ));
        }
        Ok(text.to_owned())
    }
}

impl Leaf for Hidden {
    const REMEDY: &'static str = "write it in double quotes";
    const SECRET: bool = true;

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        raw.text().map(|text| Self(text.to_owned()))
    }
}

impl Leaf for Vec<String> {
    const REMEDY: &'static str = "write a list of texts: [\"one\", \"two\"]";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let texts = raw.texts()?;
        Ok(texts.into_iter().map(str::to_owned).collect())
    }
}

/// A program and its arguments, which may hold a secret.
#[derive(Debug, Clone)]
pub(super) struct CommandLine(pub(super) Vec<String>);

impl Leaf for CommandLine {
    const REMEDY: &'static str = Vec::<String>::REMEDY;
    const SECRET: bool = true;

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        Vec::parse(raw).map(Self)
    }
}

impl Leaf for PathBuf {
    const REMEDY: &'static str = "write a path in double quotes";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        raw.text().map(|text| raw.path(text))
    }
}

impl Leaf for Date {
    const REMEDY: &'static str = "write it as \"2027-05-31\"";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let wrong = |_| Wrong::new("is not a date");
        raw.text()
            .map_err(|_| Wrong::new("is not a date"))?
            .parse()
            .map_err(wrong)
    }
}

impl Leaf for bool {
    const REMEDY: &'static str = "write true or false, without quotes";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let text = raw.value.as_str().filter(|_| raw.from_environment);
        match (raw.value.to_bool(), text) {
            (Some(value), _) => Ok(value),
            (None, Some("true" | "1" | "yes" | "on")) => Ok(true),
            (None, Some("false" | "0" | "no" | "off")) => Ok(false),
            (None, Some(_)) => Err(Wrong::new("is neither true nor false")),
            (None, None) => Err(Wrong::new(format!("is {}", kind_of(raw.value)))),
        }
    }
}

impl Leaf for u32 {
    const REMEDY: &'static str = "write a whole number from 0 to 4294967295, without quotes";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let text = raw.value.as_str().filter(|_| raw.from_environment);
        let number = match (raw.value.to_num(), text) {
            (Some(number), _) => number
                .to_i128()
                .and_then(|n| Self::try_from(n).ok())
                .or_else(|| number.to_u128().and_then(|n| Self::try_from(n).ok())),
            (None, Some(text)) => text.trim().parse().ok(),
            (None, None) => {
                let what = format!("is {}, not a number", kind_of(raw.value));
                return Err(Wrong::new(what));
            }
        };
        number.ok_or_else(|| Wrong::new("is out of range"))
    }
}

impl Leaf for Duration {
    const REMEDY: &'static str = "write a number and its unit (ms, s, m, h, d): \"90s\", \"1h30m\"";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new("is not a duration");
        // A bare number is the usual slip, so it gets the duration's own remedy.
        let text = raw.text().map_err(|_| wrong())?;
        units::duration(text).ok_or_else(wrong)
    }
}

impl Leaf for ByteSize {
    const REMEDY: &'static str =
        "write a number and its unit (B, KiB, MiB, GiB), \"35MiB\", or a number of octets";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new("is not a size");
        if let Some(octets) = raw.value.to_i128() {
            return u64::try_from(octets).map(Self).map_err(|_| wrong());
        }
        units::size(raw.text().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

impl Leaf for IpNet {
    const REMEDY: &'static str =
        "write a network as \"10.0.0.0/8\" or \"fd00::/8\", or one address";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        network(raw.text()?)
    }
}

impl Leaf for Vec<IpNet> {
    const REMEDY: &'static str = "write a list of networks: [\"10.0.0.0/8\", \"fd00::/8\"]";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        raw.texts()?.into_iter().map(network).collect()
    }
}

/// A network, or one address as one.
pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    let network = text.parse::<IpNet>().ok().or_else(address);
    // `10.1.2.3/8` means `10.0.0.0/8` to some and one host to others; the former is what it does.
    network
        .map(|network| network.trunc())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a network")))
}

impl Leaf for Url {
    const REMEDY: &'static str = "write a whole URL: \"https://host/path\"";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let slips = [
            (
                ParseError::RelativeUrlWithoutBase,
                "does not begin with https://",
            ),
            (ParseError::EmptyHost, "names no host"),
            (
                ParseError::InvalidPort,
                "has a port that is no number up to 65535",
            ),
        ];
        let url = Self::parse(raw.text()?).map_err(|error| {
            let slip = slips.iter().find(|(slip, _)| *slip == error);
            Wrong::new(slip.map_or("is not a URL", |(_, what)| what))
        })?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(Wrong::new("is not an http or https URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Wrong::with_remedy(
                "holds a user name or password",
                "take it out of the URL",
            ));
        }
        Ok(url)
    }
}

impl Leaf for Address {
    const REMEDY: &'static str = "write a mail address: \"alerts@example.com\"";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        Self::parse(raw.text()?).map_err(|error| Wrong::new(error.to_string()))
    }
}

/// A TCP address, or `"none"` to switch off what listens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TcpAddress {
    None,
    At(SocketAddr),
}

impl Leaf for TcpAddress {
    const REMEDY: &'static str =
        "write IP:PORT, as \"127.0.0.1:8025\" or \"[::1]:8025\", or \"none\"";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        match raw.text()? {
            "none" => Ok(Self::None),
            text => text
                .parse()
                .map(Self::At)
                .map_err(|_| Wrong::new("is not an address")),
        }
    }
}

impl Leaf for submission::Address {
    const REMEDY: &'static str = "write IP:PORT, as \"127.0.0.1:2525\" or \"[::]:2525\" (all addresses), \"unix:/path\" or \"systemd:name\"";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        let text = raw.text()?;
        if let Some(path) = text.strip_prefix("unix:") {
            let is_path = path.len() > 1 && path.starts_with('/');
            return is_path
                .then(|| Self::Unix(path.into()))
                .ok_or_else(|| Wrong::new("needs a path that begins with /"));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return (!name.is_empty())
                .then(|| Self::Systemd(name.to_owned()))
                .ok_or_else(|| Wrong::new("needs the socket's FileDescriptorName"));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| Wrong::new("is not an address"))
    }
}

/// Who is told about failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BounceTo {
    Sender,
    None,
    Address(Address),
}

impl Leaf for BounceTo {
    const REMEDY: &'static str = "use \"sender\", \"none\" or a mail address";

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        match raw.text()? {
            "sender" => Ok(Self::Sender),
            "none" => Ok(Self::None),
            text => Address::parse(text)
                .map(Self::Address)
                .map_err(|error| Wrong::new(error.to_string())),
        }
    }
}

/// The one kind of store that this version has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embedded;

/// What a 250 promises, without the time that `hybrid` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryContract {
    Queue,
    Direct,
    Hybrid,
}

/// How mail goes upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Smtp,
    Graph,
    Gmail,
    Auto,
}

/// What becomes of messages that are too large for an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AboveMax {
    Smtp,
    Return,
}

/// How we authenticate upstream, without its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Xoauth2,
    OauthBearer,
    Password,
    None,
}

/// Implements [`Leaf`] for a type whose values are words.
macro_rules! words {
    ($type:ty, $remedy:literal, $secret:literal, $($word:literal => $value:expr),+ $(,)?) => {
        impl Leaf for $type {
            const REMEDY: &'static str = concat!("use ", $remedy);
            const SECRET: bool = $secret;

            fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
                match raw.text()? {
                    $($word => Ok($value),)+
                    other => Err(unknown_word(other, &[$($word),+])),
                }
            }
        }
    };
}

fn unknown_word(given: &str, words: &[&str]) -> Wrong {
    match nearest(given, words.iter().copied()) {
        Some(near) if words.len() > 1 => {
            let others: Vec<String> = words
                .iter()
                .filter(|word| **word != near)
                .map(|word| format!("{word:?}"))
                .collect();
            let remedy = format!("did you mean {near:?}? (or {})", others.join(", "));
            Wrong::with_remedy("unknown value", remedy)
        }
        _ => Wrong::new("unknown value"),
    }
}

words!(Embedded, "\"sqlite\"", true, "sqlite" => Self);
words!(
    DeliveryContract, "\"queue\", \"direct\" or \"hybrid\"", false,
    "queue" => Self::Queue, "direct" => Self::Direct, "hybrid" => Self::Hybrid,
);
words!(
    Way, "\"smtp\", \"graph\", \"gmail\" or \"auto\"", false,
    "smtp" => Self::Smtp, "graph" => Self::Graph, "gmail" => Self::Gmail, "auto" => Self::Auto,
);
words!(
    AboveMax, "\"smtp\" or \"return\"", false,
    "smtp" => Self::Smtp, "return" => Self::Return,
);
words!(
    crate::delivery::Rewrite, "\"never\", \"envelope\", \"header\" or \"both\"", false,
    "never" => Self::Never, "envelope" => Self::Envelope, "header" => Self::Header,
    "both" => Self::Both,
);
words!(
    submission::Tls, "\"none\", \"starttls\", \"implicit\" or \"auto\"", false,
    "none" => Self::None, "starttls" => Self::Starttls, "implicit" => Self::Implicit,
    "auto" => Self::Auto,
);
words!(
    submission::Auth, "\"none\", \"optional\" or \"required\"", false,
    "none" => Self::None, "optional" => Self::Optional, "required" => Self::Required,
);
words!(
    submission::AuthWithoutTls, "\"never\", \"loopback\" or \"always\"", false,
    "never" => Self::Never, "loopback" => Self::Loopback, "always" => Self::Always,
);
words!(
    submission::LineEndings, "\"strict\" or \"normalize\"", false,
    "strict" => Self::Strict, "normalize" => Self::Normalize,
);
words!(
    submission::LongLines, "\"pass\" or \"refuse\"", false,
    "pass" => Self::Pass, "refuse" => Self::Refuse,
);
words!(
    Kind, "\"microsoft\", \"google\" or \"custom\"", false,
    "microsoft" => Self::Microsoft, "google" => Self::Google, "custom" => Self::Custom,
);
words!(
    Cloud, "\"global\", \"us-gov-high\", \"us-gov-dod\" or \"china\"", false,
    "global" => Self::Global, "us-gov-high" => Self::UsGovHigh,
    "us-gov-dod" => Self::UsGovDod, "china" => Self::China,
);
words!(
    ClientAuthentication, "\"basic\", \"post\", \"private_key_jwt\" or \"none\"", false,
    "basic" => Self::Basic, "post" => Self::Post, "private_key_jwt" => Self::PrivateKeyJwt,
    "none" => Self::None,
);
words!(
    crate::oauth::Algorithm, "\"PS256\" or \"RS256\"", false,
    "PS256" => Self::Ps256, "RS256" => Self::Rs256,
);
words!(
    crate::oauth::Grant,
    "\"authorization_code\", \"device_code\", \"client_credentials\", \"service_account\", \"workload_identity\" or \"managed_identity\"",
    false,
    "authorization_code" => Self::AuthorizationCode, "device_code" => Self::DeviceCode,
    "client_credentials" => Self::ClientCredentials, "service_account" => Self::ServiceAccount,
    "workload_identity" => Self::WorkloadIdentity, "managed_identity" => Self::ManagedIdentity,
);
words!(
    crate::delivery::Tls, "\"starttls\", \"implicit\" or \"none\"", false,
    "starttls" => Self::Starttls, "implicit" => Self::Implicit, "none" => Self::None,
);
words!(
    crate::delivery::OnUncertain, "\"retry\" or \"hold\"", false,
    "retry" => Self::Retry, "hold" => Self::Hold,
);
words!(
    Mechanism, "\"xoauth2\", \"oauthbearer\", \"password\" or \"none\"", false,
    "xoauth2" => Self::Xoauth2, "oauthbearer" => Self::OauthBearer,
    "password" => Self::Password, "none" => Self::None,
);
words!(
    crate::telemetry::log::Format, "\"auto\", \"text\" or \"json\"", false,
    "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json,
);
