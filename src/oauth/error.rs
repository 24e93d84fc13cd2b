//! What a refusal means: one table by (HTTP status, `error`, `suberror`), and one of AADSTS numbers
//! that only refines what the operator reads. Microsoft says the numbers may change; nothing but
//! words, and whether to look again by itself now and then, hangs on them.

use std::time::Duration;

use super::{
    Diagnosis,
    error_table::{
        AADSTS, AGAIN, DEFINITE, PERMISSION_AADSTS, PERMISSION_ERRORS, SERVICE_AADSTS,
        SERVICE_ERRORS,
    },
    response::Refusal,
};
use crate::{mail::AccountName, net::http};

/// The code of trouble at the proxy on the way, which has a remedy of its own.
pub(super) const PROXY: &str = "proxy";

/// A failed exchange with a provider, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) severity: Severity,
    pub(super) about: About,
    pub(super) diagnosis: Diagnosis,
    /// The provider's wish, if it had one.
    pub(super) retry_after: Option<Duration>,
    /// For the log: the provider's code, or what kind of trouble it was.
    pub(super) code: String,
    pub(super) aadsts: Option<u32>,
    pub(super) trace_id: Option<String>,
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Every token of the account.
    Account,
    /// The token asked for: the refresh token may serve other services.
    Service,
    /// The same, because nobody has consented to it.
    Permission,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// It may be over in a minute.
    Transient,
    /// A person must mend something; looking again now and then finds out when they have.
    Mend,
    /// A person must sign in; this refresh token will never work again.
    SignIn,
}

/// Judges a refusal. `status` is the HTTP status it came with.
pub(super) fn judge(status: u16, refusal: &Refusal, account: &AccountName) -> Box<Failure> {
    let code = refusal.code();
    let aadsts = refusal.aadsts();
    let row = aadsts.and_then(|n| AADSTS.iter().find(|row| row.0.contains(&n)));
    let definite = DEFINITE.iter().find(|entry| entry.0 == refusal.error);
    let (severity, reason, remedy) = match (definite, row) {
        // A server in trouble says nothing about the client, whatever it says.
        _ if status >= 500 || matches!(status, 408 | 425 | 429) => transient(),
        (Some(_), Some(row)) => (row.1, row.2, row.3),
        (Some(entry), None) => (entry.1, entry.2, entry.3),
        // A challenge that only a person can answer, under a name we do not know.
        (None, _) if refusal.claims.is_some() => (
            Severity::SignIn,
            "the provider wants the person to act",
            AGAIN,
        ),
        (None, _) => transient(),
    };
    let mut named = match aadsts {
        Some(number) => format!("{reason} (AADSTS{number}"),
        None => format!("{reason} ({code}"),
    };
    let sub = refusal.suberror.as_ref().or(refusal.error_subtype.as_ref());
    if let Some(sub) = sub.map(|sub| Refusal::new(sub, None).code()) {
        named.push_str(", ");
        named.push_str(&sub);
    }
    named.push(')');
    if let (None, Some(remark)) = (row, refusal.remark()) {
        named.push_str(": ");
        named.push_str(&remark);
    }
    let is_about = |errors: &[&str], numbers: &[u32]| {
        errors.contains(&refusal.error.as_str())
            || refusal
                .suberror
                .as_deref()
                .is_some_and(|sub| errors.contains(&sub))
            || aadsts.is_some_and(|number| numbers.contains(&number))
    };
    let about = if is_about(PERMISSION_ERRORS, PERMISSION_AADSTS) {
        About::Permission
    } else if is_about(SERVICE_ERRORS, SERVICE_AADSTS) {
        About::Service
    } else {
        About::Account
    };
    Box::new(Failure {
        severity,
        about,
        diagnosis: Diagnosis {
            reason: named,
            remedy: remedy.replace("ACCOUNT", account.as_str()),
        },
        retry_after: None,
        code,
        aadsts,
        trace_id: refusal.trace(),
    })
}

fn transient() -> (Severity, &'static str, &'static str) {
    (
        Severity::Transient,
        "the provider cannot answer now",
        "nothing: it is tried again by itself",
    )
}

/// No answer came: `what` failed with this error.
pub(super) fn unreachable(what: &str, error: &http::Error) -> Box<Failure> {
    let mut failure = trouble("unreachable", format!("{what}: {error}"));
    if let Some(remedy) = error.remedy() {
        PROXY.clone_into(&mut failure.code);
        remedy.clone_into(&mut failure.diagnosis.remedy);
    }
    failure
}

/// Trouble on the way to the provider or with the form of its answer: always transient.
pub(super) fn trouble(code: &str, reason: String) -> Box<Failure> {
    Box::new(Failure {
        severity: Severity::Transient,
        about: About::Account,
        diagnosis: Diagnosis {
            reason,
            remedy: "nothing if the provider or the network is down, it is tried again by itself; \
                     else check the provider's URLs"
                .to_owned(),
        },
        retry_after: None,
        code: code.to_owned(),
        aadsts: None,
        trace_id: None,
    })
}

/// A definite failure found by ourselves.
pub(super) fn definite(severity: Severity, code: &str, diagnosis: Diagnosis) -> Box<Failure> {
    Box::new(Failure {
        severity,
        about: About::Account,
        diagnosis,
        retry_after: None,
        code: code.to_owned(),
        aadsts: None,
        trace_id: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, error: &str, text: &str) -> Box<Failure> {
        let refusal = Refusal::new(error, Some(text));
        judge(status, &refusal, &AccountName::new("alerts"))
    }

    #[test]
    fn status_comes_before_error_and_error_before_number() {
        use Severity::{Mend, SignIn, Transient};
        for (status, error, text, severity) in [
            (400, "invalid_grant", "", SignIn),
            (400, "invalid_grant", "AADSTS50057: disabled", Mend),
            (400, "interaction_required", "AADSTS50076: mfa", SignIn),
            (401, "invalid_client", "AADSTS7000222: expired", Mend),
            (403, "invalid_client", "", Mend),
            (400, "invalid_scope", "", Mend),
            (400, "temporarily_unavailable", "", Transient),
            (400, "server_error", "AADSTS90033: transient", Transient),
            (400, "something_new", "", Transient),
            (400, "something_new", "AADSTS50057: disabled", Transient),
            (500, "invalid_grant", "", Transient),
            (503, "invalid_client", "", Transient),
            (429, "invalid_grant", "AADSTS50196: loop", Transient),
        ] {
            assert_eq!(
                judged(status, error, text).severity,
                severity,
                "{status} {error} {text}"
            );
        }
    }

    #[test]
    fn the_operator_reads_what_is_wrong_and_what_to_do() {
        let failure = judged(
            401,
            "invalid_client",
            "AADSTS7000222: The provided client secret ...",
        );
        assert_eq!(
            failure.diagnosis.reason,
            "the client secret has expired (AADSTS7000222)"
        );
        assert!(
            failure
                .diagnosis
                .remedy
                .starts_with("make a new secret in the Azure portal")
        );
        let failure = judged(400, "invalid_grant", "Token has been expired or revoked.");
        assert!(
            failure
                .diagnosis
                .reason
                .ends_with("(invalid_grant): Token has been expired or revoked.")
        );
        assert!(failure.diagnosis.remedy.ends_with("gatepost login alerts"));
    }

    #[test]
    fn a_challenge_needs_a_person_whatever_it_is_called() {
        let refusal: Refusal =
            serde_json::from_str(r#"{"error":"insufficient","claims":"{}"}"#).unwrap();
        let failure = judge(400, &refusal, &AccountName::new("a"));
        assert_eq!(failure.severity, Severity::SignIn);
    }

    #[test]
    fn no_number_stands_in_two_rows() {
        let mut seen = std::collections::BTreeSet::new();
        for number in AADSTS.iter().flat_map(|row| row.0) {
            assert!(seen.insert(number), "AADSTS{number}");
        }
    }
}
