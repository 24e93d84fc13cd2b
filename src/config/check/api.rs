//! Accounts whose mail goes by an API: which one, where it is, and what does not go by it.

use std::collections::BTreeSet;

use super::{Checker, account::is_by_token, provider::Profile};
use crate::{
    config::{
        field::Field,
        file,
        leaf::{AboveMax, Mechanism, Way},
        units::ByteSize,
    },
    delivery::{Api, Auth, Smarthost, Tls, Transport},
    oauth::{Grant, Kind, Service},
};

/// 2 MiB. Graph takes requests of 4 MB, which are 3 MB before base64; above 2.2 MB some messages were
/// reported taken and never sent.
const GRAPH_MIME_MAX: u64 = 2 * 1024 * 1024;
/// What 4 MB of base64 hold.
const GRAPH_MIME_LIMIT: u64 = 3_000_000;
/// What Gmail's upload takes.
const GMAIL_MIME_LIMIT: u64 = 36_700_160;
/// Requests of one application to one mailbox at once.
const GRAPH_CONNECTIONS: u32 = 4;
/// 10 000 requests in ten minutes.
const GRAPH_PER_MINUTE: u32 = 1_000;

/// Which API a transport means; `None`: none, or it does not say.
fn service(section: &file::Account, kind: Kind) -> Option<Service> {
    let is_given = |field: &Field<url::Url>| field.get().is_some();
    match (section.transport.copied().unwrap_or_default(), kind) {
        (Way::Smtp, _) => None,
        (Way::Graph, _) | (Way::Auto, Kind::Microsoft) => Some(Service::Graph),
        (Way::Gmail, _) | (Way::Auto, Kind::Google) => Some(Service::Gmail),
        (Way::Auto, Kind::Custom) => {
            match (is_given(&section.graph.url), is_given(&section.gmail.url)) {
                (true, false) => Some(Service::Graph),
                (false, true) => Some(Service::Gmail),
                (true, true) | (false, false) => None,
            }
        }
    }
}

/// Whether messages that are too large for the API go by SMTP.
fn large_by_smtp(section: &file::Account) -> bool {
    match (section.transport.get(), section.graph.above_mime_max.get()) {
        (Some(Way::Gmail), _) | (_, Some(AboveMax::Return)) => false,
        (_, Some(AboveMax::Smtp)) | (Some(Way::Auto), None) => true,
        (Some(Way::Smtp | Way::Graph) | None, None) => false,
    }
}

/// What an account's tokens must open.
pub(super) fn services(section: &file::Account, kind: Kind) -> BTreeSet<Service> {
    let mechanism = section.smtp.auth.copied().unwrap_or(Mechanism::Xoauth2);
    let api = service(section, kind);
    let is_smtp_used = match section.transport.copied().unwrap_or_default() {
        Way::Smtp | Way::Auto => true,
        Way::Graph | Way::Gmail => large_by_smtp(section),
    };
    let smtp = (is_smtp_used && is_by_token(mechanism)).then_some(Service::Smtp);
    api.into_iter().chain(smtp).collect()
}

/// Whose verdicts hold: an API's answers are its provider's, whoever gives the tokens.
pub(super) fn kind(transport: &Transport, profile: Option<&Profile>) -> Kind {
    let (Transport::Api(api) | Transport::Auto(api)) = transport else {
        return profile.map_or(Kind::Custom, |profile| profile.kind);
    };
    match api.service {
        Service::Graph | Service::Smtp => Kind::Microsoft,
        Service::Gmail => Kind::Google,
    }
}

/// The smarthost of an account that has none: it is never spoken to.
pub(super) fn unused(api: &Api) -> Smarthost {
    Smarthost {
        host: api.host().to_owned(),
        port: api.url.port_or_known_default().unwrap_or_default(),
        tls: Tls::Implicit,
        auth: Auth::None,
        ca_file: None,
    }
}

impl Checker<'_> {
    /// By which way an account's mail goes. `None`: something is wrong, and told.
    pub(super) fn transport(
        &mut self,
        section: &file::Account,
        profile: Option<&Profile>,
        grant: Grant,
    ) -> Option<Transport> {
        let way = section.transport.copied().unwrap_or_default();
        if way == Way::Smtp {
            let is_good = section.transport.is_absent() || section.transport.get().is_some();
            return is_good.then_some(Transport::Smtp);
        }
        let Some(profile) = profile else {
            if section.provider.is_absent() {
                let remedy = "name a [provider.NAME], or use \"smtp\"";
                section
                    .transport
                    .refuse(&mut self.report, "needs a provider", remedy);
            }
            return None;
        };
        let wrong = match (way, profile.kind) {
            (Way::Graph, Kind::Google) => Some("use \"gmail\" or \"smtp\""),
            (Way::Gmail, Kind::Microsoft) => Some("use \"graph\" or \"smtp\""),
            (Way::Smtp | Way::Graph | Way::Gmail | Way::Auto, _) => None,
        };
        if let Some(remedy) = wrong {
            let what = "is another provider's API";
            section.transport.refuse(&mut self.report, what, remedy);
            return None;
        }
        let Some(service) = service(section, profile.kind) else {
            let what = "does not say which API";
            let remedy = "set either graph.url or gmail.url, or use \"smtp\"";
            section.transport.refuse(&mut self.report, what, remedy);
            return None;
        };
        let api = match service {
            Service::Gmail => self.gmail(section, profile),
            Service::Graph | Service::Smtp => self.graph(section, profile, grant),
        }?;
        Some(match way {
            Way::Auto => Transport::Auto(api),
            Way::Smtp | Way::Graph | Way::Gmail => Transport::Api(api),
        })
    }

    fn graph(&mut self, section: &file::Account, profile: &Profile, grant: Grant) -> Option<Api> {
        let graph = &section.graph;
        if graph.save_to_sent_items.get() == Some(&false) {
            let what =
                "cannot be done: Graph keeps a copy of every message that is sent as it is (MIME)";
            let remedy = "leave it out, and set a retention policy for Sent Items";
            graph
                .save_to_sent_items
                .refuse(&mut self.report, what, remedy);
        }
        let mailbox = section.mailbox.get().map(ToString::to_string);
        let is_others = grant.is_unattended() || section.sign_in_user.get().is_some();
        let user = match graph.user.get().map(String::as_str) {
            Some("me") if grant.is_unattended() => {
                let what = "is nobody: an application's token belongs to no person";
                graph.user.refuse(
                    &mut self.report,
                    what,
                    "name the mailbox's user name (UPN) or id",
                );
                None
            }
            Some("me") => None,
            Some(user) => Some(user.to_owned()),
            None => mailbox.filter(|_| is_others),
        };
        let url = self.api_url(&graph.url, profile)?;
        let (ca_file, proxy) = profile.way();
        Some(Api {
            service: Service::Graph,
            url,
            user,
            mime_max: self.mime_max(&graph.mime_max, GRAPH_MIME_MAX, GRAPH_MIME_LIMIT),
            large_by_smtp: large_by_smtp(section),
            ca_file,
            proxy,
        })
    }

    fn gmail(&mut self, section: &file::Account, profile: &Profile) -> Option<Api> {
        let gmail = &section.gmail;
        let url = self.api_url(&gmail.url, profile)?;
        let (ca_file, proxy) = profile.way();
        Some(Api {
            service: Service::Gmail,
            url,
            // A service account acts as the mailbox already.
            user: None,
            mime_max: self.mime_max(&gmail.mime_max, GMAIL_MIME_LIMIT, GMAIL_MIME_LIMIT),
            // SMTP takes no more than the API does.
            large_by_smtp: false,
            ca_file,
            proxy,
        })
    }

    fn api_url(&mut self, field: &Field<url::Url>, profile: &Profile) -> Option<url::Url> {
        if field.is_absent()
            && let Some(url) = profile.api_url()
        {
            return Some(url);
        }
        field.required(
            &mut self.report,
            "write where the API is, as \"https://graph.microsoft.com\"",
        )?;
        self.url(field)
    }

    fn mime_max(&mut self, field: &Field<ByteSize>, usual: u64, limit: u64) -> u64 {
        let max = field.get().map_or(usual, |size| size.0);
        if max == 0 || max > limit {
            let what = "is not what this API takes";
            let remedy = format!("use at most \"{limit}B\"");
            field.refuse(&mut self.report, what, remedy);
        }
        max
    }

    /// More than Graph takes is not refused here: a limit of one's own may be higher one day.
    pub(super) fn above_graph(&mut self, section: &file::Limits, transport: Option<&Transport>) {
        let Some(Transport::Api(api)) = transport else {
            return;
        };
        if api.service != Service::Graph {
            return;
        }
        for (field, limit, per) in [
            (
                &section.connections,
                GRAPH_CONNECTIONS,
                "at once for one mailbox",
            ),
            (
                &section.messages_per_minute,
                GRAPH_PER_MINUTE,
                "a minute for one mailbox",
            ),
        ] {
            if field.get().is_some_and(|given| *given > limit) {
                let key = &field.at.shown;
                self.report.warning(format!(
                    "{key}: Graph takes {limit} requests {per}, and answers 429 to more"
                ));
            }
        }
    }
}
