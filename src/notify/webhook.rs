//! A webhook: one POST of JSON.
//!
//! Its URL often holds a token, so it is a secret: no error and no event shows it, nor what the
//! server answers, which may repeat it.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Method, Request, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use url::Url;

use super::Failure;
use crate::{
    net::http::{Clients, Error, Way},
    secret::Secret,
};

/// Where a webhook is.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(Secret);

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhook(..)")
    }
}

impl Webhook {
    /// The webhook at `url`. What a URL must be is the configuration's to check.
    #[must_use]
    pub fn new(url: Secret) -> Self {
        Self(url)
    }

    /// Posts `json`, once.
    pub(super) async fn post(
        &self,
        clients: &Clients,
        json: Vec<u8>,
        now: Timestamp,
    ) -> Result<String, Failure> {
        let url = Url::parse(self.0.expose()).map_err(|_| Failure::last("its URL is none"))?;
        let client = clients.client(&url, Way::default()).await;
        let client = client.map_err(|error| unreached(&error))?;
        let mut request = Request::new(Method::POST, url);
        let json_type = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json_type);
        *request.body_mut() = Some(json.into());
        let answer = client.exchange(request).await;
        let answer = answer.map_err(|error| unreached(&error))?;
        let said = format!("it answered {}", answer.status);
        if answer.status.is_success() {
            return Ok(said);
        }
        let is_passing = answer.status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT]
                .contains(&answer.status);
        Err(Failure {
            again: is_passing,
            after: answer.retry_after.map(|after| after.wait(now)),
            what: if answer.status.is_redirection() {
                format!("{said}: write the URL that it leads to into notify.webhook")
            } else {
                said
            },
        })
    }
}

fn unreached(error: &Error) -> Failure {
    let (again, what) = match error {
        Error::Exchange(_) | Error::Proxy { .. } | Error::Timeout | Error::Setup(_) => {
            (true, error.to_string())
        }
        Error::CaFile { .. } | Error::TooLarge => (false, error.to_string()),
        // Its own text names the host, which is part of the secret.
        Error::Insecure(_) => (
            false,
            "its URL is neither https nor on this machine".to_owned(),
        ),
    };
    Failure {
        what,
        again,
        after: None,
    }
}

/// How long to wait before try number `tries + 1`; `None`: no more.
pub(super) fn pause(tries: u32) -> Option<Duration> {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
    let pause = PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX);
    (tries < TRIES_MAX).then_some(pause)
}

/// A service that restarts is back.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// Also for a server that asks for longer: what waits behind it wants to be told as well.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(300);
/// About an hour; a condition that still stands is told again by its reminder.
const TRIES_MAX: u32 = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_after_about_an_hour() {
        assert_eq!(pause(1), Some(Duration::from_secs(2)));
        assert_eq!(pause(2), Some(Duration::from_secs(4)));
        let all: Vec<Duration> = (1..).map_while(pause).collect();
        assert!(all.iter().all(|pause| *pause <= PAUSE_MAX));
        let sum: Duration = all.iter().sum();
        let hour = 3600;
        assert!((hour / 2..2 * hour).contains(&sum.as_secs()), "{sum:?}");
    }

    #[test]
    fn nothing_printed_shows_the_url() {
        let webhook = Webhook::new(Secret::new("https://hooks.example/canary"));
        assert!(!format!("{webhook:?}").contains("hooks"));
        let told = unreached(&Error::Insecure("http://canary.example".to_owned()));
        assert!(!told.what.contains("canary"));
    }
}
