//! A request with a large body: fed piece by piece, so that a message of any size costs a few pieces
//! of memory, and bounded by progress in place of one limit for the whole.
//!
//! How far it had come when it broke decides what may be done about it: before the body began nothing
//! can have happened, after its end nobody knows. The body's last piece is whoever feeds it's to hold
//! back until it may go.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::Request;
use tokio::{sync::mpsc, time::timeout};

use super::{Client, Error, Response, host_and_port};

/// A network that takes no octet for so long is gone: SMTP gives a block of data as much (RFC 5321
/// §4.5.3.2.5).
const STALL_MAX: Duration = Duration::from_secs(180);

/// From the last octet of the body to the last of the answer. Both APIs answer within seconds; a
/// message that is given up too early is sent twice.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Connections that wait for the next message: as many as any account opens at once.
pub(super) const IDLE_CONNECTIONS: usize = 8;

/// How far a request had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// No connection was ready for it: the server knows nothing of it.
    Nothing,
    /// Some of it was sent: the server cannot take it for complete.
    Part,
    /// All of it was handed to the network: the server may have acted on it.
    Whole,
}

/// Why there is no answer to an upload.
#[derive(Debug)]
pub enum Interrupted<E> {
    /// The exchange failed.
    Exchange {
        /// Why.
        error: Error,
        /// When.
        reached: Reached,
    },
    /// Nothing moved, or no answer came, for so long.
    Timeout {
        /// The limit that was passed.
        limit: Duration,
        /// When.
        reached: Reached,
    },
    /// Whoever fed the body gave up; the server has seen no end of it.
    Fed(E),
}

/// Takes the body of a request under way, in pieces.
#[derive(Debug)]
pub struct Feed(mpsc::Sender<Bytes>);

/// The request is over, whatever is left of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request has ended")]
pub struct Stopped;

impl Feed {
    /// Hands over the next piece; waits while the network takes none.
    ///
    /// # Errors
    /// [`Stopped`]: the answer is there, or the connection has ended.
    ///
    /// # Cancel safety
    /// Not cancel safe: a piece may be missing then, and the request fails.
    pub async fn piece(&mut self, octets: Bytes) -> Result<(), Stopped> {
        if octets.is_empty() {
            return Ok(());
        }
        // A network that stalls is noticed by whoever waits for the answer.
        self.0.send(octets).await.map_err(|_| Stopped)
    }
}

impl Client {
    /// Sends `request` with a body of exactly `len` octets, which `feed` hands over while they are
    /// sent. Use a client of [`super::Clients::uploader`].
    ///
    /// An answer that comes before the end of the body is the answer. A body that ends too soon is
    /// never taken for a whole one: its length was announced.
    ///
    /// # Errors
    /// [`Interrupted`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection; the server may have acted on the request.
    pub async fn upload<E>(
        &self,
        mut request: Request,
        len: u64,
        feed: impl AsyncFnOnce(Feed) -> Result<(), E>,
    ) -> Result<Response, Interrupted<E>> {
        let (pieces, waiting) = mpsc::channel(1);
        let progress = Arc::new(Progress::default());
        let body = Pieces {
            waiting,
            left: len,
            progress: Arc::clone(&progress),
        };
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let host = host_and_port(request.url());
        let failed = |error| Interrupted::Exchange {
            error,
            reached: progress.reached(),
        };
        let mut answer = pin!(self.exchange_untimed(request));
        let mut fed = pin!(feed(Feed(pieces)));
        loop {
            let seen = progress.steps();
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(failed),
                fed = &mut fed => match fed {
                    Ok(()) => break,
                    Err(error) => return Err(Interrupted::Fed(error)),
                },
                () = tokio::time::sleep(STALL_MAX) => {
                    if progress.steps() == seen {
                        return Err(self.stalled(&host, STALL_MAX, progress.reached()));
                    }
                }
            }
        }
        match timeout(ANSWER_MAX, answer).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(self.stalled(&host, ANSWER_MAX, progress.reached())),
        }
    }

    /// Nothing came for too long. Before the body began it is the way that does not work.
    fn stalled<E>(&self, host: &str, limit: Duration, reached: Reached) -> Interrupted<E> {
        match self.through().filter(|_| reached == Reached::Nothing) {
            Some(proxy) => Interrupted::Exchange {
                error: proxy.blamed(host, "no answer", true),
                reached,
            },
            None => Interrupted::Timeout { limit, reached },
        }
    }
}

/// How far a body has come; written by the connection, read by whoever waits.
#[derive(Debug, Default)]
struct Progress {
    /// 0: nothing was asked for; 1: some; 2: the last octet was handed over.
    reached: AtomicU8,
    steps: std::sync::atomic::AtomicUsize,
}

impl Progress {
    fn reached(&self) -> Reached {
        match self.reached.load(Ordering::SeqCst) {
            0 => Reached::Nothing,
            1 => Reached::Part,
            _ => Reached::Whole,
        }
    }

    fn reach(&self, step: u8) {
        self.reached.fetch_max(step, Ordering::SeqCst);
        self.steps.fetch_add(1, Ordering::SeqCst);
    }

    fn steps(&self) -> usize {
        self.steps.load(Ordering::SeqCst)
    }
}

/// The body as the connection takes it.
struct Pieces {
    waiting: mpsc::Receiver<Bytes>,
    left: u64,
    progress: Arc<Progress>,
}

/// Fewer or more octets came than were announced.
#[derive(Debug, thiserror::Error)]
#[error("the body is not as long as announced")]
struct Cut;

impl Body for Pieces {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.progress.reach(1);
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match self.waiting.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(piece) => piece,
        };
        let len = piece.as_ref().map_or(0, Bytes::len);
        let left = u64::try_from(len)
            .ok()
            .filter(|len| *len > 0)
            .and_then(|len| self.left.checked_sub(len));
        let (Some(piece), Some(left)) = (piece, left) else {
            return Poll::Ready(Some(Err(Cut)));
        };
        self.left = left;
        if left == 0 {
            self.progress.reach(2);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };
    use url::Url;

    use super::*;
    use crate::net::{
        http::{Clients, Way},
        tasks::Tasks,
    };

    const OK: &str = "HTTP/1.1 202 Accepted\r\nrequest-id: r-1\r\ncontent-length: 0\r\n\r\n";
    const LEN: usize = 1_000_000;

    /// A server that reads so many octets of its only request, answers and hangs up. What it read.
    async fn server(
        octets: usize,
        answer: &'static str,
    ) -> (SocketAddr, oneshot::Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (done, result) = oneshot::channel();
        Tasks::new().spawn("test_server", async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let read = read(&mut socket, octets).await;
            socket
                .write_all(answer.as_bytes())
                .await
                .unwrap_or_default();
            done.send(read).unwrap_or_default();
        });
        (address, result)
    }

    async fn read(socket: &mut TcpStream, octets: usize) -> Vec<u8> {
        let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let body = all.windows(4).position(|four| four == b"\r\n\r\n");
            if body.is_some_and(|at| all.len() - at - 4 >= octets) {
                return all;
            }
            match socket.read(&mut piece).await {
                Ok(0) | Err(_) => return all,
                Ok(read) => all.extend_from_slice(&piece[..read]),
            }
        }
    }

    async fn upload(
        address: SocketAddr,
        octets: usize,
    ) -> Result<Response, Interrupted<&'static str>> {
        let url = Url::parse(&format!("http://{address}/")).unwrap();
        let client = Clients::default().uploader(&url, Way::default()).await;
        let request = Request::new(reqwest::Method::POST, url);
        let fed = async |mut feed: Feed| {
            let body = vec![b'x'; octets];
            for piece in body.chunks(100_000) {
                let piece = Bytes::copy_from_slice(piece);
                feed.piece(piece).await.map_err(|_| "the request ended")?;
            }
            if octets < LEN { Err("gave up") } else { Ok(()) }
        };
        let len = u64::try_from(LEN).unwrap();
        client.unwrap().upload(request, len, fed).await
    }

    #[tokio::test]
    async fn a_body_in_pieces_arrives_whole_with_its_length_announced() {
        let (address, seen) = server(LEN, OK).await;
        let answer = upload(address, LEN).await.unwrap();
        assert_eq!(answer.status, reqwest::StatusCode::ACCEPTED);
        assert_eq!(answer.request_id.as_deref(), Some("r-1"));
        let seen = seen.await.unwrap();
        let at = seen
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8_lossy(&seen[..at]).to_lowercase();
        assert!(head.contains("content-length: 1000000"), "{head}");
        assert_eq!(seen.len() - at - 4, LEN);
    }

    #[tokio::test]
    async fn what_broke_says_how_far_it_had_come() {
        let reached = async |address| match upload(address, LEN).await {
            Err(Interrupted::Exchange { reached, .. }) => Some(reached),
            Ok(_) | Err(Interrupted::Timeout { .. } | Interrupted::Fed(_)) => None,
        };
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        assert_eq!(reached(address).await, Some(Reached::Nothing));
        // All of it was read and nothing was said.
        let (address, _seen) = server(LEN, "").await;
        assert_eq!(reached(address).await, Some(Reached::Whole));
    }

    #[tokio::test]
    async fn who_gives_up_in_the_middle_has_sent_nothing_whole() {
        let (address, seen) = server(LEN, OK).await;
        let failed = upload(address, LEN / 2).await.unwrap_err();
        assert!(matches!(failed, Interrupted::Fed("gave up")), "{failed:?}");
        let seen = seen.await.unwrap();
        assert!(
            seen.len() < LEN,
            "the server waits for octets that never come"
        );
    }

    #[tokio::test]
    async fn an_answer_before_the_end_of_the_body_is_the_answer() {
        let refusal = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_keep, dropped) = oneshot::channel::<()>();
        Tasks::new().spawn("test_server", async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            read(&mut socket, 1).await;
            socket.write_all(refusal.as_bytes()).await.unwrap();
            // The connection stays until the client has gone.
            dropped.await.unwrap_or_default();
        });
        let answer = upload(address, LEN).await.unwrap();
        assert_eq!(answer.status, reqwest::StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_it_all_and_is_silent_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Tasks::new().spawn("test_server", async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            read(&mut socket, LEN).await;
            std::future::pending::<()>().await;
        });
        match upload(address, LEN).await {
            Err(Interrupted::Timeout { limit, reached }) => {
                assert_eq!((limit, reached), (ANSWER_MAX, Reached::Whole));
            }
            other => panic!("{other:?}"),
        }
    }
}
