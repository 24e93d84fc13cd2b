//! A sign-in under way, an account's or a draft's: what a person does next, and what came of it.

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use jiff::Timestamp;
use url::Url;

use super::providers::{self, AGAIN};
use crate::{
    admin::{
        Shared,
        api::Problem,
        console::{
            Frame, Page, Visitor, failed, form::Posted, qr::Qr, redirect, render, view::Moment,
        },
        handlers::AppState,
        made::providers::Effective,
        problem::Named,
    },
    mail::AccountName,
    net::http,
    oauth::{Diagnosis, Grant, Kind, SignIn, SignInStatus, Standing},
};

#[derive(Template)]
#[template(path = "admin/console/pages/sign_in.html")]
struct SignInPage {
    frame: Frame,
    id: String,
    /// None: it is not known any more.
    of: Option<Of>,
    state: Stage,
}

/// Whose sign-in it is.
struct Of {
    account: String,
    /// Where the account is, once it is there.
    account_page: Option<String>,
    provider: String,
    provider_page: String,
    is_draft: bool,
    /// By which ways an account that is in force can begin again.
    again: Ways,
}

/// How an account that is in force gets its tokens anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// What the button for its own grant says; none: that is by device code, or it needs no tokens.
    pub(super) by_grant: Option<&'static str>,
    /// Whether a device code would do.
    pub(super) device: bool,
}

/// The button of a grant that needs no person.
const FETCH: &str = "Fetch a token";

impl Ways {
    /// Whether a person must sign in.
    pub(super) fn needs_person(self) -> bool {
        self.device || self.by_grant.is_some_and(|label| label != FETCH)
    }

    /// `provider`: the profile in force.
    pub(super) fn new(grant: Grant, provider: &Effective) -> Self {
        if grant.is_unattended() {
            return Self {
                by_grant: Some(FETCH),
                device: false,
            };
        }
        // An issuer that is asked for its addresses may have one. Google refuses the scope of mail there.
        let has_address =
            provider.device_authorization_url.is_some() || provider.token_url.is_none();
        let device = has_address && provider.kind != Kind::Google;
        match grant {
            Grant::DeviceCode => Self {
                by_grant: None,
                device,
            },
            Grant::AuthorizationCode
            | Grant::ClientCredentials
            | Grant::ServiceAccount
            | Grant::WorkloadIdentity
            | Grant::ManagedIdentity => Self {
                by_grant: Some("Sign in with a browser"),
                device,
            },
        }
    }
}

impl Shared {
    /// How an account gets its tokens anew; nothing: it needs none, or is not in force.
    pub(super) fn ways(&self, account: &AccountName) -> Ways {
        let view = self.view();
        let facts = view.accounts.iter().find(|facts| facts.name == *account);
        let ways = facts.and_then(|facts| {
            let provider = view.providers.get(facts.provider.as_ref()?)?;
            Some(Ways::new(facts.grant?, provider))
        });
        ways.unwrap_or_default()
    }
}

/// What the page shows.
enum Stage {
    Browser(Browser),
    Device(Device),
    Unattended,
    Finishing,
    SignedIn,
    Refused(Diagnosis),
    Unknown,
}

/// A browser must open an address.
struct Browser {
    url: String,
    expires: Moment,
    /// How a browser on another machine gets here, where the redirect URL names this machine only.
    tunnel: Option<String>,
    redirect_url: String,
}

/// A person must enter a code.
struct Device {
    user_code: String,
    /// Shown as a link only where it is a web address.
    verification: Option<Url>,
    /// As the provider says it.
    verification_text: String,
    qr: Option<Qr>,
    expires: Moment,
}

impl Stage {
    fn new(standing: Standing, shared: &Shared, now: Timestamp) -> Self {
        match standing {
            Standing::Waiting(SignIn::Browser {
                url, expires_at, ..
            }) => Self::Browser(Browser {
                tunnel: tunnel(&url, shared),
                redirect_url: redirect_url(&url).map(String::from).unwrap_or_default(),
                url,
                expires: Moment::new(expires_at, now),
            }),
            Standing::Waiting(SignIn::Device {
                verification_uri,
                verification_uri_complete,
                user_code,
                expires_at,
                ..
            }) => {
                // With the code filled in where the provider has such an address.
                let complete = verification_uri_complete.as_deref().and_then(web);
                let plain = web(&verification_uri);
                let scanned = complete.as_ref().or(plain.as_ref());
                Self::Device(Device {
                    user_code,
                    qr: scanned.and_then(|url| Qr::new(url.as_str())),
                    verification: complete.or(plain),
                    verification_text: verification_uri,
                    expires: Moment::new(expires_at, now),
                })
            }
            Standing::Waiting(SignIn::Unattended { .. }) => Self::Unattended,
            Standing::Finishing => Self::Finishing,
            Standing::Ended(Ok(())) => Self::SignedIn,
            Standing::Ended(Err(diagnosis)) => Self::Refused(diagnosis),
        }
    }

    /// Whether a person may still stop it.
    fn is_open(&self) -> bool {
        matches!(self, Self::Browser(_) | Self::Device(_) | Self::Unattended)
    }
}

/// An address of the web; what a server calls an address may be anything.
fn web(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// Where the browser is sent back to.
fn redirect_url(authorization_url: &str) -> Option<Url> {
    let url = Url::parse(authorization_url).ok()?;
    let mut asked = url.query_pairs();
    let (_, redirect) = asked.find(|(name, _)| name == "redirect_uri")?;
    web(&redirect)
}

/// The command that makes a loopback redirect URL work from another machine.
fn tunnel(authorization_url: &str, shared: &Shared) -> Option<String> {
    let redirect = redirect_url(authorization_url)?;
    let console = shared.console.get()?;
    let port = redirect.port_or_known_default()?;
    http::is_loopback(&redirect).then(|| format!("ssh -L {port}:{console} THIS-MACHINE"))
}

/// The path of a sign-in's page.
pub(in crate::admin::console) fn path(id: &str) -> String {
    format!("/sign-ins/{id}")
}

impl Of {
    fn new(id: &str, status: &SignInStatus, shared: &Shared) -> Self {
        let account = status.account.to_string();
        let is_known = shared.known(&status.account).is_ok();
        let has_provider = shared.view().providers.contains_key(&status.provider);
        let provider_page = match has_provider {
            true => providers::path(&status.provider),
            false => "/providers/new".to_owned(),
        };
        let provider_page = format!("{provider_page}?{AGAIN}={id}");
        Self {
            account_page: is_known.then(|| super::account::path(&account)),
            provider_page,
            again: shared.ways(&status.account),
            account,
            provider: status.provider.clone(),
            is_draft: status.is_draft,
        }
    }
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    Named(id): Named<String>,
    headers: HeaderMap,
    visitor: Visitor,
) -> Page {
    let now = shared.parts.clock.now();
    let status = shared.parts.oauth.sign_in_status(&id);
    // The script renews a page only with a good answer.
    let answer = match status.is_some() || visitor.is_live() {
        true => StatusCode::OK,
        false => StatusCode::NOT_FOUND,
    };
    if status.is_some()
        && let Some(here) = shared.access.here(&headers, &path(&id))
    {
        shared.returns.keep(&id, here);
    }
    let of = status.as_ref().map(|status| Of::new(&id, status, &shared));
    let page = SignInPage {
        frame: Frame::new(&shared, &visitor, "/accounts"),
        state: status.map_or(Stage::Unknown, |status| {
            Stage::new(status.standing, &shared, now)
        }),
        of,
        id,
    };
    Ok(render(answer, &page))
}

/// Ends it; its page then says so.
pub(in crate::admin::console) async fn cancel(
    State(shared): AppState,
    Named(id): Named<String>,
    visitor: Visitor,
) -> Response {
    if shared.parts.oauth.cancel_sign_in(&id) {
        return redirect(&path(&id));
    }
    let what = "There was nothing to cancel: the sign-in has ended, or is ending now.";
    let problem = Problem::new(StatusCode::NOT_FOUND, what).remedy("look how it ended");
    failed(&shared, &visitor, &path(&id), &problem)
}

/// Takes the address that a browser elsewhere was sent to.
pub(in crate::admin::console) async fn pasted(
    State(shared): AppState,
    Named(id): Named<String>,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    let done = shared.parts.oauth.callback(posted.text("address")).await;
    let status = shared.parts.oauth.sign_in_status(&id);
    let is_told = status.is_some_and(|status| matches!(status.standing, Standing::Ended(_)));
    match done {
        Err(diagnosis) if !is_told => failed(&shared, &visitor, &path(&id), &diagnosis.into()),
        // How it ended is on the page.
        Ok(_) | Err(_) => redirect(&path(&id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link comes from what a server says: only addresses of the web become one.
    #[test]
    fn only_web_addresses_are_links() {
        assert!(web("https://microsoft.com/devicelogin").is_some());
        assert!(web("http://127.0.0.1:9/device").is_some());
        for text in ["javascript:alert(1)", "data:text/html,x", "/device", ""] {
            assert!(web(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_way_back_is_read_from_the_address() {
        let asked = "https://login.example/authorize?state=x&redirect_uri=http%3A%2F%2Flocalhost%3A8025%2Fback%2F";
        let url = redirect_url(asked).unwrap();
        assert_eq!(url.as_str(), "http://localhost:8025/back/");
        assert_eq!(redirect_url("https://login.example/authorize"), None);
    }
}
