//! `gatepost doctor`: walks the whole way of a message but the message, and names the switch that is
//! off.
//!
//! What a reply means is the verdict table's business. This adds what only a token's claims can tell:
//! Exchange answers `535 5.7.3` to half a dozen mistakes, and the claims say which are left.

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{
    ProbeStep, Transport,
    lane::Lane,
    probe::Probe,
    transport::{Cause, Failure, Phase},
    verdict::{self, Action},
};
use crate::{
    mail::Address,
    oauth::{AccessToken, Kind, Oauth, Reached, TokenFacts},
};

impl Lane {
    /// Looks at each step of the account's way, sending nothing. Uses a connection of its own, so the
    /// account's others go on; a new token is forced only where the server refuses the one at hand.
    /// Each step is in `told` as it happens.
    pub(crate) async fn examine(&self, told: &watch::Sender<Vec<ProbeStep>>) {
        let mut probe = Probe::new(self, told);
        match &self.account.transport {
            Transport::Smtp => probe.examine().await,
            Transport::Api(api) => {
                probe.endpoint().await;
                probe.examine_api(api).await;
            }
            // The last step says whether mail flows: by SMTP if it can, else by the API.
            Transport::Auto(api) => {
                probe.examine().await;
                probe.examine_api(api).await;
            }
        }
    }
}

impl Probe<'_> {
    async fn examine(&mut self) {
        if self.lane.wants_token() {
            self.endpoint().await;
        }
        // Without a token the rest of the way is still worth a look.
        let token = self.examined_token().await;
        let Ok(mut connection) = self.open().await else {
            return;
        };
        self.tell("offers", true, connection.offers());
        let Ok(mut token) = token else {
            return connection.quit().await;
        };
        if let Err(failure) = self.authenticate(&mut connection, token.as_ref()).await {
            let verdict = verdict::judge_failure(self.lane.account.kind, &failure);
            let stale = token.filter(|_| verdict.action == Action::Relogin);
            let Some(stale) = stale else {
                return self.refused(&failure, None);
            };
            let detail = format!("{}; asking for a new token", failure.cause);
            self.tell("auth", false, detail);
            let Ok(Some(fresh)) = self.token(Some(stale.generation)).await else {
                return self.advise(&failure, Oauth::facts(&stale).as_ref());
            };
            let Ok(again) = self.open().await else { return };
            connection = again;
            if let Err(failure) = self.authenticate(&mut connection, Some(&fresh)).await {
                return self.refused(&failure, Some(&fresh));
            }
            token = Some(fresh);
        }
        if let Ok(mailbox) = Address::parse(&self.lane.account.mailbox)
            && let Err(failure) = connection.try_mail(&mailbox).await
        {
            self.refused(&failure, token.as_ref());
        }
        connection.quit().await;
    }

    /// Whether the token endpoint is there, and whether the clocks agree.
    pub(super) async fn endpoint(&mut self) {
        let (oauth, name) = (&self.lane.parts.oauth, &self.lane.account.name);
        let reached = oauth.reach(name).await;
        let now = self.lane.parts.clock.now();
        match reached {
            None => {}
            Some(Ok(reached)) => {
                let (ok, detail) = clocks(&reached, now);
                self.tell("endpoint", ok, detail);
            }
            Some(Err(diagnosis)) => self.tell("endpoint", false, diagnosis.to_string()),
        }
    }

    async fn examined_token(&mut self) -> Result<Option<AccessToken>, ()> {
        let token = self.token(None).await?;
        if let Some(token) = &token {
            match Oauth::facts(token) {
                Some(facts) => {
                    let fits = !facts.is_for_graph();
                    self.tell("token", fits, facts.to_string());
                    if !fits {
                        self.tell("switch", false, FOR_GRAPH.to_owned());
                    }
                }
                None => {
                    let detail = "opaque: the provider's own business";
                    self.tell("token", true, detail.to_owned());
                }
            }
        }
        Ok(token)
    }

    fn refused(&mut self, failure: &Failure, token: Option<&AccessToken>) {
        // Told; what follows from it is next.
        if self.fail::<()>(failure).is_err() {
            self.advise(failure, token.and_then(Oauth::facts).as_ref());
        }
    }

    fn advise(&mut self, failure: &Failure, facts: Option<&TokenFacts>) {
        let account = &self.lane.account;
        for advice in advice(account.kind, &account.mailbox, failure, facts) {
            self.tell("switch", false, advice);
        }
    }
}

fn clocks(reached: &Reached, now: Timestamp) -> (bool, String) {
    let (host, status) = (&reached.host, reached.status);
    let answers = format!("{host} answers (HTTP {status} to an empty request)");
    let Some(date) = reached.date else {
        return (true, answers);
    };
    let skew = now.duration_since(date).abs();
    if skew > SKEW_MAX {
        let seconds = skew.as_secs();
        let remedy = "set this machine's clock (systemd-timesyncd, chrony)";
        return (
            false,
            format!("{answers}, but its clock and ours differ by {seconds} s; {remedy}"),
        );
    }
    (true, format!("{answers}, clocks agree"))
}

/// What the claims of a refused token leave as cause, likeliest first. Pure.
fn advice(kind: Kind, mailbox: &str, failure: &Failure, facts: Option<&TokenFacts>) -> Vec<String> {
    let Cause::Refused { reply, .. } = &failure.cause else {
        return Vec::new();
    };
    // Any other reply says itself what is wrong.
    let is_vague =
        failure.phase == Phase::Auth && reply.code == 535 && !reply.text.contains("5.7.139");
    let is_policy = reply
        .enhanced
        .is_some_and(|code| (code.0, code.1, code.2) == (5, 7, 139));
    let Some(facts) = facts.filter(|_| kind == Kind::Microsoft && is_vague && !is_policy) else {
        return Vec::new();
    };
    if facts.is_for_graph() {
        return vec![FOR_GRAPH.to_owned()];
    }
    if facts.is_of_application() {
        return of_application(mailbox, facts);
    }
    of_person(mailbox, facts)
}

fn of_application(mailbox: &str, facts: &TokenFacts) -> Vec<String> {
    let has_role = facts.roles.iter().any(|role| role == "SMTP.SendAsApp");
    let unknown = || "<unknown>".to_owned();
    let application = facts.application.clone().unwrap_or_else(unknown);
    // Of an application's token this is the enterprise application's id, the one Exchange wants.
    let object = facts.object.clone().unwrap_or_else(unknown);
    let principal = format!(
        "the application may not be registered in Exchange, or with the wrong object id; in Exchange \
         PowerShell: New-ServicePrincipal -AppId {application} -ObjectId {object} ; \
         Add-MailboxPermission -Identity {mailbox} -User {object} -AccessRights FullAccess"
    );
    let switch = smtp_auth(mailbox);
    if has_role {
        return vec![principal, switch];
    }
    let role = "the token has no role SMTP.SendAsApp: right with RBAC for Applications (New-ManagementRoleAssignment \
                -Role 'Application SMTP.SendAsApp'), else add it in the Azure portal (API permissions, APIs my \
                organization uses, Office 365 Exchange Online, Application permissions) and grant admin consent"
        .to_owned();
    vec![role, principal, switch]
}

fn of_person(mailbox: &str, facts: &TokenFacts) -> Vec<String> {
    let mut advice = Vec::new();
    let may_send = |scope: &String| {
        let scope = scope.as_str();
        scope == "SMTP.Send" || scope.ends_with("SMTP.Send") || scope == "SMTP.SendAsApp"
    };
    if !facts.scopes.iter().any(may_send) {
        advice.push(
            "the token has no permission SMTP.Send: in the Azure portal add it (API permissions, Microsoft \
             Graph, Delegated permissions), grant admin consent, and sign in again"
                .to_owned(),
        );
    }
    if let Some(user) = facts
        .user
        .as_ref()
        .filter(|user| !user.eq_ignore_ascii_case(mailbox))
    {
        advice.push(format!(
            "the token is {user}'s and the mailbox is {mailbox}: sign in as the mailbox, or in Exchange \
             PowerShell: Add-MailboxPermission -Identity {mailbox} -User {user} -AccessRights FullAccess ; \
             Add-RecipientPermission {mailbox} -Trustee {user} -AccessRights SendAs"
        ));
    }
    advice.push(smtp_auth(mailbox));
    advice
}

fn smtp_auth(mailbox: &str) -> String {
    format!(
        "SMTP AUTH may be switched off for the mailbox or the tenant; in Exchange PowerShell: Get-CASMailbox \
         {mailbox} | fl SmtpClientAuthenticationDisabled ; Set-CASMailbox {mailbox} \
         -SmtpClientAuthenticationDisabled $false"
    )
}

const FOR_GRAPH: &str = "the token is for Microsoft Graph, and that opens no SMTP session; take scope out of the \
                         provider profile (or name https://outlook.office.com/SMTP.Send in it) and sign in again";

/// Microsoft refuses assertions that are further off.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{EnhancedCode, Reply};

    const MAILBOX: &str = "alerts@contoso.com";

    fn refusal(enhanced: &str) -> Failure {
        let reply = Reply::new(
            535,
            EnhancedCode::parse(enhanced),
            "Authentication unsuccessful",
        );
        Failure {
            phase: Phase::Auth,
            cause: Cause::Refused {
                reply,
                challenge: None,
            },
            uncertain: false,
        }
    }

    fn facts(scopes: &[&str], roles: &[&str], user: Option<&str>) -> TokenFacts {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        TokenFacts {
            audience: Some("https://outlook.office.com".to_owned()),
            scopes: owned(scopes),
            roles: owned(roles),
            application: Some("app-1".to_owned()),
            object: Some("object-1".to_owned()),
            user: user.map(str::to_owned),
            ..TokenFacts::default()
        }
    }

    #[test]
    fn the_claims_of_a_refused_token_say_which_switch_is_left() {
        let graph = TokenFacts {
            audience: Some("00000003-0000-0000-c000-000000000000".to_owned()),
            ..facts(&["Mail.Send"], &[], Some(MAILBOX))
        };
        for (facts, first, count) in [
            (graph, "for Microsoft Graph", 1),
            (facts(&[], &[], None), "no role SMTP.SendAsApp", 3),
            (
                facts(&[], &["SMTP.SendAsApp"], None),
                "New-ServicePrincipal -AppId app-1 -ObjectId object-1",
                2,
            ),
            (
                facts(&["Mail.Send"], &[], Some(MAILBOX)),
                "no permission SMTP.Send",
                2,
            ),
            (
                facts(&["SMTP.Send"], &[], Some("boss@contoso.com")),
                "Add-MailboxPermission -Identity alerts@contoso.com -User boss@contoso.com",
                2,
            ),
            (
                facts(&["SMTP.Send"], &[], Some("Alerts@Contoso.com")),
                "Set-CASMailbox alerts@contoso.com",
                1,
            ),
        ] {
            let given = advice(Kind::Microsoft, MAILBOX, &refusal("5.7.3"), Some(&facts));
            assert!(
                given.first().is_some_and(|advice| advice.contains(first)),
                "{given:?}"
            );
            assert_eq!(given.len(), count, "{given:?}");
        }
    }

    #[test]
    fn a_reply_that_says_what_is_wrong_needs_no_guess() {
        let facts = facts(&[], &[], None);
        assert!(advice(Kind::Microsoft, MAILBOX, &refusal("5.7.139"), Some(&facts)).is_empty());
        assert!(advice(Kind::Google, MAILBOX, &refusal("5.7.8"), Some(&facts)).is_empty());
        assert!(advice(Kind::Microsoft, MAILBOX, &refusal("5.7.3"), None).is_empty());
    }

    #[test]
    fn clocks_that_differ_are_told() {
        let reached = |date: Option<&str>| Reached {
            host: "login.example.com".to_owned(),
            status: 400,
            date: date.map(|date| date.parse().unwrap()),
        };
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        for (date, ok) in [
            (None, true),
            (Some("2026-11-24T12:04:00Z"), true),
            (Some("2026-11-24T11:50:00Z"), false),
            (Some("2027-11-24T12:00:00Z"), false),
        ] {
            assert_eq!(clocks(&reached(date), now).0, ok, "{date:?}");
        }
    }
}
