//! One of the ways on which a message can be said, ready for it.

use std::{future::Future, time::Duration};

use super::{Answers, Failure, Job, Phase, api, smtp};
use crate::{mail::Reply, oauth::Service, secret::Secret};

/// What carries a message.
#[derive(Debug)]
pub(crate) enum Link {
    /// An authenticated connection.
    Smtp(Box<smtp::Connection>),
    /// An API with a token.
    Api(Box<api::Session>),
    /// No way at all for this message: every recipient gets this reply.
    Closed(Reply),
}

impl Link {
    /// What its token opens; `None`: it carries nothing.
    pub(crate) fn service(&self) -> Option<Service> {
        match self {
            Self::Smtp(_) => Some(Service::Smtp),
            Self::Api(session) => Some(session.service()),
            Self::Closed(_) => None,
        }
    }

    /// Whether whoever takes the message reports about it as its sender asked (RFC 3461).
    pub(crate) fn reports_itself(&self) -> bool {
        match self {
            Self::Smtp(connection) => connection.capabilities().dsn(),
            Self::Api(_) | Self::Closed(_) => false,
        }
    }

    /// Whether octets above 127 are taken as they are.
    pub(crate) fn eight_bit(&self) -> bool {
        match self {
            Self::Smtp(connection) => connection.capabilities().eight_bit_mime(),
            Self::Api(_) | Self::Closed(_) => true,
        }
    }

    /// How long each step took since this was asked last.
    pub(crate) fn take_times(&mut self) -> Vec<(&'static str, Duration)> {
        match self {
            Self::Smtp(connection) => connection.journal().take_times(),
            Self::Api(session) => session.journal().take_times(),
            Self::Closed(_) => Vec::new(),
        }
    }

    /// Whether another transaction can be tried.
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Smtp(connection) => connection.is_usable(),
            Self::Api(session) => session.is_usable(),
            Self::Closed(_) => false,
        }
    }

    /// Takes a newer token, where each request shows it anew.
    pub(crate) fn renew(&mut self, token: Secret) {
        match self {
            Self::Api(session) => session.renew(token),
            Self::Smtp(_) | Self::Closed(_) => {}
        }
    }

    /// Sends one message; see [`smtp::Connection::transact`] and [`api::Session::transact`].
    ///
    /// # Errors
    /// [`Failure`].
    ///
    /// # Cancel safety
    /// Not cancel safe: the message may have been taken.
    pub(crate) async fn transact(
        &mut self,
        job: &Job<'_>,
        ready: impl Future<Output = bool>,
    ) -> Result<Answers, Failure> {
        match self {
            Self::Smtp(connection) => connection.transact(job, ready).await,
            Self::Api(session) => Box::pin(session.transact(job, ready)).await,
            Self::Closed(reply) => {
                let same = |_| (Phase::Data, reply.clone());
                Ok(job.recipients.iter().map(same).collect())
            }
        }
    }

    /// Says goodbye, where somebody listens.
    pub(crate) async fn quit(self) {
        match self {
            Self::Smtp(connection) => connection.quit().await,
            Self::Api(_) | Self::Closed(_) => {}
        }
    }
}
