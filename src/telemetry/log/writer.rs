//! The writer thread: the only place that waits for a log sink.

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

/// Lines that may wait. At some 300 octets a line this is about a megabyte, and it holds the burst
/// of a full queue going on hold.
const LINES_WAITING_MAX: usize = 4096;

/// How long the end of the program waits for a sink that hangs.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Where lines end.
pub(super) enum Sink {
    Stderr(io::Stderr),
    Journal(UnixDatagram),
    #[cfg(test)]
    Test(TestSink),
}

/// Takes lines in place of a terminal.
#[cfg(test)]
pub(super) type TestSink = Box<dyn FnMut(&[u8]) + Send>;

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The way to the writer thread. Never blocks.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// Writes out what waits when dropped (for at most a second).
#[derive(Debug)]
#[must_use = "log lines that wait are written out when this is dropped"]
pub struct Guard {
    queue: Queue,
}

/// Starts the writer thread. It ends with the process.
pub(super) fn start(sink: Sink) -> io::Result<(Queue, Guard)> {
    let (sender, receiver) = sync_channel(LINES_WAITING_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue {
        lines: sender,
        dropped: Arc::clone(&dropped),
    };
    std::thread::Builder::new()
        .name(String::from("log"))
        .spawn(move || run(&receiver, sink, &dropped))?;
    let guard = Guard {
        queue: queue.clone(),
    };
    Ok((queue, guard))
}

impl Queue {
    /// Hands a rendered event over, or counts it as dropped.
    pub(super) fn send(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.lines.try_send(Message::Line(line))
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were dropped since this was last asked.
    pub(super) fn take_dropped(&self) -> u64 {
        // Asked for each event: a plain load is all that it costs while nothing is dropped.
        if self.dropped.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.queue.lines.try_send(Message::Flush(done)).is_ok() {
            // A sink that hangs must not hold up the end of the program.
            wait.recv_timeout(FLUSH_WAIT).unwrap_or_default();
        }
    }
}

fn run(lines: &Receiver<Message>, mut sink: Sink, dropped: &AtomicU64) {
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(line) => {
                if sink.write(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The other side may have given up waiting.
            Message::Flush(done) => done.send(()).unwrap_or_default(),
        }
    }
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr(stderr) => stderr.lock().write_all(line),
            Self::Journal(socket) => socket.send(line).map(|_| ()),
            #[cfg(test)]
            Self::Test(take) => {
                take(line);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// The mail path goes on while the sink hangs, and the lost lines are counted.
    #[test]
    fn a_sink_that_hangs_costs_lines_and_never_time() {
        let (release, hang) = channel::<()>();
        let (entered, began) = channel();
        let sink = Sink::Test(Box::new(move |_| {
            entered.send(()).unwrap_or_default();
            // Returns at once when the other end is dropped.
            hang.recv().unwrap_or_default();
        }));
        let (queue, guard) = start(sink).unwrap();
        queue.send(b"first".to_vec());
        began.recv().unwrap();
        for _ in 0..LINES_WAITING_MAX + 7 {
            queue.send(b"more".to_vec());
        }
        assert_eq!(queue.take_dropped(), 7);
        assert_eq!(queue.take_dropped(), 0);
        drop(release);
        drop(guard);
    }

    /// What was logged last must be seen when the program ends.
    #[test]
    fn the_guard_writes_out_what_waits() {
        let (seen, lines) = channel();
        let sink = Sink::Test(Box::new(move |line| seen.send(line.to_vec()).unwrap()));
        let (queue, guard) = start(sink).unwrap();
        queue.send(b"one".to_vec());
        queue.send(b"two".to_vec());
        drop(guard);
        assert_eq!(
            lines.try_iter().collect::<Vec<_>>(),
            [b"one".to_vec(), b"two".to_vec()]
        );
    }
}
