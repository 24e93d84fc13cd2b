//! A stream of which some octets were read already: they come first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream, and what was read of it to find out what it is.
#[derive(Debug)]
pub(super) struct Begun<S> {
    read: BytesMut,
    stream: S,
}

impl<S> Begun<S> {
    /// Nothing was read yet.
    pub(super) fn new(stream: S) -> Self {
        Self {
            read: BytesMut::new(),
            stream,
        }
    }

    /// What was read and not passed on.
    pub(super) fn peeked(&self) -> &[u8] {
        &self.read
    }

    /// Takes octets away from the front of what was read.
    pub(super) fn consume(&mut self, octets: usize) {
        self.read.advance(octets.min(self.read.len()));
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Reads more, up to `len_max` in all; how many octets more there are. Cancel safe.
    pub(super) async fn peek(&mut self, len_max: usize) -> io::Result<usize> {
        let room = len_max.saturating_sub(self.read.len());
        let mut some = (&mut self.stream).take(u64::try_from(room).unwrap_or(u64::MAX));
        self.read.reserve(room);
        some.read_buf(&mut self.read).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let octets = self.read.len().min(buffer.remaining());
        buffer.put_slice(self.read.get(..octets).unwrap_or_default());
        self.consume(octets);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
