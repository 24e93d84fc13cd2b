//! Who is told what: reports of failure, delay and handing on, as messages of the same account.
//!
//! Nothing ends in silence: where a failure may be told to nobody, the message is held instead. A
//! report has the null reverse-path and is itself never answered with one.

use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::io::AsyncReadExt;

use super::{Account, BounceTo, plan::Plan};
use crate::{
    dsn::{self, Kind, Original, Report},
    mail::{
        Address, Body, BodyType, Digest, Envelope, Message, Notify, QueueId, Recipient, Ret,
        ReversePath,
    },
    queue::NewEntry,
    store::{Entry, RecipientState},
};

/// What reports are made of.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    pub(crate) hostname: &'a str,
    pub(crate) bounce_to: &'a BounceTo,
    pub(crate) account: &'a Account,
    pub(crate) entry: &'a Entry,
    pub(crate) message: &'a Message,
    pub(crate) now: Timestamp,
    /// Whether the server takes 8-bit data.
    pub(crate) eight_bit: bool,
}

/// What is owed for recipients given up.
#[derive(Debug)]
pub(crate) enum Owed {
    /// Nothing: the sender said so.
    Nothing,
    /// A report.
    Report(Address),
    /// Nobody may be told: a person must look.
    Hold(&'static str),
}

impl Reporter<'_> {
    /// What is owed for the recipients that `plan` gives up.
    pub(crate) fn owed(&self, plan: &Plan) -> Owed {
        if plan.failed.is_empty() {
            return Owed::Nothing;
        }
        let to = match (&self.entry.reverse_path, self.bounce_to) {
            // RFC 5321 §6.1: never a report about a report. It was meant for somebody, though.
            (ReversePath::Null, _) => return Owed::Hold(NOBODY),
            (_, BounceTo::None) => return Owed::Hold("failed, and queue.bounce_to is \"none\""),
            (_, BounceTo::Address(address)) => address,
            (ReversePath::Address(address), BounceTo::Sender) => address,
        };
        if self.wanting_failure(plan).next().is_none() {
            return Owed::Nothing;
        }
        Owed::Report(to.clone())
    }

    fn wanting_failure<'p>(
        &self,
        plan: &'p Plan,
    ) -> impl Iterator<Item = &'p (usize, &'static str)> {
        plan.failed.iter().filter(|(index, _)| {
            let recipient = self.entry.recipients.get(*index);
            recipient.is_some_and(|r| r.recipient.notify.on_failure())
        })
    }

    /// The report about recipients given up.
    pub(crate) async fn failed(&self, id: QueueId, to: &Address, plan: &Plan) -> NewEntry {
        let recipients: Vec<_> = self.wanting_failure(plan).copied().collect();
        self.report(id, to, Kind::Failed, &recipients, plan).await
    }

    /// Recipients for whom a delay is to be told now: once, to a sender that wants it.
    pub(crate) fn late(
        &self,
        plan: &Plan,
        delay_warning: std::time::Duration,
    ) -> Vec<(usize, &'static str)> {
        let limit = SignedDuration::try_from(delay_warning).unwrap_or(SignedDuration::MAX);
        let young = self.now.duration_since(self.entry.received_at) < limit;
        if young || self.entry.delay_warned || *self.bounce_to == BounceTo::None {
            return Vec::new();
        }
        let deferred = plan
            .outcomes
            .iter()
            .filter(|(_, state, _)| *state == RecipientState::Deferred);
        deferred
            .filter(|(index, ..)| {
                let recipient = self.entry.recipients.get(*index);
                recipient.is_some_and(|r| match r.recipient.notify {
                    // RFC 3461 §4.1 leaves it to us: a sender who said nothing is told.
                    Notify::Unspecified => true,
                    Notify::Never => false,
                    Notify::On { delay, .. } => delay,
                })
            })
            .map(|(index, ..)| (*index, "it has not been taken yet"))
            .collect()
    }

    /// Who is told that a message is late; `None`: nobody.
    pub(crate) fn delay_goes_to(&self) -> Option<&Address> {
        let sender = self.entry.reverse_path.address()?;
        match self.bounce_to {
            BounceTo::Address(address) => Some(address),
            BounceTo::Sender => Some(sender),
            BounceTo::None => None,
        }
    }

    /// The report that a message is late.
    pub(crate) async fn delayed(
        &self,
        id: QueueId,
        to: &Address,
        recipients: &[(usize, &'static str)],
        plan: &Plan,
    ) -> NewEntry {
        self.report(id, to, Kind::Delayed, recipients, plan).await
    }

    /// The report that recipients who asked for one were handed to a server that does not report
    /// (RFC 3461 §5.2.2); `None`: nobody asked.
    pub(crate) async fn relayed(
        &self,
        id: impl FnOnce() -> QueueId,
        plan: &Plan,
    ) -> Option<NewEntry> {
        let sender = self.entry.reverse_path.address()?;
        let wanting = plan.delivered.iter().filter(|index| {
            let recipient = self.entry.recipients.get(**index);
            recipient
                .is_some_and(|r| matches!(r.recipient.notify, Notify::On { success: true, .. }))
        });
        let recipients: Vec<_> = wanting.map(|index| (*index, "it was handed on")).collect();
        if recipients.is_empty() {
            return None;
        }
        Some(
            self.report(id(), sender, Kind::Relayed, &recipients, plan)
                .await,
        )
    }

    async fn report(
        &self,
        id: QueueId,
        to: &Address,
        kind: Kind,
        recipients: &[(usize, &'static str)],
        plan: &Plan,
    ) -> NewEntry {
        let start = self.start_of_message().await;
        let full = self.entry.ret == Some(Ret::Full)
            && kind == Kind::Failed
            && start.len() <= FULL_MAX
            && (self.eight_bit || start.is_ascii())
            && u64::try_from(start.len()).is_ok_and(|len| len == self.message.size);
        let original = if full {
            Original::Full(&start)
        } else {
            let headers = dsn::header_section(&start);
            Original::Headers(headers.get(..HEADERS_MAX).map_or(headers, whole_lines))
        };
        let told = recipients.iter().filter_map(|(index, reason)| {
            let recipient = &self.entry.recipients.get(*index)?.recipient;
            let outcome = plan.outcomes.iter().find(|(at, ..)| at == index);
            let last = self.entry.recipients.get(*index)?.reply.as_ref();
            Some(dsn::Recipient {
                address: &recipient.address,
                orcpt: recipient.orcpt.as_deref(),
                reply: outcome.and_then(|(_, _, reply)| reply.as_ref()).or(last),
                remote: &self.account.smtp.host,
                reason,
                expired: outcome.is_some_and(|(_, state, _)| *state == RecipientState::Expired),
            })
        });
        let (id_text, queue_id) = (id.to_string(), self.entry.id.to_string());
        let report = Report {
            kind,
            id: &id_text,
            reporting_mta: self.hostname,
            from: &self.account.mailbox,
            to,
            date: self.now,
            arrival: self.entry.received_at,
            queue_id: &queue_id,
            envid: self.entry.envid.as_deref(),
            recipients: told.collect(),
            original,
        };
        let international = report.is_international();
        self.new_entry(id, to, report.to_message(), international)
    }

    fn new_entry(&self, id: QueueId, to: &Address, octets: Vec<u8>, smtputf8: bool) -> NewEntry {
        let body = if octets.is_ascii() {
            BodyType::SevenBit
        } else {
            BodyType::EightBitMime
        };
        let recipient = Recipient {
            notify: Notify::Never,
            ..Recipient::new(to.clone())
        };
        NewEntry {
            id,
            account: self.account.name.clone(),
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: vec![recipient],
                body,
                smtputf8,
                ret: None,
                envid: None,
            },
            message: message(octets),
            client: None,
        }
    }

    /// As much of the message as a report may return. A message that cannot be read any more is
    /// reported without it: the report matters more.
    async fn start_of_message(&self) -> Bytes {
        let file = match &self.message.body {
            Body::Memory(octets) => return octets.clone(),
            Body::File(file) => file,
        };
        let mut start = Vec::new();
        let limit = u64::try_from(HEADERS_MAX).unwrap_or(u64::MAX);
        if let Ok(opened) = tokio::fs::File::open(&file.path).await {
            let read = opened.take(limit).read_to_end(&mut start).await;
            read.map_or_else(|_| start.clear(), |_| ());
        }
        start.into()
    }
}

/// A message of ours, with its digest.
pub(crate) fn message(octets: Vec<u8>) -> Message {
    let sum = digest::digest(&digest::SHA256, &octets);
    let mut sha256 = [0; digest::SHA256_OUTPUT_LEN];
    sha256.copy_from_slice(sum.as_ref());
    Message {
        size: u64::try_from(octets.len()).unwrap_or(u64::MAX),
        digest: Digest(sha256),
        body: Body::Memory(octets.into()),
    }
}

/// `octets` up to the end of its last whole line.
fn whole_lines(octets: &[u8]) -> &[u8] {
    let end = memchr::memmem::rfind(octets, b"\r\n").map_or(0, |at| at + 2);
    octets.get(..end).unwrap_or_default()
}

const NOBODY: &str = "failed, and its sender is the null path: there is nobody to tell";
/// A message above this is returned by its headers alone, also with `RET=FULL` (Postfix's
/// `bounce_size_limit`).
const FULL_MAX: usize = 50 * 1024;
/// Header sections of honest mail are a tenth of this.
const HEADERS_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        delivery::{Auth, Limits, Smarthost, Tls, plan::tests::entry, transport::Phase},
        mail::{AccountName, EnhancedCode, Reply},
        oauth,
    };

    fn account() -> Account {
        Account {
            name: AccountName::new("alerts"),
            mailbox: "alerts@contoso.example".into(),
            kind: oauth::Kind::Custom,
            transport: crate::delivery::Transport::Smtp,
            smtp: Smarthost {
                host: "smtp.example".into(),
                port: 587,
                tls: Tls::Starttls,
                auth: Auth::None,
                ca_file: None,
            },
            limits: Limits {
                connections: 1,
                messages_per_minute: None,
                recipients_per_day: None,
                recipients_per_message: 100,
            },
            sender: super::super::SenderRule::default(),
            fallback: None,
            is_stopped: false,
        }
    }

    struct Scene {
        entry: Entry,
        bounce_to: BounceTo,
        account: Account,
        message: Message,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                entry: entry(2),
                bounce_to: BounceTo::Sender,
                account: account(),
                message: message(b"Subject: x\r\n\r\nbody\r\n".to_vec()),
            }
        }

        fn reporter(&self) -> Reporter<'_> {
            Reporter {
                hostname: "relay.example",
                bounce_to: &self.bounce_to,
                account: &self.account,
                entry: &self.entry,
                message: &self.message,
                now: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(5),
                eight_bit: true,
            }
        }

        /// The first recipient taken, the second refused with this.
        fn plan(&self, code: u16) -> Plan {
            let ok = Reply::new(250, EnhancedCode::parse("2.0.0"), "ok");
            let no = Reply::new(code, None, "no");
            Plan::from_answers(
                oauth::Kind::Custom,
                &self.entry,
                &[0, 1],
                vec![(Phase::End, ok), (Phase::Rcpt, no)],
            )
        }
    }

    fn text(entry: &NewEntry) -> String {
        match &entry.message.body {
            Body::Memory(octets) => String::from_utf8_lossy(octets).into_owned(),
            Body::File(_) => unreachable!("reports are small"),
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_to_the_sender_by_the_same_account() {
        let mut scene = Scene::new();
        for (ret, full) in [(None, false), (Some(Ret::Full), true)] {
            scene.entry.ret = ret;
            let (reporter, plan) = (scene.reporter(), scene.plan(550));
            let Owed::Report(to) = reporter.owed(&plan) else {
                panic!("a report is owed");
            };
            let report = reporter.failed(QueueId::from_i64(9), &to, &plan).await;
            assert_eq!(report.account, scene.account.name);
            assert_eq!(report.envelope.reverse_path, ReversePath::Null);
            assert_eq!(report.envelope.recipients[0].address, to);
            let text = text(&report);
            assert!(text.contains("Final-Recipient: rfc822; r1@x.example\r\n"));
            assert!(!text.contains("r0@x.example"), "only who failed");
            assert_eq!(text.contains("\r\nbody\r\n"), full);
        }
    }

    #[test]
    fn what_is_owed_depends_on_sender_recipient_and_configuration() {
        let operator = Address::parse("postmaster@b.example").expect("valid");
        let mut scene = Scene::new();
        scene.bounce_to = BounceTo::Address(operator.clone());
        assert!(
            matches!(scene.reporter().owed(&scene.plan(550)), Owed::Report(to) if to == operator)
        );
        assert!(matches!(
            scene.reporter().owed(&scene.plan(450)),
            Owed::Nothing
        ));

        scene.entry.recipients[1].recipient.notify = Notify::Never;
        assert!(matches!(
            scene.reporter().owed(&scene.plan(550)),
            Owed::Nothing
        ));
        scene.entry.recipients[1].recipient.notify = Notify::Unspecified;

        scene.bounce_to = BounceTo::None;
        assert!(matches!(
            scene.reporter().owed(&scene.plan(550)),
            Owed::Hold(_)
        ));

        // A report that fails is never answered, not even to the operator: that would loop.
        scene.bounce_to = BounceTo::Address(operator);
        scene.entry.reverse_path = ReversePath::Null;
        assert!(matches!(
            scene.reporter().owed(&scene.plan(550)),
            Owed::Hold(_)
        ));
    }

    #[tokio::test]
    async fn a_delay_is_told_once_after_its_time() {
        let mut scene = Scene::new();
        let (four, six) = (Duration::from_secs(4 * 3600), Duration::from_secs(6 * 3600));
        let plan = scene.plan(450);
        assert!(
            scene.reporter().late(&plan, six).is_empty(),
            "five hours old"
        );
        let late = scene.reporter().late(&plan, four);
        assert_eq!(late.len(), 1);
        let reporter = scene.reporter();
        let to = reporter.delay_goes_to().expect("the sender");
        let report = reporter.delayed(QueueId::from_i64(9), to, &late, &plan);
        assert!(text(&report.await).contains("Action: delayed\r\n"));

        scene.entry.recipients[1].recipient.notify = Notify::On {
            success: false,
            failure: true,
            delay: false,
        };
        assert!(scene.reporter().late(&plan, four).is_empty());
        scene.entry.recipients[1].recipient.notify = Notify::Unspecified;
        scene.entry.delay_warned = true;
        assert!(scene.reporter().late(&plan, four).is_empty());
    }

    #[tokio::test]
    async fn success_is_told_to_who_asked() {
        let mut scene = Scene::new();
        let id = || QueueId::from_i64(9);
        assert!(
            scene
                .reporter()
                .relayed(id, &scene.plan(450))
                .await
                .is_none()
        );
        scene.entry.recipients[0].recipient.notify = Notify::On {
            success: true,
            failure: true,
            delay: false,
        };
        let report = scene
            .reporter()
            .relayed(id, &scene.plan(450))
            .await
            .expect("asked for");
        let text = text(&report);
        assert!(text.contains("Action: relayed\r\n") && text.contains("r0@x.example"));
    }

    #[tokio::test]
    async fn a_large_message_is_returned_by_its_headers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("body");
        let octets = [b"Subject: large\r\n\r\n".as_slice(), &vec![b'x'; 300_000]].concat();
        std::fs::write(&path, &octets).expect("writable");
        let mut scene = Scene::new();
        scene.entry.ret = Some(Ret::Full);
        scene.message.size = 300_018;
        scene.message.body = Body::File(std::sync::Arc::new(crate::mail::BodyFile { path }));
        let to = Address::parse("a@b.example").expect("valid");
        let report = scene
            .reporter()
            .failed(QueueId::from_i64(9), &to, &scene.plan(550))
            .await;
        assert!(text(&report).contains("Subject: large\r\n") && !text(&report).contains("xxx"));
    }
}
