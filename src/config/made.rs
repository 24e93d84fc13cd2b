//! What was made in the console, as the lowest layer: below the file and the environment, judged by
//! the same checks.
//!
//! A name that the file or the environment has is theirs. An entry that does not pass (the file
//! changed under it, its secret does not open) is left out and told, with whatever hangs on it: mail
//! for an account that is left out waits in the queue. Only what is wrong with the file itself refuses
//! a configuration.

use std::collections::{BTreeMap, BTreeSet};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{Problem, layers};
use crate::{
    admin::made::{FieldProblem, Written},
    registry::{Entries, Entry, Section, Settings},
    secret::Secret,
};

/// Where an entry is: what it is, and its name.
pub(super) type Place = (Section, String);

/// Which entries are laid below the file, and which are left out.
#[derive(Debug, Clone, Default)]
pub(super) struct Made<'a> {
    /// In the layer.
    pub(super) used: BTreeMap<Place, &'a Entry>,
    /// Not in the layer: why.
    pub(super) out: BTreeMap<Place, Vec<Problem>>,
    /// Not in the layer: the layers above have the name.
    pub(super) overruled: BTreeSet<Place>,
}

impl<'a> Made<'a> {
    /// Those that can be used at all.
    pub(super) fn of(entries: &'a Entries) -> Self {
        let mut made = Self::default();
        for (section, name, entry) in entries.iter() {
            let place = (section, name.to_owned());
            match entry.damage {
                None => {
                    made.used.insert(place, entry);
                }
                Some(damage) => {
                    let what = damage.to_string();
                    let (what, remedy) = what.split_once("; ").unwrap_or((&what, "make it again"));
                    let problem = Problem {
                        key: key(section, name),
                        value: String::new(),
                        what: what.to_owned(),
                        remedy: remedy.to_owned(),
                        lacks: None,
                    };
                    made.out.insert(place, vec![problem]);
                }
            }
        }
        made
    }

    /// Takes out what has a name that the layers above have.
    fn yield_to(&mut self, above: &Dict) {
        let table = |section: Section| above.get(section.name()).and_then(Value::as_dict);
        let clients = above.get(Section::Client.name()).and_then(Value::as_array);
        let client_names = |name: &str| {
            let mut clients = clients.into_iter().flatten();
            clients.any(|client| {
                let given = client.as_dict().and_then(|client| client.get("name"));
                given.and_then(Value::as_str) == Some(name)
            })
        };
        let is_above = |(section, name): &Place| match section {
            Section::Provider | Section::Account => {
                table(*section).is_some_and(|table| table.contains_key(name))
            }
            Section::Client => client_names(name),
            Section::Key | Section::Allow | Section::Hold | Section::Default => false,
        };
        let places = self.used.keys().chain(self.out.keys());
        let overruled: Vec<Place> = places.filter(|place| is_above(place)).cloned().collect();
        self.used.retain(|place, _| !is_above(place));
        self.out.retain(|place, _| !is_above(place));
        self.overruled.extend(overruled);
    }

    /// Lays the entries below what is there.
    pub(super) fn below(&mut self, figment: Figment, above: &Dict) -> Figment {
        self.yield_to(above);
        // Existing values are kept; lists are put one behind the other.
        figment.adjoin(Layer(self))
    }

    /// Leaves out the entries that these problems are about; the problems that are the file's.
    pub(super) fn leave_out(&mut self, problems: Vec<Problem>) -> Vec<Problem> {
        let mut theirs = Vec::new();
        let mut ours: BTreeMap<Place, Vec<Problem>> = BTreeMap::new();
        for problem in problems {
            let place = self.used.keys().filter(|(section, name)| {
                let key_of_it = key(*section, name);
                let rest = problem.key.strip_prefix(&key_of_it);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            // A dot may stand in a name: the longest one is meant.
            match place.max_by_key(|(_, name)| name.len()).cloned() {
                Some(place) => ours.entry(place).or_default().push(problem),
                None => theirs.push(problem),
            }
        }
        for (place, problems) in ours {
            self.used.remove(&place);
            self.out.insert(place, problems);
        }
        theirs
    }

    /// The names of a section, those left out as well: they are known, and no slip of the pen.
    pub(super) fn is_left_out(&self, section: Section, name: &str) -> bool {
        self.out.contains_key(&(section, name.to_owned()))
    }

    /// The entries of a section that are in the layer.
    pub(super) fn used_of(&self, section: Section) -> impl Iterator<Item = (&str, &'a Entry)> {
        let used = self.used.iter().filter(move |((of, _), _)| *of == section);
        used.map(|((_, name), entry)| (name.as_str(), *entry))
    }

    /// The names of a section that are left out.
    pub(super) fn out_of(&self, section: Section) -> impl Iterator<Item = &str> {
        let out = self.out.keys().filter(move |(of, _)| *of == section);
        out.map(|(_, name)| name.as_str())
    }
}

/// How keys of an entry begin.
pub(super) fn key(section: Section, name: &str) -> String {
    format!("{section}.{name}")
}

/// The entries as a figment layer.
struct Layer<'m, 'a>(&'m Made<'a>);

impl Provider for Layer<'_, '_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(layers::CONSOLE)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut data = Dict::new();
        for section in [Section::Provider, Section::Account] {
            let entries = self.0.used_of(section);
            let table = entries.map(|(name, entry)| (name.to_owned(), Value::from(written(entry))));
            let table: Dict = table.collect();
            if !table.is_empty() {
                data.insert(section.name().to_owned(), Value::from(table));
            }
        }
        let clients = self.0.used_of(Section::Client).map(|(name, entry)| {
            let mut client = written(entry);
            client.insert("name".to_owned(), Value::from(name));
            Value::from(client)
        });
        let clients: Vec<Value> = clients.collect();
        if !clients.is_empty() {
            data.insert(Section::Client.name().to_owned(), Value::from(clients));
        }
        Ok(Map::from([(Profile::Default, data)]))
    }
}

/// An entry as the file would have it, its secrets in their places.
fn written(entry: &Entry) -> Dict {
    // An object of JSON is one of these.
    let settings = Value::serialize(&entry.settings);
    let settings = settings.ok().and_then(Value::into_dict);
    let mut dict = settings.unwrap_or_default();
    for (key, secret) in &entry.secrets {
        let path: Vec<&str> = key.split('.').collect();
        insert(&mut dict, &path, secret);
    }
    dict
}

fn insert(dict: &mut Dict, path: &[&str], secret: &Secret) {
    match path {
        [] => {}
        [key] => {
            dict.insert((*key).to_owned(), Value::from(secret.expose()));
        }
        [section, rest @ ..] => {
            let inner = dict.entry((*section).to_owned());
            let inner = inner.or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, secret);
            }
        }
    }
}

/// Every provider, account and client as it stands in the layers, and every made one that is left out.
/// `secrets`: the keys of secrets, as problems name them.
pub(super) fn all_written(
    merged: &Dict,
    secrets: &BTreeSet<String>,
    made: &Made<'_>,
    entries: &Entries,
) -> Vec<Written> {
    let mut all = Vec::new();
    for section in [Section::Provider, Section::Account] {
        let table = merged.get(section.name()).and_then(Value::as_dict);
        for (name, value) in table.into_iter().flatten() {
            all.push(one_written((section, name), value, secrets, made));
        }
    }
    let clients = merged.get(Section::Client.name()).and_then(Value::as_array);
    for (index, value) in clients.into_iter().flatten().enumerate() {
        let given = value.as_dict().and_then(|client| client.get("name"));
        let Some(name) = given.and_then(Value::as_str) else {
            continue;
        };
        let mut one = one_written((Section::Client, name), value, secrets, made);
        let numbered = format!("client#{}.", index + 1);
        strip(&mut one, &numbered, secrets);
        one.settings.remove("name");
        all.push(one);
    }
    for ((section, name), problems) in &made.out {
        let Some(entry) = entries.get(*section, name) else {
            continue;
        };
        all.push(Written {
            section: *section,
            name: name.clone(),
            settings: entry.settings.clone(),
            secrets: entry.secrets.keys().cloned().collect(),
            read_only: false,
            problems: problems.iter().map(FieldProblem::from).collect(),
        });
    }
    all
}

fn one_written(
    (section, name): (Section, &str),
    value: &Value,
    secrets: &BTreeSet<String>,
    made: &Made<'_>,
) -> Written {
    let settings = value.deserialize().unwrap_or_default();
    let mut written = Written {
        section,
        name: name.to_owned(),
        settings,
        secrets: BTreeSet::new(),
        read_only: !made.used.contains_key(&(section, name.to_owned())),
        problems: Vec::new(),
    };
    strip(&mut written, &format!("{}.", key(section, name)), secrets);
    written
}

/// Takes the secrets out, and notes which there are.
fn strip(written: &mut Written, prefix: &str, secrets: &BTreeSet<String>) {
    for key in secrets.iter().filter_map(|key| key.strip_prefix(prefix)) {
        let path: Vec<&str> = key.split('.').collect();
        remove(&mut written.settings, &path);
        written.secrets.insert(key.to_owned());
    }
}

fn remove(settings: &mut Settings, path: &[&str]) {
    match path {
        [] => {}
        [key] => {
            settings.remove(*key);
        }
        [section, rest @ ..] => {
            if let Some(serde_json::Value::Object(inner)) = settings.get_mut(*section) {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{Config, Problems, Sources, layers::Variables},
        mail::AccountName,
        registry::Change,
    };

    const PROVIDER: Section = Section::Provider;
    const ACCOUNT: Section = Section::Account;

    fn put(section: Section, name: &str, settings: &serde_json::Value) -> Change {
        put_with(section, name, settings, &[])
    }

    fn put_with(
        section: Section,
        name: &str,
        settings: &serde_json::Value,
        secrets: &[(&str, &str)],
    ) -> Change {
        let secrets = secrets.iter();
        Change::Put {
            section,
            name: name.to_owned(),
            settings: settings.as_object().unwrap().clone(),
            secrets: secrets
                .map(|(key, text)| ((*key).to_owned(), Secret::new(*text)))
                .collect(),
        }
    }

    fn microsoft(name: &str) -> Change {
        let settings = json!({"kind": "microsoft", "client_id": "id", "tenant": "contoso.com"});
        put_with(PROVIDER, name, &settings, &[("client_secret", "canary")])
    }

    fn account(name: &str, provider: &str) -> Change {
        let settings = json!({"provider": provider, "mailbox": format!("{name}@contoso.com"),
            "limits": {"connections": 1}});
        put(ACCOUNT, name, &settings)
    }

    fn load(text: &str, changes: &[Change]) -> Result<Config, Problems> {
        load_in(text, changes, &[])
    }

    fn load_in(
        text: &str,
        changes: &[Change],
        environment: &[(&str, &str)],
    ) -> Result<Config, Problems> {
        let entries = Entries::default().with(changes, Timestamp::UNIX_EPOCH);
        let sources = Sources {
            text: Some(text.to_owned()),
            environment: true,
            ..Sources::default()
        };
        let variables = [("STATE_DIRECTORY", "/state")].iter().chain(environment);
        let variables: Variables = variables
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Config::load_all_with(&sources, &entries, &variables)
    }

    fn written<'c>(config: &'c Config, section: Section, name: &str) -> Option<&'c Written> {
        let mut all = config.written.iter();
        all.find(|one| one.section == section && one.name == name)
    }

    fn names(config: &Config) -> Vec<&str> {
        let accounts = config.delivery.accounts.iter();
        accounts.map(|account| account.name.as_str()).collect()
    }

    #[test]
    fn without_any_file_everything_can_be_made() {
        let smarthost =
            json!({"smtp": {"host": "mail.example", "auth": "password", "username": "u"}});
        let hash = crate::submission::hash_password(&Secret::new("x")).unwrap();
        let login = json!({"password_hash": hash, "account": "alerts"});
        let changes = [
            microsoft("contoso"),
            account("alerts", "contoso"),
            put_with(ACCOUNT, "plain", &smarthost, &[("smtp.password", "canary")]),
            put(Section::Client, "scanner", &login),
        ];
        let config = load("", &changes).unwrap();
        assert_eq!(names(&config), ["alerts", "plain"]);
        assert_eq!(config.delivery.accounts[0].limits.connections, 1);
        let provider = &config.oauth.providers["contoso"];
        assert_eq!(provider.client_secret, Some(Secret::new("canary")));
        assert!(config.rules.clients.contains_key("scanner"));

        let made = written(&config, PROVIDER, "contoso").unwrap();
        assert!(!made.read_only && made.problems.is_empty());
        assert_eq!(made.settings["tenant"], "contoso.com");
        assert_eq!(made.secrets, BTreeSet::from(["client_secret".to_owned()]));
        let plain = written(&config, ACCOUNT, "plain").unwrap();
        assert_eq!(plain.secrets, BTreeSet::from(["smtp.password".to_owned()]));
        let client = written(&config, Section::Client, "scanner").unwrap();
        assert!(!client.read_only && !client.settings.contains_key("password_hash"));
        let shown = format!("{:?}", config.written);
        assert!(
            !shown.contains("canary") && !shown.contains("argon2"),
            "{shown}"
        );
    }

    /// Not even a key of the console's one is mixed in.
    #[test]
    fn a_name_of_the_file_or_the_environment_is_theirs() {
        let text = "[provider.contoso]\nkind = \"google\"\nclient_id = \"file\"\nclient_secret = \"s\"\n\
                    [account.alerts]\nprovider = \"contoso\"\nmailbox = \"a@b.example\"\n";
        let changes = [
            microsoft("contoso"),
            microsoft("second"),
            account("alerts", "second"),
        ];
        let config = load(text, &changes).unwrap();
        let provider = &config.oauth.providers["contoso"];
        assert_eq!(
            (provider.client_id.as_str(), provider.tenant_id.as_ref()),
            ("file", None)
        );
        assert_eq!(config.delivery.accounts[0].mailbox, "a@b.example");
        let theirs = written(&config, PROVIDER, "contoso").unwrap();
        assert!(theirs.read_only && !theirs.settings.contains_key("client_secret"));
        assert!(!written(&config, PROVIDER, "second").unwrap().read_only);
        let variables = [
            ("GATEPOST_PROVIDER__SECOND__KIND", "google"),
            ("GATEPOST_PROVIDER__SECOND__CLIENT_ID", "environment"),
        ];
        let config = load_in("", &changes[1..], &variables).unwrap();
        let provider = &config.oauth.providers["second"];
        assert_eq!(
            (provider.client_id.as_str(), &provider.client_secret),
            ("environment", &None)
        );
    }

    #[test]
    fn clients_of_file_and_console_stand_side_by_side() {
        let hash = crate::submission::hash_password(&Secret::new("x")).unwrap();
        let text = format!(
            "[[client]]\nname = \"erp\"\npassword_hash = \"{hash}\"\n[account.a.smtp]\n\
             host = \"mail.example\"\nauth = \"none\"\n"
        );
        let login = |account: &str| json!({"password_hash": hash, "account": account});
        let changes = [
            put(Section::Client, "erp", &login("b")),
            put(Section::Client, "scanner", &login("a")),
            put(Section::Client, "broken", &login("nobody")),
        ];
        let config = load(&text, &changes).unwrap();
        assert_eq!(config.rules.clients["erp"].account, None, "the file's");
        assert_eq!(
            config.rules.clients["scanner"].account,
            Some(AccountName::new("a"))
        );
        assert!(!config.rules.clients.contains_key("broken"));
        let broken = written(&config, Section::Client, "broken").unwrap();
        assert_eq!(broken.problems[0].key, "client.broken.account");
        assert!(written(&config, Section::Client, "erp").unwrap().read_only);
    }

    /// The daemon starts, what hangs on the entry waits, and everybody is told.
    #[test]
    fn an_entry_that_no_longer_passes_is_left_out_with_what_hangs_on_it() {
        let text = "default_account = \"made\"\n\
                    [account.own]\nprovider = \"contoso\"\nmailbox = \"own@contoso.com\"\n\
                    [account.plain]\n[account.plain.smtp]\nhost = \"mail.example\"\nauth = \"none\"\n\
                    [[route]]\nsender = \"x@*\"\naccount = \"own\"\n";
        let broken = put(
            PROVIDER,
            "contoso",
            &json!({"kind": "microsoft", "tenant": "t.example"}),
        );
        let changes = [
            broken,
            account("made", "contoso"),
            microsoft("good"),
            account("fine", "good"),
        ];
        let config = load(text, &changes).unwrap();
        assert_eq!(names(&config), ["fine", "plain"]);
        assert_eq!(
            config.rules.router.default_account,
            Some(AccountName::new("made"))
        );
        let out = written(&config, PROVIDER, "contoso").unwrap();
        assert_eq!(out.problems[0].key, "provider.contoso.client_id");
        let told = config.warnings.join("\n");
        for wanted in [
            "provider contoso was made",
            "account own sends",
            "account made sends",
        ] {
            assert!(told.contains(wanted), "{told}");
        }
        // Mended, all of it is back.
        let changes = [&changes[..], &[microsoft("contoso")]].concat();
        let config = load(text, &changes).unwrap();
        assert_eq!(names(&config), ["fine", "made", "own", "plain"]);
    }

    /// The one account that is left is not the default for the mail of the one that is left out.
    #[test]
    fn mail_of_an_account_that_is_left_out_goes_nowhere_else() {
        let changes = [
            microsoft("good"),
            account("fine", "good"),
            put(ACCOUNT, "broken", &json!({"provider": "good"})),
        ];
        let config = load("", &changes).unwrap();
        assert_eq!(names(&config), ["fine"]);
        assert_eq!(config.rules.router.default_account, None);
        let config = load("", &changes[2..]).unwrap();
        assert_eq!(
            config.rules.router.default_account,
            Some(AccountName::new("broken"))
        );
    }

    #[test]
    fn what_is_wrong_with_the_file_is_the_files() {
        let text = "[account.own]\nprovider = \"nobody\"\nmailbox = \"own@contoso.com\"\n";
        let refused = load(text, &[microsoft("contoso"), account("alerts", "gone")]).unwrap_err();
        let keys: Vec<&str> = refused.0.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["account.own.provider"]);
    }

    #[test]
    fn a_network_is_let_in_where_a_list_is_and_never_opens_a_relay() {
        let text = "[[listener]]\naddress = \"0.0.0.0:2525\"\nallow = [\"10.0.0.0/8\"]\n\
                    [[listener]]\naddress = \"0.0.0.0:587\"\nauth = \"required\"\n\
                    auth_without_tls = \"always\"\n\
                    [[listener]]\naddress = \"127.0.0.1:2526\"\n";
        let allow = |name: &str, settings| put(Section::Allow, name, &settings);
        let config = load(text, &[allow("192.168.7.20", json!({}))]).unwrap();
        let listed = |config: &Config, at: usize| {
            let nets = config.listeners[at].allow.iter();
            nets.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(listed(&config, 0), ["10.0.0.0/8", "192.168.7.20/32"]);
        assert!(
            listed(&config, 1).is_empty(),
            "it lets everybody try a login"
        );
        let only = allow("192.168.7.20", json!({"listener": "127.0.0.1:2526"}));
        let config = load(text, &[only]).unwrap();
        assert_eq!(listed(&config, 0), ["10.0.0.0/8"]);
        for (change, key, said) in [
            (allow("8.8.8.8", json!({})), "allow.8.8.8.8", "open relay"),
            (
                allow("0.0.0.0/0", json!({})),
                "allow.0.0.0.0/0",
                "open relay",
            ),
            (
                allow("printers", json!({})),
                "allow.printers",
                "not a network",
            ),
            (
                allow("10.1.1.1", json!({"listener": "x"})),
                "allow.10.1.1.1.listener",
                "no listener",
            ),
        ] {
            let config = load(text, &[change]).unwrap();
            let out = config.written.iter().find(|one| !one.problems.is_empty());
            let problem = &out.unwrap().problems[0];
            assert_eq!(problem.key, key);
            assert!(problem.what.contains(said), "{problem}");
            assert_eq!(listed(&config, 0), ["10.0.0.0/8"], "{key}");
        }
    }

    #[test]
    fn an_account_on_hold_is_stopped_whoever_has_made_it() {
        let text = "[account.plain.smtp]\nhost = \"mail.example\"\nauth = \"none\"\n";
        let config = load(text, &[put(Section::Hold, "plain", &json!({}))]).unwrap();
        assert!(config.delivery.accounts[0].is_stopped);
    }

    /// One that was chosen is the default, whichever others there are; the file's word comes first.
    #[test]
    fn an_account_that_was_chosen_is_the_default() {
        let text = "[account.one.smtp]\nhost = \"mail.example\"\nauth = \"none\"\n\
                    [account.two.smtp]\nhost = \"mail.example\"\nauth = \"none\"\n";
        let default = |text: &str, chosen: &[&str]| {
            let chosen = chosen.iter();
            let chosen: Vec<Change> = chosen
                .map(|name| put(Section::Default, name, &json!({})))
                .collect();
            let config = load(text, &chosen).unwrap();
            let default = config.rules.router.default_account;
            default.map(|name| name.to_string())
        };
        assert_eq!(default(text, &[]), None);
        assert_eq!(default(text, &["two"]).as_deref(), Some("two"));
        assert_eq!(default(text, &["gone", "two"]).as_deref(), Some("two"));
        let named = format!("default_account = \"one\"\n{text}");
        assert_eq!(default(&named, &["two"]).as_deref(), Some("one"));
    }

    /// Neither what a secret is read from nor what is sent as it is can be named from afar.
    #[test]
    fn no_file_and_no_command_is_taken_from_the_console() {
        let base = json!({"kind": "microsoft", "client_id": "id", "tenant": "contoso.com"});
        for (key, value) in [
            ("client_secret", json!({"command": ["id"]})),
            ("client_secret", json!({"file": "/etc/passwd"})),
            ("proxy", json!({"command": ["id"]})),
            ("federated_token_file", json!("/state/token.key")),
        ] {
            let mut settings = base.clone();
            settings[key] = value;
            let config = load("", &[put(PROVIDER, "contoso", &settings)]).unwrap();
            let out = written(&config, PROVIDER, "contoso").unwrap();
            let keys: Vec<&str> = out.problems.iter().map(|p| p.key.as_str()).collect();
            assert!(
                keys.contains(&format!("provider.contoso.{key}").as_str()),
                "{keys:?}"
            );
        }
    }

    /// The secret of the console is not in the file, whoever may read that.
    #[test]
    fn a_made_secret_is_no_secret_in_the_file() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gatepost.toml");
        std::fs::write(&path, "state_dir = \"/state\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let changes = [microsoft("contoso"), account("alerts", "contoso")];
        let entries = Entries::default().with(&changes, Timestamp::UNIX_EPOCH);
        let sources = Sources {
            file: Some(path),
            ..Sources::default()
        };
        let config = Config::load_all_with(&sources, &entries, &Variables::new()).unwrap();
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}
