//! The API's client: what the command line speaks with. HTTP over the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response, header, redirect};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::AsyncReadExt, net::UnixStream};
use tokio_util::io::ReaderStream;

use super::api::{
    Account, Imported, Invitation, Notified, Operated, PastedAddress, Problem, QueueDetail,
    QueuePage, QueueQuery, Reloaded, Selector, SignInRequest, SignInState, SignedIn, SignedOut,
    Status, TestRequest, Tested, TracePage, TraceQuery,
};
use crate::{
    mail::{AccountName, QueueId},
    oauth::{Rotated, SignIn},
    queue::Operation,
    submission::ClientSeen,
};

/// The host is only for the `Host` field: every request goes to the socket.
const BASE: &str = "http://localhost";
/// Octets of a message sent at once.
const CHUNK_LEN: usize = 64 * 1024;
/// The daemon answers at once, unless it commits or lists under load.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// A test message goes through every deadline of an SMTP session.
const TEST_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// A reload runs the commands that give secrets.
const RELOAD_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// How long the daemon is asked to wait for a sign-in before it says "pending".
const SIGN_IN_WAIT_S: u64 = 25;

/// A daemon that answered. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers on the socket: no daemon, or not here.
    #[error("{path}", path = socket.display())]
    Connect {
        /// Its path.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or took too long.
    #[error("the daemon did not answer")]
    Http(#[from] reqwest::Error),
    /// The daemon says no.
    #[error("{0}")]
    Problem(Problem),
}

impl Client {
    /// A client of the daemon that listens on `socket`.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody does, or when this user may not open it.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let connected = UnixStream::connect(socket).await;
        connected.map_err(|source| Error::Connect {
            socket: socket.into(),
            source,
        })?;
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            // No certificate is ever looked at here; loading the system's would cost more than
            // the request.
            .tls_certs_only([])
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self {
            http,
            socket: socket.into(),
        })
    }

    /// The socket it speaks through.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the process lives.
    ///
    /// # Errors
    /// [`Error`]: it does not, or not well.
    pub async fn healthz(&self) -> Result<(), Error> {
        let request = self.http.get(format!("{BASE}/healthz"));
        let answer = request.timeout(ANSWER_DEADLINE).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// The daemon at a glance.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/status", &()).await
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// [`Error::Problem`] lists every problem of the new configuration; the old one is in force.
    pub async fn reload(&self) -> Result<Reloaded, Error> {
        let request = self.request(Method::POST, "/reload");
        json(request.timeout(RELOAD_DEADLINE)).await
    }

    /// Where the console is and how to log in.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn invite(&self) -> Result<Invitation, Error> {
        let request = self.request(Method::POST, "/console/invitation");
        json(request.timeout(ANSWER_DEADLINE)).await
    }

    /// Has every token sealed with another key.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn rotate_key(&self) -> Result<Rotated, Error> {
        json(
            self.request(Method::POST, "/rotate-key")
                .timeout(RELOAD_DEADLINE),
        )
        .await
    }

    /// Every account as it stands.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn accounts(&self) -> Result<Vec<Account>, Error> {
        self.get("/accounts", &()).await
    }

    /// Who has connected to the listeners lately.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn clients(&self) -> Result<Vec<ClientSeen>, Error> {
        self.get("/clients", &()).await
    }

    /// Begins a sign-in.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn begin_sign_in(
        &self,
        account: &AccountName,
        device: bool,
    ) -> Result<SignIn, Error> {
        let path = account_path(account, "sign-in");
        self.post(&path, &SignInRequest { device }).await
    }

    /// How a sign-in stands; waits a while for an answer other than pending.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn sign_in_state(&self, id: &str) -> Result<SignInState, Error> {
        self.sign_in_state_within(id, SIGN_IN_WAIT_S).await
    }

    /// As [`Client::sign_in_state`], waiting so many seconds at most.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn sign_in_state_within(&self, id: &str, wait: u64) -> Result<SignInState, Error> {
        let path = format!("/sign-ins/{}", segment(id));
        self.get(&path, &[("wait", wait)]).await
    }

    /// Hands over a redirect address that a person pasted.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn paste(&self, address: String) -> Result<SignedIn, Error> {
        self.post("/sign-ins/callback", &PastedAddress { address })
            .await
    }

    /// Forgets an account's tokens.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn sign_out(&self, account: &AccountName) -> Result<SignedOut, Error> {
        self.post(&account_path(account, "sign-out"), &()).await
    }

    /// Sends a test message.
    ///
    /// # Errors
    /// [`Error`]; a message that was refused is no error, its last step says so.
    pub async fn test(&self, account: &AccountName, to: &str) -> Result<Tested, Error> {
        let request = self.request(Method::POST, &account_path(account, "test"));
        let request = request.json(&TestRequest { to: to.into() });
        json(request.timeout(TEST_DEADLINE)).await
    }

    /// Sends a test notice every way that is set.
    ///
    /// # Errors
    /// [`Error`]: none is set. A way that fails is no error, its answer says so.
    pub async fn test_notify(&self) -> Result<Notified, Error> {
        let request = self.request(Method::POST, "/notify/test");
        json(request.timeout(TEST_DEADLINE)).await
    }

    /// Looks at each step of an account's way.
    ///
    /// # Errors
    /// [`Error`]; what is wrong with the account is no error, its steps say so.
    pub async fn doctor(&self, account: &AccountName) -> Result<Tested, Error> {
        let request = self.request(Method::POST, &account_path(account, "doctor"));
        json(request.timeout(TEST_DEADLINE)).await
    }

    /// A page of the queue.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn queue(&self, query: &QueueQuery) -> Result<QueuePage, Error> {
        self.get("/queue", query).await
    }

    /// One message with its envelope.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn queue_entry(&self, id: QueueId) -> Result<QueueDetail, Error> {
        self.get(&format!("/queue/{id}"), &()).await
    }

    /// A page of the trace.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn trace(&self, query: &TraceQuery) -> Result<TracePage, Error> {
        self.get("/trace", query).await
    }

    /// The octets of a message, as they come. The caller's patience is the only deadline: a large
    /// message over a slow pipe is no error.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn queue_message(&self, id: QueueId) -> Result<Octets, Error> {
        let request = self.request(Method::GET, &format!("/queue/{id}/message"));
        Ok(Octets(positive(request.send().await?).await?))
    }

    /// Puts an exported message back. The caller's patience is the only deadline.
    ///
    /// # Errors
    /// [`Error`]; 409 when it is in the queue.
    pub async fn queue_import(
        &self,
        envelope: &QueueDetail,
        message: tokio::fs::File,
    ) -> Result<Imported, Error> {
        // A struct of texts and numbers always has a JSON form.
        let mut line = serde_json::to_vec(envelope).unwrap_or_default();
        line.push(b'\n');
        let body = ReaderStream::with_capacity(io::Cursor::new(line).chain(message), CHUNK_LEN);
        let request = self.request(Method::POST, "/queue/import");
        json(request.body(reqwest::Body::wrap_stream(body))).await
    }

    /// Applies `operation` to the selected messages.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn operate(
        &self,
        operation: Operation,
        selector: &Selector,
    ) -> Result<Operated, Error> {
        let verb = match operation {
            Operation::Retry => "retry",
            Operation::Hold => "hold",
            Operation::Release => "release",
            Operation::Delete => "delete",
        };
        self.post(&format!("/queue/{verb}"), selector).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &(impl Serialize + ?Sized),
    ) -> Result<T, Error> {
        let request = self.request(Method::GET, path).query(query);
        json(request.timeout(ANSWER_DEADLINE)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, Error> {
        let request = self.request(Method::POST, path).json(body);
        json(request.timeout(ANSWER_DEADLINE)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{BASE}/api/v1{path}"))
    }
}

/// The octets of a message, arriving.
#[derive(Debug)]
pub struct Octets(Response);

impl Octets {
    /// The next octets; `None`: that was all.
    ///
    /// # Errors
    /// [`Error::Http`].
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        Ok(self.0.chunk().await?)
    }
}

async fn json<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Error> {
    Ok(positive(request.send().await?).await?.json().await?)
}

/// Passes on what is 2xx and reads what is not as a [`Problem`].
async fn positive(response: Response) -> Result<Response, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json");
    if is_problem {
        return Err(Error::Problem(response.json().await?));
    }
    Err(Error::Problem(Problem {
        title: String::new(),
        status: status.as_u16(),
        detail: format!("the daemon answered {status}"),
        remedy: Some("it may be of another version than this program: compare `--version`".into()),
        problems: Vec::new(),
        fields: Box::default(),
    }))
}

fn account_path(account: &AccountName, verb: &str) -> String {
    format!("/accounts/{}/{verb}", segment(account.as_str()))
}

/// A text as one segment of a path: whatever a person typed cannot name another route.
fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with slashes or dots stays one segment.
    #[test]
    fn a_name_is_one_segment_of_a_path() {
        for (name, wanted) in [
            ("alerts", "alerts"),
            ("a/../b", "a%2F%2E%2E%2Fb"),
            ("bu\u{e4}", "bu%C3%A4"),
            ("..", "%2E%2E"),
        ] {
            assert_eq!(segment(name), wanted);
        }
    }
}
