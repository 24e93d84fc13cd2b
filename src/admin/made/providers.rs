//! OAuth provider profiles. Adding one and changing what tokens come by begins a sign-in with the
//! profile as it would be; only its success puts the profile in force.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use url::Url;

use super::{
    Changed, FieldProblem, Form, How, Input, Refused, Who, Wish, Written, placed, put, request,
};
use crate::{
    admin::{
        Shared,
        api::Problem,
        handlers::{Answer, AppState},
        problem::{Input as Body, Named, chain},
    },
    mail::AccountName,
    oauth::{self, Applied, Apply, ClientAuthentication, Diagnosis, Draft, Kind, SignIn},
    registry::{Change, Entries, Section, Settings},
};

/// The keys that hold a secret.
const SECRETS: [&str; 3] = ["client_secret", "client_key_password", "proxy"];

/// A profile: what was written, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// The keys as they were written; what is missing has its default.
    #[serde(flatten)]
    pub settings: Settings,
    /// Which secrets there are.
    #[serde(flatten)]
    pub secrets: SecretsSet,
    /// It stands in the file or the environment.
    pub read_only: bool,
    /// What is in force; none: it is left out.
    pub effective: Option<Effective>,
    /// The accounts that use it.
    pub accounts: Vec<AccountName>,
    /// Why it is left out.
    pub problems: Vec<FieldProblem>,
    /// When it was last changed here.
    pub changed_at: Option<Timestamp>,
}

/// Which secrets a profile has. None is ever told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsSet {
    /// The client secret.
    pub client_secret_set: bool,
    /// A password for the client's key.
    pub client_key_password_set: bool,
    /// A proxy of its own, whose URL may hold a password.
    pub proxy_set: bool,
}

/// A profile with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effective {
    /// Microsoft, Google or custom.
    pub kind: Kind,
    /// Where a person consents.
    pub authorization_url: Option<Url>,
    /// Where tokens come from; none: the issuer says.
    pub token_url: Option<Url>,
    /// Where device codes come from.
    pub device_authorization_url: Option<Url>,
    /// Where the browser comes back to.
    pub redirect_url: Url,
    /// What is asked for at sign-in.
    pub scope: String,
    /// How the client authenticates.
    pub client_authentication: ClientAuthentication,
    /// When the client secret expires, as its owner has told.
    pub client_secret_expires_at: Option<Timestamp>,
}

impl From<&oauth::Provider> for Effective {
    fn from(provider: &oauth::Provider) -> Self {
        Self {
            kind: provider.kind,
            authorization_url: provider.authorization_url.clone(),
            token_url: provider.token_url.clone(),
            device_authorization_url: provider.device_authorization_url.clone(),
            redirect_url: provider.redirect_url.clone(),
            scope: provider.scope.clone(),
            client_authentication: provider.client_authentication,
            client_secret_expires_at: provider.client_secret_expires_at,
        }
    }
}

/// A profile as a form sends it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProviderInput {
    /// The profile's own keys.
    pub input: Input,
    /// An account that is added with it, and that signs in.
    pub account: Option<NewAccount>,
    /// Which of its accounts signs in; none: the first.
    pub sign_in_as: Option<AccountName>,
    /// Whether to sign in by device code.
    pub device: bool,
}

/// The first account of a profile.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct NewAccount {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its keys: `mailbox`, `grant` ..; `provider` is the profile.
    #[serde(flatten)]
    pub settings: Settings,
}

impl ProviderInput {
    fn of(mut sent: Settings) -> Result<Self, FieldProblem> {
        fn one<T: serde::de::DeserializeOwned + Default>(
            sent: &mut Settings,
            key: &str,
            remedy: &str,
        ) -> Result<T, FieldProblem> {
            let Some(value) = sent.remove(key).filter(|value| !value.is_null()) else {
                return Ok(T::default());
            };
            let read = serde_json::from_value(value);
            read.map_err(|_| FieldProblem::new(key, "has another form", remedy))
        }
        let account = "write { \"name\": \"alerts\", \"mailbox\": \"alerts@example.com\" }";
        let user = "write the name of an account of this provider";
        Ok(Self {
            account: one(&mut sent, "account", account)?,
            sign_in_as: one(&mut sent, "sign_in_as", user)?,
            device: one(&mut sent, "device", "write true or false")?,
            input: Input::of(sent, &SECRETS)?,
        })
    }
}

/// What a form sends, or what is wrong with it.
#[derive(Debug)]
pub(in crate::admin) struct Sent(Result<ProviderInput, FieldProblem>);

impl<'de> Deserialize<'de> for Sent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Settings::deserialize(deserializer).map(|sent| Self(ProviderInput::of(sent)))
    }
}

/// What saving a profile comes to.
#[derive(Debug)]
pub(in crate::admin) enum Saved {
    /// It is in force: nothing about how tokens come has changed.
    InForce(Box<Provider>),
    /// It is in force once this sign-in has succeeded.
    SignIn(SignIn),
}

impl Shared {
    /// Every profile.
    pub(in crate::admin) fn providers(&self) -> Vec<Provider> {
        let all = self.all_written(Section::Provider);
        all.into_iter().map(|one| self.shown(one)).collect()
    }

    /// One profile.
    ///
    /// # Errors
    /// There is none of that name.
    pub(in crate::admin) fn provider(&self, name: &str) -> Result<Provider, Problem> {
        let written = self.written(Section::Provider, name);
        let written = written.ok_or_else(|| Problem::none(Section::Provider, name))?;
        Ok(self.shown(written))
    }

    fn shown(&self, written: Written) -> Provider {
        let name = written.name;
        let has = |key: &str| written.secrets.contains(key);
        Provider {
            secrets: SecretsSet {
                client_secret_set: has("client_secret"),
                client_key_password_set: has("client_key_password"),
                proxy_set: has("proxy"),
            },
            settings: written.settings,
            read_only: written.read_only,
            effective: self.view().providers.get(&name).cloned(),
            accounts: self.accounts_of(&name),
            problems: written.problems,
            changed_at: self.changed_at(Section::Provider, &name),
            name,
        }
    }

    /// The accounts that use a profile, those left out as well.
    fn accounts_of(&self, provider: &str) -> Vec<AccountName> {
        let all = self.all_written(Section::Account);
        let users = all.into_iter().filter(|account| {
            let named = account.settings.get("provider").and_then(Value::as_str);
            named == Some(provider)
        });
        users
            .map(|account| AccountName::new(&account.name))
            .collect()
    }

    /// Saves a profile: a new one, or another form of one that was made here.
    ///
    /// # Errors
    /// What is wrong, field by field; the provider that cannot be reached to begin a sign-in. Nothing
    /// has changed then.
    pub(in crate::admin) async fn save_provider(
        &self,
        name: &str,
        sent: ProviderInput,
        who: &Who,
    ) -> Result<Saved, Problem> {
        let section = Section::Provider;
        let based_on = self.entries();
        self.may_change(section, name)?;
        let ProviderInput {
            input,
            account,
            sign_in_as,
            device,
        } = sent;
        let is_given: BTreeSet<String> = input.secrets.keys().cloned().collect();
        let secrets = Self::secrets(&based_on, (section, name), input.secrets)?;
        let mut changes = vec![put(section, name, input.settings, secrets)];
        let new_account = account.as_ref().map(|it| AccountName::new(&it.name));
        if let Some(account) = account {
            // A secret that is entered with the account is meant for its server.
            let is_kept = based_on.get(section, name).is_some();
            let is_kept = is_kept && !is_given.contains("client_secret");
            changes.extend(self.default_stays(&based_on, &account.name));
            changes.push(self.first_account(&based_on, (name, is_kept), account)?);
        }
        let form = Form {
            section,
            name,
            before: "",
        };
        let account_form = new_account.as_ref().map(|account| Form {
            section: Section::Account,
            name: account.as_str(),
            before: "account.",
        });
        let forms: Vec<Form<'_>> = [Some(form), account_form].into_iter().flatten().collect();
        let wish = Wish::all(changes, based_on);
        let preview = self.change(wish.clone(), How::Preview).await;
        let preview = preview.map_err(|refused| placed(refused, &forms))?;
        no_secret_goes_elsewhere(&preview, name, &is_given)?;
        no_secret_has_expired(&preview, name, self.parts.clock.now())?;
        let is_added = new_account.is_some();
        if !is_added && is_alike(&preview, name) {
            self.apply(wish, &forms).await?;
            who.changed("save", section, name);
            return Ok(Saved::InForce(Box::new(self.provider(name)?)));
        }
        let user = new_account.or(sign_in_as);
        let draft = draft(&preview, name, user)?;
        let signed_in = Some(Box::new(draft.clone()));
        let apply = self.apply_later(Wish { signed_in, ..wish }, (name, who));
        let begun = self.parts.oauth.begin_draft_sign_in(draft, device, apply);
        let sign_in = begun.await?;
        who.changed("begin sign-in for", section, name);
        Ok(Saved::SignIn(sign_in))
    }

    fn first_account(
        &self,
        based_on: &Entries,
        (provider, is_kept): (&str, bool),
        account: NewAccount,
    ) -> Result<Change, Problem> {
        let name = account.name.as_str();
        // Without a name it is judged with all the rest, and refused for that.
        if self.is_taken(based_on, Section::Account, name) {
            let what = "is the name of an account that is there already";
            let remedy = "use another name; an account is given another provider on its own page";
            let problem = FieldProblem::new("account.name", what, remedy);
            return Err(Problem::fields(vec![problem]));
        }
        let mut settings = account.settings;
        settings.insert("provider".to_owned(), Value::from(provider));
        if is_kept {
            self.stays_with_its_provider(name, &settings)
                .map_err(|mut problem| {
                    for field in &mut problem.fields {
                        field.key = format!("account.{}", field.key);
                    }
                    problem
                })?;
        }
        let input = Input::of(settings, &super::accounts::SECRETS)
            .map_err(|problem| Problem::fields(vec![problem]))?;
        let secrets = Self::secrets(based_on, (Section::Account, name), input.secrets)?;
        Ok(put(Section::Account, name, input.settings, secrets))
    }

    /// What puts the profile in force once somebody has signed in with it. The tokens of strangers are
    /// revoked before that.
    fn apply_later(&self, wish: Wish, (name, who): (&str, &Who)) -> Apply {
        let (to, oauth) = (self.parts.changes.clone(), self.parts.oauth.clone());
        let (name, who) = (name.to_owned(), who.clone());
        Apply::new(move || -> Applied {
            Box::pin(async move {
                // Judged first: what is not taken takes nobody's tokens.
                let judged = request(&to, wish.clone(), How::Preview).await;
                let judged = judged.map_err(not_taken)?;
                for account in &strangers(&judged, &name, wish.signed_in.as_deref()) {
                    let forgotten = oauth.sign_out(account).await;
                    forgotten
                        .map_err(|error| not_taken(Refused::plain(chain(&error), "try again")))?;
                }
                match request(&to, wish, How::Apply).await {
                    Ok(_) => {
                        who.changed("save", Section::Provider, &name);
                        Ok(())
                    }
                    Err(refused) => Err(not_taken(refused)),
                }
            })
        })
    }

    /// Removes a profile that no account uses.
    ///
    /// # Errors
    /// Accounts use it, or it was not made here.
    pub(in crate::admin) async fn remove_provider(
        &self,
        name: &str,
        who: &Who,
    ) -> Result<(), Problem> {
        self.made(Section::Provider, name)?;
        let users = self.accounts_of(name);
        if !users.is_empty() {
            let users: Vec<&str> = users.iter().map(AccountName::as_str).collect();
            let what = format!("accounts use this provider: {}", users.join(", "));
            return Err(Problem::new(StatusCode::CONFLICT, what)
                .remedy("remove them first, or give them another provider"));
        }
        self.remove(Section::Provider, name, who).await
    }
}

/// A secret that nobody has entered again goes where it went before: who may use the console may not
/// thereby learn what others have entered there.
fn no_secret_goes_elsewhere(
    preview: &Changed,
    name: &str,
    is_given: &BTreeSet<String>,
) -> Result<(), Problem> {
    let before = preview.before.providers.get(name);
    let Some((before, after)) = before.zip(preview.after.providers.get(name)) else {
        return Ok(());
    };
    let is_kept = !is_given.contains("client_secret") && after.client_secret.is_some();
    if !is_kept || before.sends_secrets_like(after) {
        return Ok(());
    }
    let what = "is needed again: it would go to another address than the one it was entered for";
    let remedy = "enter it, or leave the URLs, ca_file and proxy as they are";
    Err(Problem::fields(vec![FieldProblem::new(
        "client_secret",
        what,
        remedy,
    )]))
}

/// A date that is entered now and has passed is a slip, or the secret's that it is to replace. One
/// that passes later is warned of for a month before.
fn no_secret_has_expired(preview: &Changed, name: &str, now: Timestamp) -> Result<(), Problem> {
    /// It ends at some hour of that day.
    const DAY: SignedDuration = SignedDuration::from_hours(24);
    let ends_at = |config: &oauth::Config| config.providers.get(name)?.client_secret_expires_at;
    let after = ends_at(&preview.after);
    let has_passed = after.is_some_and(|at| now.duration_since(at) >= DAY);
    if !has_passed || after == ends_at(&preview.before) {
        return Ok(());
    }
    let remedy = "write the day on which this secret ends; if it has ended, make a new one at the \
                  provider first";
    let problem = FieldProblem::new("client_secret_expires", "has passed", remedy);
    Err(Problem::fields(vec![problem]))
}

/// The other accounts of a profile whose tokens would go to another server than the one that gave
/// them: what people have consented to there is not to be learnt here.
fn strangers(preview: &Changed, name: &str, signed_in: Option<&Draft>) -> Vec<AccountName> {
    let signs_in = signed_in.map(|draft| &draft.account);
    let before = preview.before.providers.get(name);
    let after = preview.after.providers.get(name);
    let goes_elsewhere = before
        .zip(after)
        .is_some_and(|(before, after)| !before.sends_secrets_like(after));
    let users = preview.before.accounts.iter();
    let users = users.filter(|(user, account)| account.provider == name && Some(*user) != signs_in);
    let users = users.filter(|_| goes_elsewhere);
    users.map(|(user, _)| user.clone()).collect()
}

fn not_taken(refused: Refused) -> Diagnosis {
    Diagnosis {
        reason: format!(
            "signed in, but the profile is not taken: {}",
            Problem::from(refused).lines().join(", ")
        ),
        remedy: "look at the provider and save it again".to_owned(),
    }
}

/// Whether tokens come by the profile as before.
fn is_alike(preview: &Changed, name: &str) -> bool {
    let before = preview.before.providers.get(name);
    let after = preview.after.providers.get(name);
    before
        .zip(after)
        .is_some_and(|(before, after)| before.is_alike(after))
}

/// The account that signs in with the profile as it would be.
fn draft(preview: &Changed, name: &str, user: Option<AccountName>) -> Result<Draft, Problem> {
    let mut users = preview.after.accounts.iter();
    let first = users.find(|(_, account)| account.provider == name);
    let user = user.or_else(|| first.map(|(user, _)| user.clone()));
    let Some(user) = user else {
        let what = "is needed: saving means signing in at the provider, and the tokens are an \
                    account's";
        let remedy = "add { \"name\": .., \"mailbox\": .. } of the mailbox that mail is sent as";
        return Err(Problem::fields(vec![FieldProblem::new(
            "account", what, remedy,
        )]));
    };
    let draft = Draft::of(&preview.after, &user);
    draft
        .filter(|draft| draft.settings.provider == name)
        .ok_or_else(|| {
            let what = "is no account that gets tokens from this provider";
            let remedy = "name one of its accounts";
            let mut problem = FieldProblem::new("sign_in_as", what, remedy);
            problem.value = user.to_string();
            Problem::fields(vec![problem])
        })
}

pub(in crate::admin) async fn list(State(shared): AppState) -> Json<Vec<Provider>> {
    Json(shared.providers())
}

pub(in crate::admin) async fn show(
    State(shared): AppState,
    Named(name): Named<String>,
) -> Answer<Provider> {
    shared.provider(&name).map(Json)
}

pub(in crate::admin) async fn save(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
    Body(Sent(sent)): Body<Sent>,
) -> Result<Response, Problem> {
    let sent = sent.map_err(|problem| Problem::fields(vec![problem]))?;
    let saved = shared.save_provider(&name, sent, &who).await?;
    Ok(match saved {
        Saved::InForce(provider) => Json(provider).into_response(),
        Saved::SignIn(sign_in) => (StatusCode::ACCEPTED, Json(sign_in)).into_response(),
    })
}

pub(in crate::admin) async fn remove(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    let shared = Arc::clone(&shared);
    shared.remove_provider(&name, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}
