//! The API, one function a route. Each says what may be asked; the parts below do it.
//!
//! What changes something runs to its end even when the client goes away ([`to_its_end`]).

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;

use super::{
    ReloadRequest, Shared,
    api::{
        Account, Listener, Notified, Operated, PastedAddress, Problem, QueueDetail, QueueEntry,
        QueuePage, QueueQuery, QueueState, Reloaded, Selector, Setting, SignInQuery, SignInRequest,
        SignInState, SignedIn, SignedOut, Status, TestRequest, Tested, TracePage, TraceQuery,
    },
    made::Who,
    problem::{Input, Named, Queried},
};
use crate::{
    mail::{self, AccountName, Address, QueueId},
    net::tasks::Tasks,
    notify::{Channel, Tried},
    oauth::{Rotated, SignIn},
    queue::{Counts, Operation, trace::Search},
    store::{self, EntryState, Filter},
    submission::{ClientSeen, Submission},
};

pub(super) type AppState = State<Arc<Shared>>;
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// The document that describes this API; a test compares it with the routes.
const OPENAPI: &str = include_str!("openapi.json");
/// Entries of a page: at a few hundred octets each, well under a megabyte of JSON.
const PAGE_LEN_MAX: u32 = 1000;
/// Messages of a page of the trace, each with all that happened to it.
const TRACE_PAGE_LEN_MAX: u32 = 100;
/// A question about a sign-in is answered after this at the latest; the client asks again.
const SIGN_IN_WAIT_MAX: Duration = Duration::from_secs(60);
/// Octets read from a body file at once.
const CHUNK_LEN: usize = 64 * 1024;

pub(super) async fn openapi() -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, JSON)], OPENAPI).into_response()
}

pub(super) async fn status(State(shared): AppState) -> Json<Status> {
    let view = shared.view();
    let submission = shared.submission.get();
    let bound = submission.map(|submission| submission.addresses());
    let listeners = bound.unwrap_or_default().into_iter();
    Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        state_dir: view.state_dir.clone(),
        config_file: view.config_file.clone(),
        listeners: listeners
            .map(|(name, address)| Listener { name, address })
            .collect(),
        console: shared.console.get().copied(),
        not_ready: shared.not_ready(),
    })
}

pub(super) async fn settings(State(shared): AppState) -> Json<Vec<Setting>> {
    Json(shared.view().settings.clone())
}

pub(super) async fn reload(State(shared): AppState) -> Answer<Reloaded> {
    let (answer, answered) = oneshot::channel();
    let asked = shared.parts.reload.send(ReloadRequest(answer)).await;
    if asked.is_err() {
        return Err(
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping")
                .remedy("ask again when it is up"),
        );
    }
    match answered.await {
        Ok(Ok(reloaded)) => Ok(Json(reloaded)),
        Ok(Err(problems)) => {
            let mut problem = Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the new configuration is not taken, the old one stays in force",
            );
            problem.problems = problems;
            Err(problem)
        }
        Err(_) => Err(Problem::lost()),
    }
}

pub(super) async fn rotate_key(State(shared): AppState) -> Answer<Rotated> {
    let (oauth, registry) = (shared.parts.oauth.clone(), shared.parts.registry.clone());
    let rotated = to_its_end(&shared.parts.tasks, "rotate_key", async move {
        let others = |seal| async move { registry.reseal(seal).await };
        oauth.rotate_key(others).await
    });
    Ok(Json(rotated.await.ok_or_else(Problem::lost)??))
}

pub(super) async fn accounts(State(shared): AppState) -> Answer<Vec<Account>> {
    Ok(Json(shared.accounts().await?))
}

pub(super) async fn clients(State(shared): AppState) -> Json<Vec<ClientSeen>> {
    let submission = shared.submission.get();
    Json(submission.map(Submission::clients).unwrap_or_default())
}

pub(super) async fn sign_in(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    Input(request): Input<SignInRequest>,
) -> Answer<SignIn> {
    shared.known(&name)?;
    let begun = shared.parts.oauth.begin_sign_in(&name, request.device);
    Ok(Json(begun.await?))
}

pub(super) async fn sign_in_state(
    State(shared): AppState,
    Named(id): Named<String>,
    Queried(query): Queried<SignInQuery>,
) -> Json<SignInState> {
    let wait = Duration::from_secs(query.wait).min(SIGN_IN_WAIT_MAX);
    let result = shared.parts.oauth.sign_in_result(&id);
    let state = tokio::select! {
        result = result => match result {
            Ok(()) => SignInState::SignedIn,
            Err(diagnosis) => SignInState::Refused(diagnosis),
        },
        () = tokio::time::sleep(wait) => SignInState::Pending,
        () = shared.parts.tasks.stopped() => SignInState::Pending,
    };
    Json(state)
}

pub(super) async fn cancel_sign_in(
    State(shared): AppState,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    if shared.parts.oauth.cancel_sign_in(&id) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let what = "no such sign-in is under way";
    Err(Problem::new(StatusCode::NOT_FOUND, what).remedy("it has ended, or is ending now"))
}

pub(super) async fn pasted(
    State(shared): AppState,
    Input(pasted): Input<PastedAddress>,
) -> Answer<SignedIn> {
    let account = shared.parts.oauth.callback(&pasted.address).await?;
    Ok(Json(SignedIn { account }))
}

pub(super) async fn sign_out(
    State(shared): AppState,
    Named(name): Named<AccountName>,
) -> Answer<SignedOut> {
    shared.known(&name)?;
    let oauth = shared.parts.oauth.clone();
    let signed_out = to_its_end(&shared.parts.tasks, "sign_out", async move {
        oauth.sign_out(&name).await
    });
    let unrevoked = signed_out.await.ok_or_else(Problem::lost)??;
    let revoked = unrevoked.is_none();
    let (reason, remedy) = unrevoked.map(|left| (left.reason, left.remedy)).unzip();
    Ok(Json(SignedOut {
        revoked,
        reason,
        remedy,
    }))
}

pub(super) async fn test(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    Input(request): Input<TestRequest>,
) -> Answer<Tested> {
    shared.known(&name)?;
    let to = Address::parse(request.to.trim()).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, error.to_string())
            .remedy("give an address whose mail you can read, as me@example.com")
    })?;
    let steps = shared.parts.delivery.probe(&name, to).await;
    Ok(Json(Tested { steps }))
}

pub(super) async fn test_notify(State(shared): AppState) -> Answer<Notified> {
    let channels = shared.test_notify(None).await?;
    Ok(Json(Notified { channels }))
}

pub(super) async fn doctor(
    State(shared): AppState,
    Named(name): Named<AccountName>,
) -> Answer<Tested> {
    shared.known(&name)?;
    let steps = shared.parts.delivery.examine(&name).await;
    let steps = steps.unwrap_or_default();
    Ok(Json(Tested { steps }))
}

pub(super) async fn queue(
    State(shared): AppState,
    Queried(query): Queried<QueueQuery>,
) -> Answer<QueuePage> {
    let limit = query.limit.unwrap_or(PAGE_LEN_MAX).clamp(1, PAGE_LEN_MAX);
    let filter = Filter {
        account: query.account,
        sender: query.sender,
        recipient: query.recipient,
        state: query.state.and_then(stored_state),
        after: query.after,
        limit: Some(limit),
        ..Filter::default()
    };
    let found = shared.parts.queue.list(filter).await?;
    let full = u32::try_from(found.len()).is_ok_and(|found| found >= limit);
    let next = found.last().filter(|_| full).map(|entry| entry.id);
    let leased = shared.leased();
    let entries = found.iter();
    let entries = entries
        .map(|entry| QueueEntry::new(entry, leased.contains(&entry.id)))
        .filter(|entry| query.state.is_none_or(|state| entry.state == state));
    Ok(Json(QueuePage {
        entries: entries.collect(),
        next,
    }))
}

/// What the store can pick by itself; the rest is told apart above it. Held in a listing means held
/// or quarantined, so the store cannot pick it by one state.
pub(super) fn stored_state(state: QueueState) -> Option<EntryState> {
    match state {
        QueueState::Held => None,
        QueueState::Queued
        | QueueState::Delivering
        | QueueState::Deferred
        | QueueState::Uncertain => Some(EntryState::Queued),
    }
}

pub(super) async fn queue_entry(
    State(shared): AppState,
    Named(id): Named<QueueId>,
) -> Answer<QueueDetail> {
    let detail = shared.detail(id).await?;
    Ok(Json(detail.ok_or_else(|| Problem::no_message(id))?))
}

/// The octets as they were accepted (a quarantined message's as they are now), streamed. The audit
/// log tells who has read them.
pub(super) async fn queue_message(
    State(shared): AppState,
    who: Who,
    Named(id): Named<QueueId>,
) -> Result<Response, Problem> {
    const MESSAGE: HeaderValue = HeaderValue::from_static("message/rfc822");
    let read = shared.parts.queue.read(id).await?;
    let (_, message) = read.ok_or_else(|| Problem::no_message(id))?;
    who.read(id);
    let body = match message.body {
        mail::Body::Memory(octets) => Body::from(octets),
        // Once open, the file outlives its name: a delivery meanwhile does not cut the answer off.
        mail::Body::File(file) => match tokio::fs::File::open(&file.path).await {
            Ok(opened) => Body::from_stream(ReaderStream::with_capacity(opened, CHUNK_LEN)),
            Err(error) => return Err(Problem::unreadable(&error)),
        },
    };
    Ok(([(header::CONTENT_TYPE, MESSAGE)], body).into_response())
}

pub(super) async fn trace(
    State(shared): AppState,
    Queried(query): Queried<TraceQuery>,
) -> Answer<TracePage> {
    let limit = query.limit.unwrap_or(TRACE_PAGE_LEN_MAX);
    let limit = limit.clamp(1, TRACE_PAGE_LEN_MAX);
    let search = Search {
        text: query.query,
        account: query.account,
        sender: query.sender,
        recipient: query.recipient,
        since: query.since,
        until: query.until,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = shared
        .parts
        .queue
        .search_trace(search, query.before, limit)
        .await?;
    Ok(Json(TracePage {
        messages: page.found,
        next: page.next,
    }))
}

pub(super) async fn operate(
    operation: Operation,
    State(shared): AppState,
    Input(selector): Input<Selector>,
) -> Answer<Operated> {
    if selector.is_empty() {
        return Err(
            Problem::new(StatusCode::BAD_REQUEST, "no message is selected")
                .remedy("give ids, an account, a sender pattern, or all"),
        );
    }
    if let Some(account) = &selector.account {
        shared.known(account)?;
    }
    let task = Arc::clone(&shared);
    let operated = to_its_end(&shared.parts.tasks, "queue_operation", async move {
        task.operate(selector, operation).await
    });
    let count = operated.await.ok_or_else(Problem::lost)??;
    Ok(Json(Operated { operation, count }))
}

impl Shared {
    /// Sends a test notice, `only` one way or each that is set; what became of each.
    ///
    /// # Errors
    /// None is set.
    pub(super) async fn test_notify(&self, only: Option<Channel>) -> Result<Vec<Tried>, Problem> {
        let notify = self.parts.notify.clone();
        let tried = to_its_end(&self.parts.tasks, "test_notify", async move {
            notify.test(only).await
        });
        let channels = tried.await.ok_or_else(Problem::lost)?;
        if channels.is_empty() {
            let nobody = "nobody is told: no way is set in [notify]";
            return Err(Problem::new(StatusCode::CONFLICT, nobody).remedy(
                "set notify.webhook, notify.command, or notify.account and notify.to; then \
                 `gatepost reload`",
            ));
        }
        Ok(channels)
    }

    /// Every account as it stands.
    pub(super) async fn accounts(&self) -> Result<Vec<Account>, store::Error> {
        let counts = self.parts.queue.counts().await?;
        Ok(self.accounts_with(&counts))
    }

    /// Every account as it stands, with these counts of what waits.
    pub(super) fn accounts_with(&self, counts: &[(AccountName, Counts)]) -> Vec<Account> {
        let now = self.parts.clock.now();
        let view = self.view();
        let accounts = view.accounts.iter().map(|facts| {
            let counts = counts.iter().find(|(name, _)| *name == facts.name);
            let token = self.parts.oauth.status(&facts.name);
            let lane = self.parts.delivery.status(&facts.name);
            let queued = counts.map_or(0, |(_, counts)| counts.queued);
            Account::new(facts, token, lane, queued, now)
        });
        accounts.collect()
    }

    pub(super) fn known(&self, name: &AccountName) -> Result<(), Problem> {
        let view = self.view();
        if view.accounts.iter().any(|facts| facts.name == *name) {
            return Ok(());
        }
        Err(Problem::no_account(name))
    }

    /// A message with the whole of its envelope, and what to do about it; none: it is not in the
    /// queue.
    pub(super) async fn detail(&self, id: QueueId) -> Result<Option<QueueDetail>, store::Error> {
        let Some((entry, digest)) = self.parts.queue.find(id).await? else {
            return Ok(None);
        };
        let delivering = self.leased().contains(&id);
        Ok(Some(QueueDetail {
            remedy: self.remedy(&entry),
            ..QueueDetail::new(&entry, digest, delivering)
        }))
    }

    /// What a person does about a message; none: it goes on by itself.
    pub(super) fn remedy(&self, entry: &store::Entry) -> Option<String> {
        let reason = entry.reason.as_deref().unwrap_or_default();
        let known = self.parts.delivery.remedy(&entry.account, reason);
        match (entry.state, known) {
            (EntryState::Queued, known) => known,
            (EntryState::Held, Some(known)) => Some(format!("{known}; then release the message")),
            (EntryState::Held, None) => Some("release it to send it, or delete it".to_owned()),
            (EntryState::Quarantined, _) => Some(
                "export it for a look, then delete it or ask its sender to send it again"
                    .to_owned(),
            ),
        }
    }

    pub(super) fn leased(&self) -> HashSet<QueueId> {
        self.parts.queue.leased().into_iter().collect()
    }

    /// Applies the operation; mail that was told to go also finds its lane awake.
    async fn operate(&self, selector: Selector, operation: Operation) -> Result<u64, Problem> {
        let woken = self.woken(operation, selector.account.as_ref(), selector.all);
        let count = self.parts.queue.operate(selector.into(), operation).await?;
        for account in woken {
            self.parts.delivery.wake(&account);
        }
        Ok(count)
    }

    /// The accounts that a person tells to go on with an operation on all that one has, or on
    /// everything: their lanes try at once.
    pub(super) fn woken(
        &self,
        operation: Operation,
        account: Option<&AccountName>,
        all: bool,
    ) -> Vec<AccountName> {
        match operation {
            Operation::Hold | Operation::Delete => Vec::new(),
            Operation::Retry | Operation::Release => match account {
                Some(account) => vec![account.clone()],
                None if all => {
                    let view = self.view();
                    let names = view.accounts.iter().map(|facts| facts.name.clone());
                    names.collect()
                }
                None => Vec::new(),
            },
        }
    }
}

/// Runs `future` as a task of its own, so that a client that goes away does not cancel it half-way.
/// `None`: it panicked.
pub(super) async fn to_its_end<F>(tasks: &Tasks, name: &'static str, future: F) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    tasks.spawn(name, async move {
        let output = future.await;
        if answer.send(output).is_err() {
            tracing::debug!(event = "client_left", name);
        }
    });
    answered.await.ok()
}
