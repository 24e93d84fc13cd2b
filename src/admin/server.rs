//! The two doors: which routes stand at the control socket and which at the TCP addresses.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use tokio::net::TcpListener;

use super::{
    Admin, Certificate, Config, Error, Parts, Shared, View,
    api::Problem,
    callback, connection, console,
    guard::{self, Hosts},
    handlers, health, import,
    made::{accounts, allowed, keys, logins, presets, providers},
    socket, watch,
};
use crate::{queue::Operation, telemetry::Metrics};

/// Every route of the API below [`API`]. One list, so that a test can hold `openapi.json` to it.
type Routes = Vec<(&'static str, Method, MethodRouter<Arc<Shared>>)>;

/// Where the API is.
pub(super) const API: &str = "/api/v1";
/// A request body: some ten thousand queue ids fit.
pub(super) const BODY_LEN_MAX: usize = 256 * 1024;

/// See [`Admin::start`].
pub(super) async fn start(config: &Config, view: View, parts: Parts) -> Result<Admin, Error> {
    let certificate = config.certificate.as_ref();
    let certificate = certificate.map(Certificate::open).transpose()?;
    let console = bind("console", config.address).await?;
    let metrics = bind("metrics", config.metrics_address).await?;
    let (control, control_file) = socket::bind(&config.socket).await?;
    let shared = Arc::new(Shared {
        parts,
        access: console::Access::new(view.access(), certificate.is_some()),
        view: std::sync::Mutex::new(Arc::new(view)),
        submission: std::sync::OnceLock::new(),
        console: std::sync::OnceLock::new(),
        pulse: console::live::Pulse::default(),
        history: console::history::History::default(),
        returns: console::kept::Kept::default(),
        typed: console::kept::Kept::default(),
        runs: console::runs::Runs::default(),
        trials: console::trials::Trials::default(),
    });
    let tasks = &shared.parts.tasks;
    tasks.spawn("watch", watch::run(Arc::clone(&shared)));
    let serving = connection::serve(control, control_router(&shared), tasks.clone());
    tasks.spawn("control_socket", async move {
        serving.await;
        drop(control_file);
    });
    let mut admin = Admin {
        shared: Arc::clone(&shared),
        console: None,
        metrics: None,
    };
    let metrics_apart = metrics.is_some();
    if let Some((listener, address)) = metrics {
        let router = metrics_router(Arc::clone(&shared.parts.metrics));
        let serving = connection::serve(listener, router, tasks.clone());
        tasks.spawn("metrics_server", serving);
        admin.metrics = Some(address);
    }
    if let Some((listener, address)) = console {
        shared.access.bound(address);
        tasks.spawn("console_watch", console::live::watch(Arc::clone(&shared)));
        let router = console_router(&shared, metrics_apart);
        let serving = connection::serve_with(listener, certificate, router, tasks.clone());
        tasks.spawn("console", serving);
        admin.console = shared.console.set(address).ok().map(|()| address);
    }
    Ok(admin)
}

async fn bind(
    what: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<(TcpListener, SocketAddr)>, Error> {
    let Some(address) = address else {
        return Ok(None);
    };
    let failed = |source| Error::Bind {
        what,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok(Some((listener, bound)))
}

fn routes() -> Routes {
    vec![
        ("/openapi.json", Method::GET, get(handlers::openapi)),
        ("/status", Method::GET, get(handlers::status)),
        ("/settings", Method::GET, get(handlers::settings)),
        ("/reload", Method::POST, post(handlers::reload)),
        ("/rotate-key", Method::POST, post(handlers::rotate_key)),
        ("/console/invitation", Method::POST, post(console::invite)),
        ("/accounts", Method::GET, get(handlers::accounts)),
        (
            "/accounts/{name}/sign-in",
            Method::POST,
            post(handlers::sign_in),
        ),
        (
            "/accounts/{name}/sign-out",
            Method::POST,
            post(handlers::sign_out),
        ),
        ("/accounts/{name}/test", Method::POST, post(handlers::test)),
        (
            "/accounts/{name}/doctor",
            Method::POST,
            post(handlers::doctor),
        ),
        ("/notify/test", Method::POST, post(handlers::test_notify)),
        ("/sign-ins/callback", Method::POST, post(handlers::pasted)),
        ("/sign-ins/{id}", Method::GET, get(handlers::sign_in_state)),
        (
            "/sign-ins/{id}",
            Method::DELETE,
            delete(handlers::cancel_sign_in),
        ),
        ("/clients", Method::GET, get(handlers::clients)),
        ("/queue", Method::GET, get(handlers::queue)),
        ("/queue/{id}", Method::GET, get(handlers::queue_entry)),
        ("/queue/import", Method::POST, post(import::import)),
        (
            "/queue/{id}/message",
            Method::GET,
            get(handlers::queue_message),
        ),
        ("/trace", Method::GET, get(handlers::trace)),
        ("/queue/retry", Method::POST, operation(Operation::Retry)),
        ("/queue/hold", Method::POST, operation(Operation::Hold)),
        (
            "/queue/release",
            Method::POST,
            operation(Operation::Release),
        ),
        ("/queue/delete", Method::POST, operation(Operation::Delete)),
    ]
    .into_iter()
    .chain(made_routes())
    .collect()
}

/// What is made and changed there.
fn made_routes() -> Routes {
    vec![
        ("/presets", Method::GET, get(presets::show)),
        ("/providers", Method::GET, get(providers::list)),
        ("/providers/{name}", Method::GET, get(providers::show)),
        ("/providers/{name}", Method::PUT, put(providers::save)),
        (
            "/providers/{name}",
            Method::DELETE,
            delete(providers::remove),
        ),
        ("/account-settings", Method::GET, get(accounts::list)),
        ("/accounts/{name}", Method::GET, get(accounts::show)),
        ("/accounts/{name}", Method::PUT, put(accounts::save)),
        ("/accounts/{name}", Method::DELETE, delete(accounts::remove)),
        ("/accounts/{name}/hold", Method::POST, post(accounts::hold)),
        (
            "/accounts/{name}/default",
            Method::POST,
            post(accounts::make_default),
        ),
        (
            "/accounts/{name}/release",
            Method::POST,
            post(accounts::release),
        ),
        ("/logins", Method::GET, get(logins::list)),
        ("/logins", Method::POST, post(logins::add)),
        ("/logins/{name}", Method::PUT, put(logins::change)),
        ("/logins/{name}", Method::DELETE, delete(logins::remove)),
        ("/logins/{name}/rotate", Method::POST, post(logins::rotate)),
        ("/logins/{name}/enable", Method::POST, post(logins::enable)),
        (
            "/logins/{name}/disable",
            Method::POST,
            post(logins::disable),
        ),
        ("/keys", Method::GET, get(keys::list)),
        ("/keys", Method::POST, post(keys::add)),
        ("/keys/{name}", Method::DELETE, delete(keys::remove)),
        ("/allowed", Method::GET, get(allowed::list)),
        ("/allowed", Method::POST, post(allowed::add)),
        (
            "/allowed/{network}",
            Method::DELETE,
            delete(allowed::remove),
        ),
    ]
}

fn operation(operation: Operation) -> MethodRouter<Arc<Shared>> {
    post(move |shared, selector| handlers::operate(operation, shared, selector))
}

fn api_router() -> Router<Arc<Shared>> {
    let mut api = Router::new();
    for (path, _, handler) in routes() {
        api = api.route(path, handler);
    }
    api.fallback(not_found)
}

/// The whole API, for whoever may open the socket.
fn control_router(shared: &Arc<Shared>) -> Router {
    let gate = middleware::from_fn_with_state(Arc::clone(shared), console::socket_gate);
    Router::new()
        .nest(API, api_router().layer(gate))
        .merge(probes())
        .route(
            "/metrics",
            get(health::metrics).with_state(Arc::clone(&shared.parts.metrics)),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(Arc::clone(shared))
}

/// What stands at the console's address: some of it for anyone, the pages and the API behind their
/// gates.
fn console_router(shared: &Arc<Shared>, metrics_apart: bool) -> Router {
    let asked = Arc::clone(shared);
    let hosts: Hosts = Arc::new(move || asked.hosts());
    let gate = middleware::from_fn_with_state(Arc::clone(shared), console::api_gate);
    let mut router = probes()
        .merge(console::router(shared))
        .nest(API, api_router().layer(gate))
        .fallback(callback_or_nothing);
    if !metrics_apart {
        let metrics = Arc::clone(&shared.parts.metrics);
        router = router.route("/metrics", get(health::metrics).with_state(metrics));
    }
    guarded(router, hosts).with_state(Arc::clone(shared))
}

/// Puts before `router` what every request over TCP must pass.
fn guarded<S: Clone + Send + Sync + 'static>(router: Router<S>, hosts: Hosts) -> Router<S> {
    router
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(middleware::from_fn_with_state(hosts, guard::host))
        .layer(middleware::from_fn(guard::security_headers))
}

/// An address of its own for scrapers: they come under many names, and there is nothing else here.
fn metrics_router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics).with_state(metrics))
        .fallback(not_found)
        .layer(middleware::from_fn(guard::security_headers))
}

fn probes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
}

/// The callback may be at any path that a profile's redirect URL names, so it is no fixed route.
async fn callback_or_nothing(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let oauth = &shared.parts.oauth;
    if callback::is_callback(uri.path(), &oauth.redirect_urls()) {
        let back = shared.way_back(uri.query().unwrap_or_default());
        return callback::answer(oauth, method, &uri, Some(&back)).await;
    }
    let accepted = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        return console::no_page();
    }
    not_found().await
}

async fn not_found() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "nothing is here").into_response()
}

async fn wrong_method() -> Response {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this address takes another method",
    )
    .into_response()
}

impl Shared {
    /// The host names that the console answers to beside this machine's own.
    fn hosts(&self) -> Vec<String> {
        let mut urls = self.parts.oauth.redirect_urls();
        urls.extend(self.view().public_url.clone());
        urls.iter().filter_map(guard::host_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The document describes every route, and no other.
    #[test]
    fn openapi_describes_exactly_the_routes() {
        let text = include_str!("openapi.json");
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        // Of a key that stands there twice, reading keeps one.
        let quotes = |text: &str| text.matches('"').count();
        assert_eq!(quotes(text), quotes(&document.to_string()), "a key twice");
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let served: BTreeSet<String> = routes()
            .iter()
            .map(|(path, method, _)| format!("{method} {API}{path}"))
            .collect();
        assert_eq!(described, served);
    }

    /// Each operation says which errors are its own, how one asks for it, and what is in its path.
    #[test]
    fn openapi_says_of_each_operation_how_it_can_fail() {
        let document: serde_json::Value =
            serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut ids = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let at = format!("{method} {path}");
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{at}: {id} twice");
                let answers = operation["responses"].as_object().unwrap();
                for wanted in ["401", "default"] {
                    assert!(answers.contains_key(wanted), "{at}: no {wanted}");
                }
                for (status, answer) in answers {
                    let is_error = status == "default" || status.as_str() >= "400";
                    let reference = answer["$ref"].as_str();
                    assert_eq!(is_error, reference.is_some(), "{at}: {status}");
                    let pointer = reference.map(|it| it.trim_start_matches('#'));
                    let told = pointer.map(|it| document.pointer(it).unwrap());
                    let problem = told.map(|told| &told["content"]["application/problem+json"]);
                    assert!(problem.is_none_or(|it| it.is_object()), "{at}: {status}");
                }
                let named = operation["parameters"].as_array();
                let named = named.into_iter().flatten();
                let named = named.filter(|it| it["in"] == "path");
                let named: Vec<_> = named.map(|it| it["name"].as_str().unwrap()).collect();
                let parts = path.split('/').filter_map(|part| part.strip_prefix('{'));
                let parts: Vec<_> = parts.map(|part| part.trim_end_matches('}')).collect();
                assert_eq!(named, parts, "{at}");
                let is_open = path.ends_with("/console/invitation");
                let needs_token = operation["security"].to_string().contains("csrf");
                assert_eq!(needs_token, method != "get" && !is_open, "{at}");
            }
        }
    }

    async fn ask(address: SocketAddr, path: &str, host: &str) -> reqwest::Response {
        let http = reqwest::Client::builder().tls_certs_only([]).no_proxy();
        let request = http.build().unwrap().get(format!("http://{address}{path}"));
        request.header(header::HOST, host).send().await.unwrap()
    }

    /// Over TCP: strange hosts are turned away, and every answer, also of an
    /// error, carries the security headers.
    #[tokio::test]
    async fn the_tcp_address_is_guarded() {
        let hosts: Hosts = Arc::new(|| vec!["relay.example.com".into()]);
        let router = Router::new().route("/healthz", get(health::healthz));
        let router = guarded(router.fallback(not_found), hosts);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = crate::net::tasks::Tasks::new();
        tasks.spawn(
            "console",
            connection::serve(listener, router, tasks.clone()),
        );

        for (path, host, status) in [
            ("/healthz", "localhost", 200),
            ("/healthz", "relay.example.com:443", 200),
            ("/healthz", "evil.example", 421),
            ("/nothing", "localhost", 404),
        ] {
            let answer = ask(address, path, host).await;
            assert_eq!(answer.status(), status, "{path} for {host}");
            let field = |name| answer.headers().get(name).map(|v| v.to_str().unwrap());
            assert_eq!(field("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(field("cache-control"), Some("no-store"), "{path}");
            assert_eq!(field("referrer-policy"), Some("no-referrer"), "{path}");
            let policy = field("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'"), "{path}");
            if status >= 400 {
                assert_eq!(
                    field("content-type"),
                    Some("application/problem+json"),
                    "{path}"
                );
            }
        }
        tasks.stop();
        tasks.drained().await;
    }

    /// What the daemon says no with is what the client's caller reads.
    #[tokio::test]
    async fn a_problem_travels_over_the_control_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (listener, _file) = socket::bind(&path).await.unwrap();
        let refuse = || async {
            let mut problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not taken");
            problem.problems = vec!["listener.tls = \"startls\": use \"starttls\"".into()];
            problem
        };
        let router = Router::new()
            .route("/api/v1/reload", post(refuse))
            .route("/healthz", get(health::healthz));
        let tasks = crate::net::tasks::Tasks::new();
        tasks.spawn(
            "control",
            connection::serve(listener, router, tasks.clone()),
        );

        let client = crate::admin::client::Client::connect(&path).await.unwrap();
        client.healthz().await.unwrap();
        let refused = client.reload().await.unwrap_err().to_string();
        let wanted = "not taken\nlistener.tls = \"startls\": use \"starttls\"";
        assert_eq!(refused, wanted);
        let strange = client.accounts().await.unwrap_err().to_string();
        assert!(
            strange.contains("404") && strange.contains("--version"),
            "{strange}"
        );
        drop(client);
        tasks.stop();
        tasks.drained().await;
    }
}
