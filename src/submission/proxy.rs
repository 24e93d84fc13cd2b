//! The PROXY protocol, versions 1 and 2: who connected to a proxy that we believe.
//!
//! Believed from the listed networks alone, and then required: a proxy that forgets the header would
//! make all its clients look like itself. The `ppp` crate parses; deadline and length are ours.

use std::{net::SocketAddr, time::Duration};

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::{io::AsyncRead, time};

use super::begun::Begun;

/// A proxy sends the header before anything else and without being asked; the specification wants
/// at least three seconds, for a segment that was lost on the way.
const HEADER_WAIT: Duration = Duration::from_secs(5);
/// Addresses take 216 octets at most; what proxies add (a certificate's name, a connection's id)
/// takes some hundred.
const HEADER_LEN_MAX: usize = 2048;

/// How version 1 begins, and how long its line is at most, with its end.
const LINE_BEGINS: &[u8] = b"PROXY ";
const LINE_LEN_MAX: usize = 107;

/// Why a proxy's connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no PROXY header within {} s", HEADER_WAIT.as_secs())]
    TimedOut,
    #[error("closed before its PROXY header")]
    Closed,
    #[error("no PROXY header")]
    Absent,
    #[error("PROXY header longer than {HEADER_LEN_MAX} octets")]
    TooLong,
}

/// Reads the header away and gives the client's address; `None`: the header names none, because
/// the proxy speaks for itself (a health check) or its client has no IP address.
pub(super) async fn client<S>(stream: &mut Begun<S>) -> Result<Option<SocketAddr>, Refusal>
where
    S: AsyncRead + Unpin,
{
    let read = async {
        loop {
            if stream.peek(HEADER_LEN_MAX).await.unwrap_or(0) == 0 {
                let full = stream.peeked().len() >= HEADER_LEN_MAX;
                return Err(if full {
                    Refusal::TooLong
                } else {
                    Refusal::Closed
                });
            }
            if let Some((address, len)) = parse(stream.peeked())? {
                stream.consume(len);
                return Ok(address);
            }
        }
    };
    let read = time::timeout(HEADER_WAIT, read).await;
    read.unwrap_or(Err(Refusal::TimedOut))
}

/// The client's address and the header's length; `None`: there is more to come.
fn parse(octets: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, Refusal> {
    // The crate takes the first half of an address for a wrong one: a line is parsed when whole.
    let is_line = octets.iter().zip(LINE_BEGINS).all(|(a, b)| a == b);
    if is_line && octets.len() < LINE_LEN_MAX && !octets.contains(&b'\n') {
        return Ok(None);
    }
    let result = HeaderResult::parse(octets);
    if result.is_incomplete() && !is_line {
        return Ok(None);
    }
    match result {
        HeaderResult::V1(Ok(header)) => {
            let len = header.header.len();
            Ok(Some((source_v1(&header.addresses), len)))
        }
        HeaderResult::V2(Ok(header)) => {
            let address = match header.command {
                v2::Command::Local => None,
                v2::Command::Proxy => source_v2(&header.addresses),
            };
            Ok(Some((address, header.len())))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Refusal::Absent),
    }
}

fn source_v1(addresses: &v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
    }
}

fn source_v2(addresses: &v2::Addresses) -> Option<SocketAddr> {
    match addresses {
        v2::Addresses::IPv4(a) => Some((a.source_address, a.source_port).into()),
        v2::Addresses::IPv6(a) => Some((a.source_address, a.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &len, rest].concat()
    }

    /// What a header gives, sent in pieces of `step` octets with a command behind it.
    async fn read(header: &[u8], step: usize) -> Result<Option<SocketAddr>, Refusal> {
        let (ours, mut theirs) = tokio::io::duplex(step);
        let sent = [header, b"EHLO x\r\n"].concat();
        let send = async move {
            // A refused header is not read to its end.
            drop(theirs.write_all(&sent).await);
            drop(theirs.shutdown().await);
            theirs
        };
        let mut stream = Begun::new(ours);
        let receive = async {
            let address = client(&mut stream).await;
            let mut rest = String::new();
            if address.is_ok() {
                stream.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "EHLO x\r\n", "nothing is lost and nothing is left");
            }
            drop(stream);
            address
        };
        tokio::join!(receive, send).0
    }

    #[tokio::test]
    async fn headers_of_both_versions_give_the_client_in_whatever_pieces_they_come() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0, 25];
        let mut six = vec![0; 36];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        six[32..34].copy_from_slice(&[0x12, 0x67]);
        let with_tlv = [&four[..], &[0x05, 0, 3, b'a', b'b', b'c']].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n".to_vec(),
                "192.0.2.7:4711",
            ),
            (
                b"PROXY TCP6 2001:db8:: ::1 4711 25\r\n".to_vec(),
                "[2001:db8::]:4711",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), ""),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), ""),
            (v2(0x21, 0x11, &four), "192.0.2.7:4711"),
            (v2(0x21, 0x11, &with_tlv), "192.0.2.7:4711"),
            (v2(0x21, 0x21, &six), "[2001:db8::]:4711"),
            (v2(0x20, 0x00, &[]), ""),
            (v2(0x20, 0x11, &four), ""),
            (v2(0x21, 0x00, &[]), ""),
        ] {
            for step in [1, 2, 7, 4096] {
                let expected: Option<SocketAddr> = expected.parse().ok();
                assert_eq!(
                    read(&header, step).await,
                    Ok(expected),
                    "{header:?} by {step}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_header_is_refused() {
        let endless = [&v2(0x21, 0x11, &[])[..14], &[0xff, 0xff], &[0; 4000]].concat();
        for (octets, refusal) in [
            (b"EHLO device\r\n".to_vec(), Refusal::Absent),
            (vec![0x16, 3, 1, 0, 200], Refusal::Absent),
            (
                b"PROXY TCP4 1.2.3 4.5.6.7 1 2\r\n".to_vec(),
                Refusal::Absent,
            ),
            (
                b"PROXY TCP4 1.2.3.4 4.5.6.7 70000 2\r\n".to_vec(),
                Refusal::Absent,
            ),
            (v2(0x31, 0x11, &[0; 12]), Refusal::Absent),
            (v2(0x21, 0x11, &[0; 4]), Refusal::Absent),
            (endless, Refusal::TooLong),
        ] {
            assert_eq!(read(&octets, 4096).await, Err(refusal), "{octets:?}");
        }
        for (octets, refusal) in [("PROXY ", Refusal::TimedOut), ("", Refusal::TimedOut)] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs.write_all(octets.as_bytes()).await.unwrap();
            assert_eq!(client(&mut Begun::new(ours)).await, Err(refusal));
        }
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        assert_eq!(client(&mut Begun::new(ours)).await, Err(Refusal::Closed));
    }
}
