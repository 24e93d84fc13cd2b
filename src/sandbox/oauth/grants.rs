//! What was granted: codes, device codes, token families. Pure; time comes in as an argument.
//!
//! A *family* is one consent: a refresh token that changes with every use (RFC 9700 §4.14.2) and the
//! access tokens that came from it. A refresh token that is not the family's present one was used
//! before or stolen, so its whole family dies. Tokens are kept as SHA-256 only: what this process
//! could leak logs nobody in.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::{
    Refusal,
    identity::has,
    random::{self, Fingerprint},
};
use crate::secret::Secret;

/// RFC 6749 §4.1.2: at most ten minutes is recommended.
const CODE_LIFETIME: Duration = Duration::from_secs(600);

/// What Microsoft gives a person to type the code in.
pub(super) const DEVICE_LIFETIME: Duration = Duration::from_secs(900);

/// The default of RFC 8628 §3.2 is five seconds; a rehearsal should not wait that long.
pub(super) const DEVICE_INTERVAL: Duration = Duration::from_secs(1);

/// RFC 8628 §3.5: what `slow_down` adds.
const DEVICE_INTERVAL_STEP: Duration = Duration::from_secs(5);

/// A client that waits the interval exactly may arrive this much early, by the network's doing.
const DEVICE_TOLERANCE: Duration = Duration::from_millis(100);

/// Codes and device codes that wait at once; each takes a person's attention, so more is a mistake.
const PENDING_MAX: usize = 1_000;

/// Consents that live at once. The least recently used one makes room, as at Google.
const FAMILIES_MAX: usize = 10_000;

/// Access tokens that live at once.
const ACCESS_TOKENS_MAX: usize = 20_000;

/// Octets of an access token before base64. Microsoft's are 1.5 to 3 kB: a relay that sends them in
/// the AUTH line instead of after 334 must fail in the rehearsal.
const ACCESS_TOKEN_LEN: usize = 1_100;

const ACCESS_PREFIX: &str = "sandbox-at.";
const REFRESH_PREFIX: &str = "sandbox-rt.";

/// RFC 8628 §6.1: no vowels, so no words; nothing that looks like something else.
const USER_CODE_ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const USER_CODE_LEN: usize = 8;

/// Who may do what, once a person (or an administrator) has said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Consent {
    /// The application.
    pub(in crate::sandbox) client_id: String,
    /// The mailbox; none: every one (client credentials, like `SMTP.SendAsApp`).
    pub(in crate::sandbox) mailbox: Option<String>,
    /// As asked for.
    pub(in crate::sandbox) scope: String,
    /// What the first id token repeats.
    pub(in crate::sandbox) nonce: Option<String>,
}

/// Whoever signed in, as far as the scope lets it be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) mailbox: String,
    pub(super) scope: String,
    pub(super) nonce: Option<String>,
}

impl Consent {
    /// Whether mail may be sent as `mailbox`. Case does not count, as at both providers.
    pub(in crate::sandbox) fn covers(&self, mailbox: &str) -> bool {
        self.mailbox
            .as_ref()
            .is_none_or(|own| own.eq_ignore_ascii_case(mailbox))
    }

    /// Who, if somebody signed in and `scope` asks for it (OpenID Connect Core 1.0 §3.1.2.1).
    pub(super) fn person(&self, scope: &str) -> Option<Person> {
        let mailbox = self.mailbox.clone().filter(|_| has(scope, "openid"))?;
        Some(Person {
            mailbox,
            scope: scope.to_owned(),
            nonce: self.nonce.clone(),
        })
    }
}

/// What the token endpoint gives.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) access_token: Secret,
    /// None for client credentials.
    pub(super) refresh_token: Option<Secret>,
    pub(super) expires_in: Duration,
    pub(super) scope: String,
    /// Who an id token is about, if there is to be one.
    pub(super) person: Option<Person>,
}

/// A live access token, as introspection and the SMTP server see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Live {
    pub(in crate::sandbox) consent: Consent,
    /// As asked for with this token: Microsoft gives one for a single resource.
    pub(in crate::sandbox) scope: String,
    /// How long it still lives.
    pub(in crate::sandbox) remaining: Duration,
}

/// What a person decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// For this mailbox.
    Allow(String),
    Deny,
}

/// A device sign-in that has begun.
#[derive(Debug)]
pub(super) struct DeviceStart {
    pub(super) device_code: Secret,
    pub(super) user_code: String,
}

/// An authorization code.
#[derive(Debug)]
struct Code {
    consent: Consent,
    redirect_uri: String,
    challenge: String,
    expires_at: Instant,
    /// Set once used: a second use is theft and ends this family (RFC 6749 §4.1.2).
    redeemed: Option<String>,
}

#[derive(Debug)]
struct Device {
    client_id: String,
    scope: String,
    user_code: String,
    decision: Option<Decision>,
    interval: Duration,
    polled_at: Option<Instant>,
    expires_at: Instant,
}

#[derive(Debug)]
struct Family {
    consent: Consent,
    /// The present refresh token; none for client credentials.
    refresh: Option<Fingerprint>,
    used_at: Instant,
}

#[derive(Debug)]
struct Access {
    family: String,
    scope: String,
    expires_at: Instant,
}

/// Everything granted so far.
#[derive(Debug)]
pub(in crate::sandbox) struct Grants {
    lifetime: Duration,
    codes: HashMap<Fingerprint, Code>,
    devices: HashMap<Fingerprint, Device>,
    families: HashMap<String, Family>,
    access: HashMap<Fingerprint, Access>,
}

impl Grants {
    /// Nothing granted; access tokens will live for `lifetime`.
    pub(in crate::sandbox) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            codes: HashMap::new(),
            devices: HashMap::new(),
            families: HashMap::new(),
            access: HashMap::new(),
        }
    }

    /// A code for `consent`, to be redeemed by whoever knows the verifier of `challenge` (S256).
    pub(super) fn code(
        &mut self,
        consent: Consent,
        redirect_uri: &str,
        challenge: &str,
        now: Instant,
    ) -> Result<Secret, Refusal> {
        self.codes.retain(|_, code| code.expires_at > now);
        if self.codes.len() >= PENDING_MAX {
            return Err(Refusal::BUSY);
        }
        let text = random::text(32)?;
        let code = Code {
            consent,
            redirect_uri: redirect_uri.to_owned(),
            challenge: challenge.to_owned(),
            expires_at: now + CODE_LIFETIME,
            redeemed: None,
        };
        self.codes.insert(random::fingerprint(&text), code);
        Ok(Secret::new(text))
    }

    /// Tokens for a code: once, to the same client, at the same redirect URI, with the verifier.
    pub(super) fn redeem(
        &mut self,
        client_id: &str,
        code: &str,
        redirect_uri: &str,
        verifier: &str,
        now: Instant,
    ) -> Result<Tokens, Refusal> {
        let key = random::fingerprint(code);
        let known = self.codes.get(&key).ok_or(Refusal::CODE)?;
        if let Some(family) = known.redeemed.clone() {
            self.families.remove(&family);
            return Err(Refusal::CODE_REPLAYED);
        }
        let refusal = if known.expires_at <= now || known.consent.client_id != client_id {
            Some(Refusal::CODE)
        } else if known.redirect_uri != redirect_uri {
            Some(Refusal::REDIRECT_URI)
        } else if !proves(verifier, &known.challenge) {
            Some(Refusal::VERIFIER)
        } else {
            None
        };
        let consent = known.consent.clone();
        if let Some(refusal) = refusal {
            // A code shown with the wrong proof is spent: there is no second guess.
            self.codes.remove(&key);
            return Err(refusal);
        }
        let (family, tokens) = self.grant(consent, true, now)?;
        if let Some(known) = self.codes.get_mut(&key) {
            known.redeemed = Some(family);
        }
        Ok(tokens)
    }

    /// Rotates: the refresh token shown is spent, a new one takes its place.
    ///
    /// `scope` may name another resource than at sign-in, as Microsoft has it.
    pub(super) fn refresh(
        &mut self,
        client_id: &str,
        token: &str,
        scope: Option<&str>,
        now: Instant,
    ) -> Result<Tokens, Refusal> {
        let id = family_of(token).ok_or(Refusal::REFRESH_TOKEN)?.to_owned();
        let family = self.families.get_mut(&id).ok_or(Refusal::REFRESH_TOKEN)?;
        if family.consent.client_id != client_id {
            return Err(Refusal::REFRESH_TOKEN);
        }
        if family.refresh != Some(random::fingerprint(token)) {
            self.families.remove(&id);
            return Err(Refusal::REFRESH_REPLAYED);
        }
        let fresh = new_refresh_token(&id)?;
        let scope = scope.unwrap_or(&family.consent.scope).to_owned();
        let access_token = self.issue(&id, &scope, now)?;
        let mut person = None;
        if let Some(family) = self.families.get_mut(&id) {
            family.refresh = Some(random::fingerprint(fresh.expose()));
            family.used_at = now;
            person = family.consent.person(&scope);
        }
        Ok(Tokens {
            access_token,
            refresh_token: Some(fresh),
            expires_in: self.lifetime,
            scope,
            person,
        })
    }

    /// An access token for every mailbox, and nothing to refresh (RFC 6749 §4.4.3).
    pub(super) fn client_credentials(
        &mut self,
        client_id: &str,
        scope: &str,
        now: Instant,
    ) -> Result<Tokens, Refusal> {
        let consent = Consent {
            client_id: client_id.to_owned(),
            mailbox: None,
            scope: scope.to_owned(),
            nonce: None,
        };
        self.unattended(consent, now)
    }

    /// An access token for what was consented to beforehand, and nothing to refresh.
    pub(super) fn unattended(&mut self, consent: Consent, now: Instant) -> Result<Tokens, Refusal> {
        self.grant(consent, false, now).map(|(_, tokens)| tokens)
    }

    /// Begins a device sign-in.
    pub(super) fn begin_device(
        &mut self,
        client_id: &str,
        scope: &str,
        now: Instant,
    ) -> Result<DeviceStart, Refusal> {
        // Expired ones are kept a little, so that a late poll hears `expired_token`.
        self.devices
            .retain(|_, device| device.expires_at + DEVICE_LIFETIME > now);
        if self.devices.len() >= PENDING_MAX {
            return Err(Refusal::BUSY);
        }
        let device_code = random::text(32)?;
        let user_code = random::letters(USER_CODE_ALPHABET, USER_CODE_LEN)?;
        let device = Device {
            client_id: client_id.to_owned(),
            scope: scope.to_owned(),
            user_code: user_code.clone(),
            decision: None,
            interval: DEVICE_INTERVAL,
            polled_at: None,
            expires_at: now + DEVICE_LIFETIME,
        };
        self.devices
            .insert(random::fingerprint(&device_code), device);
        let (left, right) = user_code.split_at(USER_CODE_LEN / 2);
        Ok(DeviceStart {
            device_code: Secret::new(device_code),
            user_code: format!("{left}-{right}"),
        })
    }

    /// Records what a person decided about a user code; false when no such code waits.
    pub(super) fn decide_device(
        &mut self,
        user_code: &str,
        decision: Decision,
        now: Instant,
    ) -> bool {
        let typed = typed_code(user_code);
        let waiting = self.devices.values_mut().find(|d| d.waits(&typed, now));
        waiting.is_some_and(|device| {
            device.decision = Some(decision);
            true
        })
    }

    /// A device asks whether the person has decided (RFC 8628 §3.5).
    pub(super) fn poll_device(
        &mut self,
        client_id: &str,
        device_code: &str,
        now: Instant,
    ) -> Result<Tokens, Refusal> {
        let key = random::fingerprint(device_code);
        let device = self
            .devices
            .get_mut(&key)
            .filter(|device| device.client_id == client_id)
            .ok_or(Refusal::DEVICE_CODE)?;
        if device.expires_at <= now {
            self.devices.remove(&key);
            return Err(Refusal::EXPIRED_TOKEN);
        }
        let hasty = device
            .polled_at
            .is_some_and(|polled_at| now + DEVICE_TOLERANCE < polled_at + device.interval);
        device.polled_at = Some(now);
        if hasty {
            device.interval += DEVICE_INTERVAL_STEP;
            return Err(Refusal::SLOW_DOWN);
        }
        let decision = device.decision.clone();
        let decision = decision.ok_or(Refusal::AUTHORIZATION_PENDING)?;
        let spent = self.devices.remove(&key).ok_or(Refusal::DEVICE_CODE)?;
        match decision {
            Decision::Deny => Err(Refusal::ACCESS_DENIED),
            Decision::Allow(mailbox) => {
                let consent = Consent {
                    client_id: spent.client_id,
                    mailbox: Some(mailbox),
                    scope: spent.scope,
                    nonce: None,
                };
                self.grant(consent, true, now).map(|(_, tokens)| tokens)
            }
        }
    }

    /// Ends a token of this client: a refresh token with its whole family, an access token alone
    /// (RFC 7009 §2.1). An unknown token is ended already.
    pub(super) fn revoke(&mut self, client_id: &str, token: &str) -> Result<(), Refusal> {
        let key = random::fingerprint(token);
        let of_refresh = family_of(token).filter(|id| self.families.contains_key(*id));
        let id = of_refresh.or_else(|| self.access.get(&key).map(|access| access.family.as_str()));
        let Some(family) = id.and_then(|id| self.families.get(id)) else {
            return Ok(());
        };
        if family.consent.client_id != client_id {
            return Err(Refusal::NOT_YOURS);
        }
        match of_refresh {
            Some(id) => self.families.remove(id).map_or((), drop),
            None => self.access.remove(&key).map_or((), drop),
        }
        Ok(())
    }

    /// Ends everything granted so far.
    pub(in crate::sandbox) fn revoke_all(&mut self) {
        self.families.clear();
        self.access.clear();
    }

    /// Ends every access token; refresh tokens live on.
    pub(in crate::sandbox) fn expire_all(&mut self) {
        self.access.clear();
    }

    /// What an access token allows, if it lives.
    pub(in crate::sandbox) fn live(&self, token: &str, now: Instant) -> Option<Live> {
        let access = self.access.get(&random::fingerprint(token))?;
        let remaining = access.expires_at.checked_duration_since(now)?;
        let family = self.families.get(&access.family)?;
        (!remaining.is_zero()).then(|| Live {
            consent: family.consent.clone(),
            scope: access.scope.clone(),
            remaining,
        })
    }

    fn grant(
        &mut self,
        mut consent: Consent,
        refreshable: bool,
        now: Instant,
    ) -> Result<(String, Tokens), Refusal> {
        self.make_room(now);
        let id = random::text(16)?;
        let refresh_token = if refreshable {
            Some(new_refresh_token(&id)?)
        } else {
            None
        };
        let scope = consent.scope.clone();
        let access_token = self.issue(&id, &scope, now)?;
        let person = consent.person(&scope);
        // §12.2: an id token of a refresh repeats none.
        consent.nonce = None;
        let family = Family {
            consent,
            refresh: refresh_token
                .as_ref()
                .map(|token| random::fingerprint(token.expose())),
            used_at: now,
        };
        self.families.insert(id.clone(), family);
        let tokens = Tokens {
            access_token,
            refresh_token,
            expires_in: self.lifetime,
            scope,
            person,
        };
        Ok((id, tokens))
    }

    fn issue(&mut self, family: &str, scope: &str, now: Instant) -> Result<Secret, Refusal> {
        if self.access.len() >= ACCESS_TOKENS_MAX {
            self.access.retain(|_, access| access.expires_at > now);
        }
        if self.access.len() >= ACCESS_TOKENS_MAX {
            return Err(Refusal::BUSY);
        }
        let text = format!("{ACCESS_PREFIX}{}", random::text(ACCESS_TOKEN_LEN)?);
        let access = Access {
            family: family.to_owned(),
            scope: scope.to_owned(),
            expires_at: now + self.lifetime,
        };
        self.access.insert(random::fingerprint(&text), access);
        Ok(Secret::new(text))
    }

    /// Makes room for one more family: first those with nothing left to use, then the oldest.
    fn make_room(&mut self, now: Instant) {
        if self.families.len() < FAMILIES_MAX {
            return;
        }
        let lifetime = self.lifetime;
        self.families
            .retain(|_, family| family.refresh.is_some() || family.used_at + lifetime > now);
        while self.families.len() >= FAMILIES_MAX {
            let oldest = self
                .families
                .iter()
                .min_by_key(|(_, family)| family.used_at);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            self.families.remove(&id);
        }
    }
}

impl Device {
    fn waits(&self, typed: &str, now: Instant) -> bool {
        self.user_code == typed && self.decision.is_none() && self.expires_at > now
    }
}

/// Whether `verifier` is one (RFC 7636 §4.1) and hashes to the challenge (§4.6, S256).
fn proves(verifier: &str, challenge: &str) -> bool {
    (43..=128).contains(&verifier.len())
        && URL_SAFE_NO_PAD.encode(random::fingerprint(verifier)) == challenge
}

/// A refresh token names its family, so that a spent one can be told from one never issued.
fn new_refresh_token(family: &str) -> Result<Secret, Refusal> {
    let text = random::text(32)?;
    Ok(Secret::new(format!("{REFRESH_PREFIX}{family}.{text}")))
}

fn family_of(refresh_token: &str) -> Option<&str> {
    let (family, _) = refresh_token
        .strip_prefix(REFRESH_PREFIX)?
        .split_once('.')?;
    Some(family)
}

/// A user code as it is kept: people type small letters, spaces and dashes.
fn typed_code(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_uppercase())
        .take(USER_CODE_LEN + 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAILBOX: &str = "alerts@example.com";
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const HOUR: Duration = Duration::from_secs(3600);

    fn consent() -> Consent {
        Consent {
            client_id: "app".to_owned(),
            mailbox: Some(MAILBOX.to_owned()),
            scope: "mail".to_owned(),
            nonce: None,
        }
    }

    fn signed_in(grants: &mut Grants, now: Instant) -> (String, String) {
        let code = grants.code(consent(), "http://r", CHALLENGE, now).unwrap();
        let tokens = grants
            .redeem("app", code.expose(), "http://r", VERIFIER, now)
            .unwrap();
        texts(&tokens)
    }

    fn texts(tokens: &Tokens) -> (String, String) {
        let refresh = tokens.refresh_token.as_ref().unwrap();
        (
            tokens.access_token.expose().to_owned(),
            refresh.expose().to_owned(),
        )
    }

    fn refused<T>(result: Result<T, Refusal>) -> Option<Refusal> {
        result.err()
    }

    #[test]
    fn a_code_needs_the_right_client_redirect_and_verifier_and_has_one_try() {
        let now = Instant::now();
        let late = now + CODE_LIFETIME;
        let wrong = "x".repeat(43);
        let cases = [
            ("other", "http://r", VERIFIER, now, Refusal::CODE),
            ("app", "http://other", VERIFIER, now, Refusal::REDIRECT_URI),
            ("app", "http://r", wrong.as_str(), now, Refusal::VERIFIER),
            ("app", "http://r", "short", now, Refusal::VERIFIER),
            ("app", "http://r", VERIFIER, late, Refusal::CODE),
        ];
        for (client, redirect, verifier, at, want) in cases {
            let mut grants = Grants::new(HOUR);
            let code = grants.code(consent(), "http://r", CHALLENGE, now).unwrap();
            let first = grants.redeem(client, code.expose(), redirect, verifier, at);
            assert_eq!(refused(first), Some(want));
            let second = grants.redeem("app", code.expose(), "http://r", VERIFIER, now);
            assert_eq!(refused(second), Some(Refusal::CODE), "spent: {want}");
        }
    }

    #[test]
    fn a_code_redeemed_twice_ends_what_the_first_use_gave() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let code = grants.code(consent(), "http://r", CHALLENGE, now).unwrap();
        let mut redeem = || grants.redeem("app", code.expose(), "http://r", VERIFIER, now);
        let (access, refresh) = texts(&redeem().unwrap());
        assert_eq!(refused(redeem()), Some(Refusal::CODE_REPLAYED));
        assert_eq!(grants.live(&access, now), None);
        assert!(grants.refresh("app", &refresh, None, now).is_err());
    }

    #[test]
    fn a_refresh_token_works_once_and_its_replay_ends_the_family() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let (_, first) = signed_in(&mut grants, now);
        let other = signed_in(&mut grants, now);
        let rotated = grants.refresh("app", &first, None, now).unwrap();
        let (access, second) = texts(&rotated);
        assert!(grants.live(&access, now).is_some());
        let replay = grants.refresh("app", &first, None, now);
        assert_eq!(refused(replay), Some(Refusal::REFRESH_REPLAYED));
        let after = grants.refresh("app", &second, None, now);
        assert_eq!(refused(after), Some(Refusal::REFRESH_TOKEN));
        assert_eq!(grants.live(&access, now), None);
        assert!(grants.refresh("app", &other.1, None, now).is_ok());
    }

    #[test]
    fn an_id_token_is_about_whoever_signed_in_where_the_scope_asks_and_nonce_comes_once() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let asked = Consent {
            scope: "openid mail".to_owned(),
            nonce: Some("n".to_owned()),
            ..consent()
        };
        let (_, tokens) = grants.grant(asked, true, now).unwrap();
        let person = tokens.person.as_ref().unwrap();
        assert_eq!(
            (person.mailbox.as_str(), person.nonce.as_deref()),
            (MAILBOX, Some("n"))
        );
        let (_, refresh) = texts(&tokens);
        let again = grants.refresh("app", &refresh, None, now).unwrap();
        assert_eq!(again.person.as_ref().unwrap().nonce, None);
        let (_, refresh) = texts(&again);
        let other = grants.refresh("app", &refresh, Some("mail"), now).unwrap();
        assert_eq!(other.person, None);
        assert_eq!(grants.grant(consent(), true, now).unwrap().1.person, None);
    }

    #[test]
    fn another_client_cannot_use_or_end_a_refresh_token() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let (_, refresh) = signed_in(&mut grants, now);
        assert!(grants.refresh("thief", &refresh, None, now).is_err());
        assert_eq!(grants.revoke("thief", &refresh), Err(Refusal::NOT_YOURS));
        assert!(grants.refresh("app", &refresh, None, now).is_ok());
    }

    #[test]
    fn an_access_token_lives_its_time_for_its_own_mailbox() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let (access, _) = signed_in(&mut grants, now);
        let just_before = now + HOUR - Duration::from_secs(1);
        let live = grants.live(&access, just_before).unwrap();
        assert!(live.consent.covers("Alerts@Example.com"));
        assert!(!live.consent.covers("boss@example.com"));
        assert_eq!(grants.live(&access, now + HOUR), None);
        assert_eq!(grants.live("sandbox-at.made-up", now), None);
    }

    #[test]
    fn a_device_waits_is_slowed_down_and_hears_the_decision() {
        let (mut grants, start) = (Grants::new(HOUR), Instant::now());
        let device = grants.begin_device("app", "mail", start).unwrap();
        let code = device.device_code.expose();
        let mut now = start;
        let mut poll = |grants: &mut Grants, wait: Duration| {
            now += wait;
            grants.poll_device("app", code, now).map(|t| texts(&t).0)
        };
        let (soon, step) = (Duration::from_millis(100), DEVICE_INTERVAL_STEP);
        let pending = Some(Refusal::AUTHORIZATION_PENDING);
        assert_eq!(refused(poll(&mut grants, soon)), pending);
        assert_eq!(refused(poll(&mut grants, DEVICE_INTERVAL)), pending);
        assert_eq!(refused(poll(&mut grants, soon)), Some(Refusal::SLOW_DOWN));
        let hasty = poll(&mut grants, DEVICE_INTERVAL);
        assert_eq!(refused(hasty), Some(Refusal::SLOW_DOWN), "now 6 s");
        assert_eq!(refused(poll(&mut grants, step * 3)), pending);
        let typed = format!(" {} ", device.user_code.to_lowercase());
        let allow = Decision::Allow(MAILBOX.to_owned());
        assert!(grants.decide_device(&typed, allow, start));
        assert!(!grants.decide_device(&typed, Decision::Deny, start), "once");
        let access = poll(&mut grants, step * 3).unwrap();
        assert!(grants.live(&access, start).is_some());
        let again = poll(&mut grants, step * 3);
        assert_eq!(refused(again), Some(Refusal::DEVICE_CODE), "tokens once");
    }

    #[test]
    fn a_device_hears_no_and_too_late() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let denied = grants.begin_device("app", "", now).unwrap();
        assert!(grants.decide_device(&denied.user_code, Decision::Deny, now));
        let poll = grants.poll_device("app", denied.device_code.expose(), now);
        assert_eq!(refused(poll), Some(Refusal::ACCESS_DENIED));
        let slow = grants.begin_device("app", "", now).unwrap();
        let late = now + DEVICE_LIFETIME;
        assert!(!grants.decide_device(&slow.user_code, Decision::Deny, late));
        let poll = grants.poll_device("app", slow.device_code.expose(), late);
        assert_eq!(refused(poll), Some(Refusal::EXPIRED_TOKEN));
    }

    #[test]
    fn expire_ends_access_tokens_alone_and_revoke_everything() {
        let (mut grants, now) = (Grants::new(HOUR), Instant::now());
        let (access, refresh) = signed_in(&mut grants, now);
        grants.expire_all();
        assert_eq!(grants.live(&access, now), None);
        let (access, refresh) = texts(&grants.refresh("app", &refresh, None, now).unwrap());
        grants.revoke_all();
        assert_eq!(grants.live(&access, now), None);
        assert!(grants.refresh("app", &refresh, None, now).is_err());
    }

    #[test]
    fn the_oldest_consent_makes_room() {
        let (mut grants, now) = (Grants::new(Duration::ZERO), Instant::now());
        let (_, first) = signed_in(&mut grants, now);
        let (_, second) = signed_in(&mut grants, now + Duration::from_secs(1));
        let later = now + HOUR;
        for _ in 2..=FAMILIES_MAX {
            grants.grant(consent(), true, later).unwrap();
        }
        assert_eq!(grants.families.len(), FAMILIES_MAX);
        assert!(grants.refresh("app", &first, None, later).is_err());
        assert!(grants.refresh("app", &second, None, later).is_ok());
    }
}
