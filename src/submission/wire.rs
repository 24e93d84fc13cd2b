//! The stream of a session with its buffers: reads with a deadline, writes in one piece.

use std::{pin::Pin, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{self, Instant},
};

use crate::smtp::replies::Reply;

/// The read buffer between messages: a pipelined envelope fits, an idle session stays small.
const COMMAND_READ_LEN: usize = 4 * 1024;
/// The read buffer in data: large messages take few system calls.
const DATA_READ_LEN: usize = 32 * 1024;
/// Replies gathered at most before they are written, so that nobody makes us hold many.
const OUTPUT_LEN_MAX: usize = 8 * 1024;
/// How long a message that is being sent may take when we are told to stop.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How long we listen after our last word, so that it is not lost to a reset.
const LINGER: Duration = Duration::from_secs(2);
/// How much of what the client still sends is read then.
const LINGER_LEN_MAX: usize = 256 * 1024;

/// Why no more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    /// The client is gone.
    Closed,
    /// A deadline passed.
    TimedOut,
    /// We are told to stop.
    Stopped,
}

/// A stream, what was read of it and not used, and what waits to be written.
pub(super) struct Wire<'a, S, F> {
    stream: S,
    pub(super) input: BytesMut,
    output: Vec<u8>,
    /// Resolves when we are told to stop; polled until then only.
    stopped: Pin<&'a mut F>,
    /// When data must be done, once we are told to stop.
    grace: Option<Instant>,
}

impl<'a, S, F> Wire<'a, S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    pub(super) fn new(stream: S, stopped: Pin<&'a mut F>) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: Vec::new(),
            stopped,
            grace: None,
        }
    }

    /// Queues a reply; it goes out before anything is read again.
    pub(super) fn put(&mut self, reply: &Reply) {
        self.output.extend_from_slice(reply.0.as_bytes());
    }

    pub(super) fn consume(&mut self, octets: usize) {
        // Never more than is there; `advance` would panic.
        self.input.advance(octets.min(self.input.len()));
    }

    /// Writes when so much is queued that waiting for the next read would cost memory.
    pub(super) async fn flush_if_full(&mut self, deadline: Instant) -> Result<(), Hangup> {
        if self.output.len() > OUTPUT_LEN_MAX {
            self.flush(deadline).await?;
        }
        Ok(())
    }

    /// Resolves when the client is gone: its connection broke, or it closed without saying anything
    /// more. One that has pipelined its QUIT and closed its side still reads. Cancel safe.
    pub(super) async fn gone(&mut self) {
        while self.input.len() < COMMAND_READ_LEN {
            self.input.reserve(COMMAND_READ_LEN);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) if self.input.is_empty() => return,
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        std::future::pending().await
    }

    pub(super) async fn flush(&mut self, deadline: Instant) -> Result<(), Hangup> {
        if self.output.is_empty() {
            return Ok(());
        }
        let Self { stream, output, .. } = self;
        let write = async {
            stream.write_all(output).await?;
            stream.flush().await
        };
        let written = time::timeout_at(deadline, write).await;
        self.output.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Hangup::Closed),
            Err(_) => Err(Hangup::TimedOut),
        }
    }

    /// Reads more for a command line; ends early when we are told to stop.
    pub(super) async fn fill(&mut self, deadline: Instant) -> Result<(), Hangup> {
        self.flush(deadline).await?;
        // An idle session keeps little: what data or a long list of replies needed is given back.
        self.output.shrink_to(COMMAND_READ_LEN);
        if self.input.is_empty() && self.input.capacity() > 2 * COMMAND_READ_LEN {
            self.input = BytesMut::new();
        }
        self.input.reserve(COMMAND_READ_LEN);
        tokio::select! {
            biased;
            () = self.stopped.as_mut() => Err(Hangup::Stopped),
            read = self.stream.read_buf(&mut self.input) => read_some(&read),
            () = time::sleep_until(deadline) => Err(Hangup::TimedOut),
        }
    }

    /// Reads more data; told to stop, it goes on for [`STOP_GRACE`].
    pub(super) async fn fill_data(&mut self, deadline: Instant) -> Result<(), Hangup> {
        self.flush(deadline).await?;
        self.input.reserve(DATA_READ_LEN);
        loop {
            let (ends, hangup) = match self.grace {
                Some(grace) if grace < deadline => (grace, Hangup::Stopped),
                Some(_) | None => (deadline, Hangup::TimedOut),
            };
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.input) => return read_some(&read),
                () = self.stopped.as_mut(), if self.grace.is_none() => {
                    self.grace = Some(Instant::now() + STOP_GRACE);
                }
                () = time::sleep_until(ends) => return Err(hangup),
            }
        }
    }

    /// The stream, everything queued written; none when the client is gone.
    pub(super) async fn into_stream(mut self) -> Option<S> {
        let deadline = Instant::now() + LINGER;
        self.flush(deadline).await.ok()?;
        Some(self.stream)
    }

    /// Writes what is queued and closes: says that we are done, then listens for a moment, because
    /// closing a socket with unread octets resets it and our last reply with it.
    pub(super) async fn close(mut self) {
        let deadline = Instant::now() + LINGER;
        if self.flush(deadline).await.is_err() {
            return;
        }
        let Self { stream, input, .. } = &mut self;
        let linger = async {
            stream.shutdown().await?;
            let mut octets = 0;
            while octets < LINGER_LEN_MAX {
                input.clear();
                input.reserve(COMMAND_READ_LEN);
                match stream.read_buf(input).await? {
                    0 => break,
                    some => octets += some,
                }
            }
            std::io::Result::Ok(())
        };
        // Whatever goes wrong now, the session is over.
        drop(time::timeout_at(deadline, linger).await);
    }
}

fn read_some(read: &std::io::Result<usize>) -> Result<(), Hangup> {
    match read {
        Ok(0) | Err(_) => Err(Hangup::Closed),
        Ok(_) => Ok(()),
    }
}
