//! The sandbox through the wire: HTTP requests and SMTP dialogues over loopback sockets.

mod oauth;
mod smtp;

use reqwest::{Response, StatusCode, header};
use serde_json::Value;
use url::Url;

use super::{Config, Sandbox};
use crate::net::tasks::Tasks;

const MAILBOX: &str = "alerts@example.com";
const REDIRECT: &str = "http://localhost:8025/authorization/smtp_oauth/";
/// The pair of RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A sandbox and a program that uses it. Stops with the test.
struct Rig {
    sandbox: Sandbox,
    http: reqwest::Client,
    tasks: Tasks,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Rig {
    async fn start() -> Self {
        let tasks = Tasks::new();
        let config = Config {
            http: "127.0.0.1:0".parse().unwrap(),
            smtp: "127.0.0.1:0".parse().unwrap(),
            token_lifetime_s: 3600,
            mailbox: MAILBOX.to_owned(),
        };
        let sandbox = Sandbox::start(config, tasks.clone()).await.unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self {
            sandbox,
            http,
            tasks,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.url())
    }

    /// The authorization URL, with `change`d parameters (an empty value leaves one out).
    fn authorize_url(&self, change: &[(&str, &str)]) -> Url {
        let (client_id, _) = self.sandbox.client();
        let mut url = Url::parse(&self.url("/authorize")).unwrap();
        let usual = [
            ("response_type", "code"),
            ("client_id", client_id.as_str()),
            ("redirect_uri", REDIRECT),
            ("scope", "smtp.send offline_access"),
            ("state", "st&te"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in usual {
            let changed = change.iter().find(|(n, _)| *n == name);
            let value = changed.map_or(value, |(_, value)| value);
            if !value.is_empty() {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let extra = change
            .iter()
            .filter(|(n, _)| usual.iter().all(|u| u.0 != *n));
        url.query_pairs_mut().extend_pairs(extra);
        url
    }

    async fn get(&self, url: &str) -> Response {
        self.http.get(url).send().await.unwrap()
    }

    async fn post(&self, url: &str, form: &[(&str, &str)]) -> Response {
        self.http.post(url).form(form).send().await.unwrap()
    }

    /// Posts a form as the confidential client.
    async fn post_as_client(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let (id, secret) = self.sandbox.client();
        let request = self.http.post(self.url(path)).form(form);
        let response = request.basic_auth(id, Some(secret.expose())).send().await;
        let response = response.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// A person allows `mailbox`; where the browser is sent.
    async fn consent(&self, mailbox: &str) -> Url {
        let url = self.authorize_url(&[]);
        let form = [("mailbox", mailbox), ("decision", "allow")];
        location(&self.post(url.as_str(), &form).await)
    }

    /// Signs `mailbox` in; access and refresh token.
    async fn sign_in(&self, mailbox: &str) -> (String, String) {
        let code = query(&self.consent(mailbox).await, "code").unwrap();
        let (status, json) = self.redeem(&code).await;
        assert_eq!(status, StatusCode::OK, "{json}");
        tokens(&json)
    }

    async fn redeem(&self, code: &str) -> (StatusCode, Value) {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        self.post_as_client("/token", &form).await
    }

    async fn refresh(&self, token: &str) -> (StatusCode, Value) {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.post_as_client("/token", &form).await
    }

    async fn introspect(&self, token: &str) -> Value {
        self.post_as_client("/introspect", &[("token", token)])
            .await
            .1
    }
}

fn location(response: &Response) -> Url {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let location = response.headers().get(header::LOCATION).unwrap();
    location.to_str().unwrap().parse().unwrap()
}

fn query(url: &Url, name: &str) -> Option<String> {
    let pair = url.query_pairs().find(|(n, _)| n == name);
    pair.map(|(_, value)| value.into_owned())
}

fn tokens(json: &Value) -> (String, String) {
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    (text("access_token"), text("refresh_token"))
}
