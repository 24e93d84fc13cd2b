//! Logins of devices: made and given another password on a page that shows it, this once.

use std::net::SocketAddr;

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};

use super::clients::HERE;
use crate::{
    admin::{
        Shared,
        api::Problem,
        console::{
            Confirm, Frame, Page, Visitor, confirm, done, failed,
            form::{Field, Posted, about_the_rest},
            render, told,
        },
        handlers::AppState,
        made::{
            Who,
            logins::{ChangedLogin, LoginPassword, NewLogin},
        },
    },
    submission::{Address, Auth, AuthWithoutTls, Listener, Submission, Tls},
};

#[derive(Template)]
#[template(path = "admin/console/pages/login_form.html")]
struct FormPage {
    frame: Frame,
    told: Vec<String>,
    /// The login that is changed; none: it is made.
    of: Option<String>,
    name: Field,
    senders: Field,
    accounts: Vec<String>,
    account: String,
    account_error: Option<String>,
}

/// The one page that shows a password: the answer to the form itself, kept nowhere.
#[derive(Template)]
#[template(path = "admin/console/pages/login_made.html")]
struct MadePage<'a> {
    frame: Frame,
    made: &'a LoginPassword,
    servers: Vec<Server>,
}

/// What to type into a device beside name and password.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: String,
    tls: &'static str,
}

impl FormPage {
    /// `of`: the login that is changed; none: `new` is to be made.
    fn new(
        (shared, visitor): (&Shared, &Visitor),
        of: Option<&str>,
        new: &NewLogin,
        problem: Option<&Problem>,
    ) -> Self {
        let name = Field {
            name: "name",
            label: "User name",
            value: new.name.clone(),
            help: "What the device logs in with, as printer-2. It cannot be changed later."
                .to_owned(),
            kind: "text",
            autocomplete: "off",
            is_required: true,
            ..Field::default()
        };
        let senders = Field {
            name: "senders",
            label: "Sends as",
            value: new.senders.join(", "),
            help:
                "Addresses or patterns that it may send as, as *@example.com, with commas between \
                   them. Empty: as anyone."
                    .to_owned(),
            kind: "text",
            autocomplete: "off",
            ..Field::default()
        };
        let account = Field {
            name: "account",
            ..Field::default()
        };
        let view = shared.view();
        Self {
            frame: Frame::new(shared, visitor, HERE),
            of: of.map(str::to_owned),
            told: problem.map_or_else(Vec::new, |problem| {
                about_the_rest(problem, &["name", "senders", "account"])
            }),
            name: name.judged(problem),
            senders: senders.judged(problem),
            accounts: view.accounts.iter().map(|it| it.name.to_string()).collect(),
            account: new.account.clone().unwrap_or_default(),
            account_error: account.judged(problem).error,
        }
    }
}

pub(in crate::admin::console) async fn show(State(shared): AppState, visitor: Visitor) -> Page {
    let page = FormPage::new((&shared, &visitor), None, &NewLogin::default(), None);
    Ok(render(StatusCode::OK, &page))
}

/// What a form has sent, and as a person is shown it again.
fn entered(posted: &Posted) -> NewLogin {
    let account = posted.text("account");
    NewLogin {
        name: posted.text("name").to_owned(),
        account: (!account.is_empty()).then(|| account.to_owned()),
        senders: listed(posted.text("senders")),
    }
}

fn refused(
    viewed: (&Shared, &Visitor),
    of: Option<&str>,
    new: &NewLogin,
    problem: &Problem,
) -> Response {
    let status = StatusCode::from_u16(problem.status);
    let page = FormPage::new(viewed, of, new, Some(problem));
    render(status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY), &page)
}

pub(in crate::admin::console) async fn add(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let new = entered(&posted);
    match shared.add_login(new.clone(), &who).await {
        Ok(made) => shown_once(&shared, &visitor, StatusCode::CREATED, &made),
        Err(problem) => refused((&shared, &visitor), None, &new, &problem),
    }
}

pub(in crate::admin::console) async fn edit(
    State(shared): AppState,
    visitor: Visitor,
    RawQuery(query): RawQuery,
) -> Page {
    let asked = Posted::parse(query.unwrap_or_default().as_bytes());
    let login = shared.made_login(asked.raw("name"))?;
    let now = NewLogin {
        name: login.name,
        account: login.account,
        senders: login.senders,
    };
    let page = FormPage::new((&shared, &visitor), Some(&now.name), &now, None);
    Ok(render(StatusCode::OK, &page))
}

pub(in crate::admin::console) async fn change(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let name = posted.raw("name");
    let new = entered(&posted);
    let changed = ChangedLogin {
        account: new.account.clone(),
        senders: new.senders.clone(),
    };
    match shared.change_login(name, changed, &who).await {
        Ok(()) => done(
            &shared,
            &visitor,
            HERE,
            format!("The login {name} is saved."),
        ),
        Err(problem) => refused((&shared, &visitor), Some(name), &new, &problem),
    }
}

/// What a person has written with commas or blanks between.
fn listed(text: &str) -> Vec<String> {
    let words = text.split([',', ';', ' ', '\t']);
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

pub(in crate::admin::console) async fn rotate(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let name = posted.raw("name");
    if !posted.is_confirmed() {
        let ask = Confirm {
            title: format!("A new password for {name}?"),
            text:
                "The password it has now is good no more: the device cannot send until the new one \
                   is typed into it."
                    .into(),
            action: "/clients/logins/rotate".into(),
            fields: vec![("name".into(), name.into())],
            button: "Make a new password",
            back: HERE.into(),
            ..Confirm::default()
        };
        return confirm(Frame::new(&shared, &visitor, HERE), &ask);
    }
    match shared.rotate_login(name, &who).await {
        Ok(made) => shown_once(&shared, &visitor, StatusCode::OK, &made),
        Err(problem) => failed(&shared, &visitor, HERE, &problem),
    }
}

/// `Cache-Control: no-store` stands on every answer of the console.
fn shown_once(
    shared: &Shared,
    visitor: &Visitor,
    status: StatusCode,
    made: &LoginPassword,
) -> Response {
    let view = shared.view();
    let bound = shared.submission.get().map(Submission::addresses);
    let bound = bound.unwrap_or_default();
    let servers = view.listeners.iter().filter_map(|listener| {
        let mut at = bound.iter().filter(|(name, _)| *name == listener.name);
        let at = at.find_map(|(_, address)| *address);
        Server::of(listener, at, &view.hostname)
    });
    let page = MadePage {
        frame: Frame::new(shared, visitor, HERE),
        made,
        servers: servers.collect(),
    };
    render(status, &page)
}

impl Server {
    /// None: nobody logs in there over the network.
    fn of(listener: &Listener, bound: Option<SocketAddr>, hostname: &str) -> Option<Self> {
        let at = match &listener.address {
            Address::Tcp(address) => bound.unwrap_or(*address),
            Address::Systemd(_) => bound?,
            Address::Unix(_) => return None,
        };
        let is_local = at.ip().to_canonical().is_loopback();
        let in_clear = match listener.auth_without_tls {
            AuthWithoutTls::Always => true,
            AuthWithoutTls::Loopback => is_local,
            AuthWithoutTls::Never => false,
        };
        let tls = match (listener.auth, listener.tls, in_clear) {
            (Auth::None, ..) | (_, Tls::None, false) => return None,
            (_, Tls::None, true) => "none",
            (_, Tls::Starttls, true) => "STARTTLS, or none",
            (_, Tls::Starttls, false) => "STARTTLS",
            (_, Tls::Implicit, _) => "SSL/TLS",
            (_, Tls::Auto, true) => "SSL/TLS, STARTTLS, or none",
            (_, Tls::Auto, false) => "SSL/TLS or STARTTLS",
        };
        // A certificate is for a name.
        let by_name = at.ip().is_unspecified() || listener.tls != Tls::None && !is_local;
        let host = if by_name {
            hostname.to_owned()
        } else {
            at.ip().to_canonical().to_string()
        };
        Some(Self {
            host,
            port: at.port().to_string(),
            tls,
        })
    }
}

async fn enabled(
    (shared, visitor, who): (&Shared, &Visitor, &Who),
    posted: &Posted,
    enabled: bool,
) -> Response {
    let name = posted.raw("name");
    let changed = shared.enable_login(name, enabled, who).await;
    let now = if enabled { "again" } else { "no more" };
    let changed = changed.map(|()| format!("{name} may log in {now}."));
    told(shared, visitor, HERE, changed)
}

pub(in crate::admin::console) async fn enable(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    enabled((&shared, &visitor, &who), &posted, true).await
}

pub(in crate::admin::console) async fn disable(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    enabled((&shared, &visitor, &who), &posted, false).await
}

pub(in crate::admin::console) async fn remove(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let name = posted.raw("name");
    if !posted.is_confirmed() {
        let ask = Confirm {
            title: format!("Remove the login {name}?"),
            text: "The device that uses it can log in no more. What was accepted from it is still \
                   delivered."
                .into(),
            action: "/clients/logins/remove".into(),
            fields: vec![("name".into(), name.into())],
            button: "Remove",
            back: HERE.into(),
            ..Confirm::default()
        };
        return confirm(Frame::new(&shared, &visitor, HERE), &ask);
    }
    let removed = shared.remove_login(name, &who).await;
    let removed = removed.map(|()| format!("The login {name} is removed."));
    told(&shared, &visitor, HERE, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::{Contract, LineEndings, LongLines};

    fn listener(address: Address, tls: Tls, without_tls: AuthWithoutTls) -> Listener {
        Listener {
            name: "x".to_owned(),
            address,
            tls,
            certificate: None,
            auth: Auth::Optional,
            auth_without_tls: without_tls,
            allow: Vec::new(),
            delivery: Contract::Queue,
            line_endings: LineEndings::Strict,
            long_lines: LongLines::Pass,
            hide_client_address: false,
            max_message_size: 0,
            max_recipients: 0,
            max_connections: 0,
            max_connections_per_client: 0,
            proxy_protocol_from: Vec::new(),
        }
    }

    /// Only where a login can be sent is it said how.
    #[test]
    fn a_device_is_told_where_it_can_log_in() {
        use AuthWithoutTls::{Always, Loopback, Never};
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (address, tls, without, wanted) in [
            (
                "0.0.0.0:587",
                Tls::Starttls,
                Never,
                Some(("relay.example", "587", "STARTTLS")),
            ),
            (
                "10.0.0.5:25",
                Tls::Starttls,
                Always,
                Some(("relay.example", "25", "STARTTLS, or none")),
            ),
            (
                "10.0.0.5:465",
                Tls::Implicit,
                Never,
                Some(("relay.example", "465", "SSL/TLS")),
            ),
            (
                "127.0.0.1:2525",
                Tls::None,
                Loopback,
                Some(("127.0.0.1", "2525", "none")),
            ),
            ("10.0.0.5:25", Tls::None, Loopback, None),
            (
                "10.0.0.5:25",
                Tls::None,
                Always,
                Some(("10.0.0.5", "25", "none")),
            ),
        ] {
            let server = Server::of(&listener(tcp(address), tls, without), None, "relay.example");
            let told = server.as_ref();
            let told = told.map(|it| (it.host.as_str(), it.port.as_str(), it.tls));
            assert_eq!(told, wanted, "{address} {tls:?} {without:?}");
        }
        let unix = listener(Address::Unix("/run/x".into()), Tls::None, Always);
        assert_eq!(Server::of(&unix, None, "x"), None);
        let mut closed = listener(tcp("10.0.0.5:25"), Tls::Auto, Always);
        closed.auth = Auth::None;
        assert_eq!(Server::of(&closed, None, "x"), None);
    }

    #[test]
    fn senders_are_taken_however_they_are_written() {
        let wanted = ["a@b.example", "*@c.example"];
        assert_eq!(listed("a@b.example, *@c.example,"), wanted);
        assert_eq!(listed(" a@b.example;*@c.example"), wanted);
        assert_eq!(listed("a@b.example *@c.example"), wanted);
        assert!(listed(" , ").is_empty());
    }
}
