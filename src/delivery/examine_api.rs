//! `gatepost test` and `gatepost doctor` for an account whose mail goes by an API.

use super::{
    Phase,
    probe::{Probe, Step},
    transport::{Api, Link, api::Session, smtp::Journal},
    verdict::{self, Action},
};
use crate::{
    mail::{Address, QueueId, Reply},
    oauth::{AccessToken, Oauth, Service, TokenFacts},
};

impl Probe<'_> {
    /// Sends the test message by the API.
    pub(super) async fn run_api(&mut self, api: &Api, to: &Address, id: QueueId) -> Step<()> {
        let mut stale = None;
        loop {
            let (session, generation) = self.open_api(api, stale).await?;
            let mut link = Link::Api(Box::new(session));
            let sent = self.say(&mut link, to, id).await?;
            let refused = sent.as_ref().ok().and_then(|answers| answers.first());
            let refused = refused.filter(|(phase, _)| *phase == Phase::Auth);
            if stale.is_some() || refused.is_none() {
                return self.judge_all(sent);
            }
            // Rights given a minute ago are in no token from before: one new one, as in delivery.
            let again = "asking for a new token".to_owned();
            self.tell("auth", false, again);
            stale = Some(generation);
        }
    }

    /// Looks at the token and knocks at the API; nothing is sent to anybody.
    pub(super) async fn examine_api(&mut self, api: &Api) {
        let mut stale = None;
        loop {
            let Ok(Some(token)) = self.token_for(api.service, stale).await else {
                return;
            };
            if stale.is_none() {
                self.tell_api_token(api, &token);
                self.tell("offers", true, offers(api));
            }
            let generation = token.generation;
            let Ok(mut session) = self.session(api, token.clone()).await else {
                return;
            };
            let reply = match session.knock().await {
                Ok(reply) => reply,
                Err(failure) => {
                    let told: Step<()> = self.fail(&failure);
                    return told.unwrap_or_default();
                }
            };
            let phase = phase_of(&reply);
            let verdict = verdict::judge(self.lane.account.kind, phase, &reply);
            if verdict.action == Action::Delivered {
                self.tell("auth", true, reply.text);
                return self.aliases(&mut session).await;
            }
            let may_help = verdict.action == Action::Relogin && stale.is_none();
            if may_help {
                self.tell("auth", false, format!("{reply}; asking for a new token"));
                stale = Some(generation);
                continue;
            }
            let remedy = self.lane.remedy(&verdict);
            self.tell("auth", false, format!("{}: {reply}", verdict.reason));
            if !remedy.is_empty() {
                self.tell("switch", false, remedy);
            }
            return;
        }
    }

    async fn open_api(&mut self, api: &Api, stale: Option<u64>) -> Step<(Session, u64)> {
        let token = self.token_for(api.service, stale).await?.ok_or(())?;
        self.tell_token(Some(&token));
        let generation = token.generation;
        let session = self.session(api, token).await?;
        Ok((session, generation))
    }

    async fn session(&mut self, api: &Api, token: AccessToken) -> Step<Session> {
        let clients = &self.lane.over.clients;
        let journal = Journal::telling(self.told.clone());
        let opened = Session::open(api, clients, token.token, journal).await;
        opened.or_else(|failure| self.fail(&failure))
    }

    /// Google puts the mailbox in the place of a `From` that is none of these, silently.
    async fn aliases(&mut self, session: &mut Session) {
        if let Some(aliases) = session.aliases().await {
            let others = "any other From is replaced by the mailbox at Google";
            let detail = format!("may send as {}; {others}", aliases.join(", "));
            self.tell("offers", true, detail);
        }
    }

    fn tell_api_token(&mut self, api: &Api, token: &AccessToken) {
        let Some(facts) = Oauth::facts(token) else {
            let detail = "opaque: the provider's own business";
            return self.tell("token", true, detail.to_owned());
        };
        let advice = (api.service == Service::Graph)
            .then(|| graph_advice(&facts))
            .flatten();
        self.tell("token", advice.is_none(), facts.to_string());
        if let Some(advice) = advice {
            self.tell("switch", false, advice.to_owned());
        }
    }
}

/// The phase that a refusal to a knock belongs to.
fn phase_of(reply: &Reply) -> Phase {
    if reply.code == 535 {
        Phase::Auth
    } else {
        Phase::End
    }
}

fn offers(api: &Api) -> String {
    let (name, host, max) = (api.name(), api.host(), api.mime_max);
    let larger = if api.large_by_smtp {
        "larger ones go by SMTP"
    } else {
        "larger ones are returned to their sender"
    };
    format!("{name} at {host}, messages up to {max} octets; {larger}")
}

/// What a token for Graph lacks. Pure.
fn graph_advice(facts: &TokenFacts) -> Option<&'static str> {
    if !facts.is_for_graph() {
        return Some(
            "the token is not for Microsoft Graph; take scope out of the provider profile (or name \
             https://graph.microsoft.com/Mail.Send in it) and sign in again",
        );
    }
    let may_send = |name: &String| {
        ["Mail.Send", "Mail.Send.Shared"]
            .iter()
            .any(|wanted| name.ends_with(wanted))
    };
    // With RBAC for Applications an application's token has no role, and that is right.
    if facts.is_of_application() || facts.scopes.iter().any(may_send) {
        return None;
    }
    Some(
        "the token has no permission Mail.Send: in the Azure portal add it (API permissions, Microsoft \
         Graph, Delegated permissions), grant admin consent, and sign in again",
    )
}
