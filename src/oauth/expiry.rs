//! What will end by itself: client secrets, certificates, consents. Told well before. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Kind, grant::Profile};

/// Something that ends soon, or has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What ends, and when: `the client secret expires in 12 days`.
    pub reason: String,
    /// What to do before.
    pub remedy: String,
    /// When.
    pub expires_at: Timestamp,
}

/// What is known of a person's consent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Consent {
    pub(super) at: Option<Timestamp>,
    /// Where the provider ends it by itself.
    pub(super) ends_at: Option<Timestamp>,
}

impl Consent {
    /// Whether it lives as Google's do while the consent screen is in testing: seven days.
    pub(super) fn is_in_testing(self, kind: Kind) -> bool {
        let life = self
            .at
            .zip(self.ends_at)
            .map(|(at, ends_at)| ends_at.duration_since(at));
        kind == Kind::Google && life.is_some_and(|life| life <= TESTING_LIFE + SLACK)
    }

    /// Whether a consent that died `now` died as Google's do while the consent screen is in testing.
    pub(super) fn died_in_testing(self, kind: Kind, now: Timestamp) -> bool {
        let age = self.at.map(|at| now.duration_since(at));
        let span = TESTING_LIFE - SLACK..=TESTING_LIFE + SLACK;
        kind == Kind::Google && age.is_some_and(|age| span.contains(&age))
    }
}

/// What to publish the consent screen is called in Google's console.
pub(super) const PUBLISH: &str = "in the Google Cloud console open Google Auth Platform, Audience, and publish the app (or make it Internal \
     in a Workspace); then sign in again: gatepost login ACCOUNT";

/// What ends soon for an account.
pub(super) fn warnings(profile: &Profile, consent: Consent, now: Timestamp) -> Vec<Warning> {
    let provider = &profile.provider;
    // Who reads it may know the profile from the console or from the file.
    let new_secret = "make a new secret at the provider and enter it and its date: in the console under \
                      Providers, PROVIDER, or in the file as client_secret and client_secret_expires, then: \
                      gatepost reload";
    let new_certificate = "renew the certificate, upload it at the provider, then: gatepost reload";
    let in_testing = consent.is_in_testing(provider.kind);
    let (what, remedy) = if in_testing {
        ("the sign-in (the consent screen is in testing)", PUBLISH)
    } else {
        (
            "the sign-in",
            "sign in again before: gatepost login ACCOUNT",
        )
    };
    let ends = [
        (
            "the client secret",
            new_secret,
            provider.client_secret_expires_at,
        ),
        (
            "the client's certificate",
            new_certificate,
            provider.certificate_expires_at,
        ),
        (what, remedy, consent.ends_at),
    ];
    let soon = ends.into_iter().filter_map(|(what, remedy, ends_at)| {
        let ends_at = ends_at?;
        let left = ends_at.duration_since(now);
        (left <= WARN_BEFORE).then(|| Warning {
            reason: format!("{what} {}", when(left)),
            remedy: remedy
                .replace("PROVIDER", &profile.provider_name)
                .replace("ACCOUNT", profile.name.as_str()),
            expires_at: ends_at,
        })
    });
    soon.collect()
}

fn when(left: SignedDuration) -> String {
    let days = left.as_hours() / 24;
    match (left.is_positive(), days) {
        (false, _) => "has expired".to_owned(),
        (true, 0) => "expires today".to_owned(),
        (true, 1) => "expires in 1 day".to_owned(),
        (true, days) => format!("expires in {days} days"),
    }
}

impl Warning {
    /// How far it has come: told anew at each step, not at each look.
    #[must_use]
    pub fn step(&self, now: Timestamp) -> usize {
        let days = self.expires_at.duration_since(now).as_hours() / 24;
        STEPS_DAYS.iter().filter(|step| days < **step).count()
    }
}

/// What ends by itself is told so long before: a secret takes an administrator a while to renew.
pub const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// When the log is told again.
const STEPS_DAYS: [i64; 5] = [14, 7, 3, 1, 0];
/// Google ends the consents of an app in testing after seven days.
const TESTING_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A refresh comes up to an hour after the end, and Google's own clock is not ours.
const SLACK: SignedDuration = SignedDuration::from_hours(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mail::AccountName,
        oauth::{Grant, tests::bare_profile},
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn what_ends_is_told_thirty_days_before() {
        let mut profile = bare_profile(AccountName::new("alerts"), Grant::AuthorizationCode);
        profile.provider.client_secret_expires_at = Some(at("2027-05-31T00:00:00Z"));
        for (now, told) in [
            ("2027-04-30T23:59:59Z", None),
            (
                "2027-05-01T00:00:00Z",
                Some("the client secret expires in 30 days"),
            ),
            (
                "2027-05-29T12:00:00Z",
                Some("the client secret expires in 1 day"),
            ),
            (
                "2027-05-30T12:00:00Z",
                Some("the client secret expires today"),
            ),
            (
                "2027-05-31T00:00:00Z",
                Some("the client secret has expired"),
            ),
        ] {
            let warnings = warnings(&profile, Consent::default(), at(now));
            let first = warnings.first().map(|warning| warning.reason.as_str());
            assert_eq!(first, told, "{now}");
        }
    }

    #[test]
    fn the_seven_days_of_a_google_app_in_testing_are_named() {
        let mut profile = bare_profile(AccountName::new("alerts"), Grant::AuthorizationCode);
        profile.provider.kind = Kind::Google;
        let consent = Consent {
            at: Some(at("2026-11-24T12:00:00Z")),
            ends_at: Some(at("2026-12-01T12:00:00Z")),
        };
        let told = warnings(&profile, consent, at("2026-11-24T13:00:00Z"));
        assert!(
            told[0].reason.contains("consent screen is in testing"),
            "{told:?}"
        );
        assert!(told[0].remedy.contains("publish the app"), "{told:?}");
        let untold = Consent {
            ends_at: None,
            ..consent
        };
        for (now, kind, testing) in [
            ("2026-12-01T12:30:00Z", Kind::Google, true),
            ("2026-12-01T12:30:00Z", Kind::Microsoft, false),
            ("2026-11-28T12:00:00Z", Kind::Google, false),
            ("2027-05-01T12:00:00Z", Kind::Google, false),
        ] {
            assert_eq!(untold.died_in_testing(kind, at(now)), testing, "{now}");
        }
    }

    #[test]
    fn the_log_is_told_at_each_step() {
        let warning = Warning {
            reason: String::new(),
            remedy: String::new(),
            expires_at: at("2027-05-31T00:00:00Z"),
        };
        let steps = [
            "2027-05-02T00:00:00Z",
            "2027-05-18T00:00:00Z",
            "2027-05-25T00:00:00Z",
            "2027-05-29T00:00:00Z",
            "2027-05-30T12:00:00Z",
            "2027-06-02T00:00:00Z",
        ];
        let steps: Vec<usize> = steps.iter().map(|now| warning.step(at(now))).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
    }
}
