//! Who keeps the tokens: the running daemon, or, when none runs, this process.
//!
//! Without a daemon the store is opened here (its lock keeps any daemon out meanwhile) and the
//! callback is served on the console's address, so a sign-in goes the same way in either case.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use anyhow::Context as _;

use super::{
    Context,
    reach::{self, Unreachable},
};
use crate::{
    admin::{
        CallbackServer, Certificate,
        api::{Account, SignInState},
        client::{self, Client},
    },
    clock::{Clock, SystemClock},
    config::Config,
    daemon::beginning::Beginning,
    mail::AccountName,
    net::tasks::Tasks,
    oauth::{Diagnosis, Oauth, Rotated, SignIn},
    registry::Registry,
    store::Store,
    telemetry::Metrics,
};

/// How long the daemon is given to say that a sign-in has just ended.
const ENDED_WAIT_S: u64 = 1;

/// The keeper of tokens.
#[derive(Debug)]
pub(super) enum Keeper {
    /// Over the control socket.
    Daemon(Client),
    /// In this process.
    Here(Box<Here>),
}

/// What a sign-in needs when no daemon runs.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) oauth: Oauth,
    pub(super) tasks: Tasks,
    pub(super) store: Store,
    registry: Registry,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    console: Option<SocketAddr>,
    certificate: Option<Certificate>,
}

impl Keeper {
    /// The daemon if one runs, else this process.
    ///
    /// # Errors
    /// A daemon that may not be asked, a configuration with problems, a store that does not open.
    pub(super) async fn reach(context: &Context) -> anyhow::Result<Self> {
        match reach::connect(&context.sources).await {
            Ok(client) => Ok(Self::Daemon(client)),
            Err(Unreachable::NotRunning(_)) => Ok(Self::Here(Box::new(open(context).await?.0))),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins a sign-in.
    pub(super) async fn begin(
        &self,
        account: &AccountName,
        device: bool,
    ) -> anyhow::Result<SignIn> {
        match self {
            Self::Daemon(client) => Ok(client.begin_sign_in(account, device).await?),
            Self::Here(here) => Ok(here.oauth.begin_sign_in(account, device).await?),
        }
    }

    /// Serves the callback in this process; the daemon does it by itself.
    ///
    /// # Errors
    /// The console's address is taken, or there is none.
    pub(super) async fn serve_callback(&self) -> anyhow::Result<Option<CallbackServer>> {
        let Self::Here(here) = self else {
            return Ok(None);
        };
        let address = here.console.context(
            "no console address is configured to take the answer on; use --no-browser or --device",
        )?;
        let server =
            CallbackServer::start(address, here.certificate.clone(), here.oauth.clone()).await;
        Ok(Some(server.context(
            "the answer of the sign-in cannot be taken; use --no-browser or --device",
        )?))
    }

    /// Waits for the end of a sign-in. Cancel safe.
    pub(super) async fn result(&self, id: &str) -> anyhow::Result<Result<(), Diagnosis>> {
        let client = match self {
            Self::Here(here) => return Ok(here.oauth.sign_in_result(id).await),
            Self::Daemon(client) => client,
        };
        loop {
            match client.sign_in_state(id).await? {
                SignInState::Pending => {}
                SignInState::SignedIn => return Ok(Ok(())),
                SignInState::Refused(diagnosis) => return Ok(Err(diagnosis)),
            }
        }
    }

    /// How a sign-in has ended, if it has by now.
    pub(super) async fn ended(&self, id: &str) -> anyhow::Result<Option<Result<(), Diagnosis>>> {
        match self {
            Self::Daemon(client) => {
                let state = client.sign_in_state_within(id, ENDED_WAIT_S).await?;
                Ok(match state {
                    SignInState::Pending => None,
                    SignInState::SignedIn => Some(Ok(())),
                    SignInState::Refused(diagnosis) => Some(Err(diagnosis)),
                })
            }
            Self::Here(here) => Ok(tokio::select! {
                biased;
                result = here.oauth.sign_in_result(id) => Some(result),
                () = std::future::ready(()) => None,
            }),
        }
    }

    /// The account as a running daemon knows it; `None`: no daemon runs.
    pub(super) async fn account(&self, name: &AccountName) -> anyhow::Result<Option<Account>> {
        let Self::Daemon(client) = self else {
            return Ok(None);
        };
        let accounts = client.accounts().await?;
        Ok(accounts.into_iter().find(|account| account.name == *name))
    }

    /// Where the console listens, whoever serves it.
    pub(super) async fn console(&self) -> Option<SocketAddr> {
        match self {
            Self::Daemon(client) => client.status().await.ok()?.console,
            Self::Here(here) => here.console,
        }
    }

    /// Takes a pasted redirect address. The inner error is worth another try.
    pub(super) async fn paste(&self, address: &str) -> anyhow::Result<Result<AccountName, String>> {
        match self {
            Self::Daemon(client) => match client.paste(address.into()).await {
                Ok(signed_in) => Ok(Ok(signed_in.account)),
                Err(client::Error::Problem(problem)) => Ok(Err(problem.to_string())),
                Err(error) => Err(error.into()),
            },
            Self::Here(here) => {
                let redeemed = here.oauth.callback(address).await;
                Ok(redeemed.map_err(|diagnosis| diagnosis.to_string()))
            }
        }
    }

    /// Forgets an account's tokens; `None`: the provider confirmed, else what is left to do.
    pub(super) async fn sign_out(
        &self,
        account: &AccountName,
    ) -> anyhow::Result<Option<Diagnosis>> {
        match self {
            Self::Daemon(client) => {
                let answer = client.sign_out(account).await?;
                let left = Diagnosis {
                    reason: answer.reason.unwrap_or_default(),
                    remedy: answer.remedy.unwrap_or_default(),
                };
                Ok((!answer.revoked).then_some(left))
            }
            Self::Here(here) => Ok(here.oauth.sign_out(account).await?),
        }
    }

    /// Seals every token with another key.
    pub(super) async fn rotate_key(&self) -> anyhow::Result<Rotated> {
        match self {
            Self::Daemon(client) => Ok(client.rotate_key().await?),
            Self::Here(here) => {
                let others = |seal| here.registry.reseal(seal);
                Ok(here.oauth.rotate_key(others).await?)
            }
        }
    }

    /// Finishes what this process has begun.
    pub(super) async fn close(self) {
        if let Self::Here(here) = self {
            here.close().await;
        }
    }
}

impl Here {
    /// Finishes what this process has begun.
    pub(super) async fn close(&self) {
        self.tasks.stop();
        self.tasks.drained().await;
    }
}

/// Opens the store and the tokens in this process.
///
/// # Errors
/// A configuration with problems, a store that does not open or is another user's.
pub(super) async fn open(context: &Context) -> anyhow::Result<(Here, Config)> {
    let sources = context.sources.clone();
    let begin = move || Config::begin(&sources);
    let foundation = tokio::task::spawn_blocking(begin).await??;
    let state_dir = &foundation.store.state_dir;
    refuse_other_owner(state_dir)?;
    context.printer.note(format_args!(
        "No daemon is running; the tokens in {} are used directly.",
        state_dir.display()
    ));
    let metrics = Arc::new(Metrics::new());
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let shared = (Arc::clone(&clock), &metrics);
    let beginning = Beginning::open(foundation, &context.sources, shared).await?;
    let Beginning {
        store,
        registry,
        config,
    } = beginning;
    let tasks = Tasks::new();
    let oauth = Oauth::start(
        config.oauth.clone(),
        store.clone(),
        Arc::clone(&clock),
        tasks.clone(),
        Arc::clone(&metrics),
    );
    let here = Here {
        oauth: oauth.await?,
        tasks,
        store,
        registry,
        clock,
        metrics,
        console: config.admin.address,
        certificate: config.admin.certificate.clone(),
    };
    Ok((here, config))
}

/// Refuses to write into another user's state: the daemon could not read what root leaves there.
fn refuse_other_owner(state_dir: &Path) -> anyhow::Result<()> {
    // The directory of this process belongs to its effective user; where there is none, nobody asks.
    let owners = (fs::metadata(state_dir), fs::metadata("/proc/self"));
    let (Ok(theirs), Ok(ours)) = owners else {
        return Ok(()); // Not made yet: it will be ours.
    };
    anyhow::ensure!(
        theirs.uid() == ours.uid(),
        "{dir} belongs to user {uid}: run this as that user (sudo -u '#{uid}' gatepost ...), or start \
         the daemon first",
        dir = state_dir.display(),
        uid = theirs.uid(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own directory and one that does not exist yet are fine; somebody else's is not.
    #[test]
    fn another_users_state_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_other_owner(dir.path()).is_ok());
        assert!(refuse_other_owner(&dir.path().join("new")).is_ok());
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        // Only root can give a directory away; others have shown the rest above.
        if std::os::unix::fs::chown(&theirs, Some(65_534), None).is_ok() {
            let refused = refuse_other_owner(&theirs).unwrap_err().to_string();
            assert!(refused.contains("sudo -u '#65534'"), "{refused}");
        }
    }
}
