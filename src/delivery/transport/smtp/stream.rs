//! A socket with or without TLS, as one type.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::net::dial;

/// A connection upstream.
#[derive(Debug)]
pub(super) enum Stream {
    /// In clear.
    Plain(TcpStream),
    /// Encrypted, the server's certificate verified.
    Tls(Box<TlsStream<TcpStream>>),
    /// Given up during a handshake.
    Closed,
    /// To an upstream in the same process, where simulated time needs one.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Stream {
    /// Connects, in clear. Cancel safe.
    ///
    /// # Errors
    /// As [`dial::tcp`].
    pub(super) async fn dial(host: &str, port: u16) -> Result<Self, dial::Error> {
        #[cfg(test)]
        if let Some(dialed) = super::memory::dial(host, port) {
            return dialed.map(Self::Memory);
        }
        dial::tcp(host, port).await.map(Self::Plain)
    }

    /// Where the other end is, if it is known.
    pub(super) fn peer(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Plain(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Self::Tls(_) | Self::Closed => None,
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// Whether credentials may be sent: encrypted, or never leaving this machine.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Closed => false,
            Self::Plain(_) => self
                .peer()
                .is_some_and(|address| address.to_canonical().is_loopback()),
            #[cfg(test)]
            Self::Memory(_) => true,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, octets),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Closed => Poll::Ready(Ok(0)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_flush(context),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}
