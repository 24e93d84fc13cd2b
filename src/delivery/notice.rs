//! Notices as mail: messages of ours through the account that is named for them.
//!
//! A notice has the null reverse-path and asks for no report: whatever becomes of it, it is answered
//! by nothing, so it cannot cause the next one. One that cannot be delivered is held, where a person
//! sees it.

use tokio::sync::mpsc;

use super::{Delivery, bounce};
use crate::{
    mail::{BodyType, Envelope, Notify, Recipient, ReversePath},
    notify::{self, MailRequest},
    queue::NewEntry,
};

impl Delivery {
    /// Takes notices into the queue until nobody sends any or it is told to stop.
    pub async fn mail_notices(self, mut requests: mpsc::Receiver<MailRequest>) {
        let tasks = self.inner.parts.tasks.clone();
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                () = tasks.stopped() => return,
            };
            let Some(request) = request else { return };
            let accepted = self.mail_notice(&request).await;
            // Whoever asked may have gone; what was accepted stays accepted.
            drop(request.done.send(accepted));
        }
    }

    /// The queue id in words; else why it was not taken.
    async fn mail_notice(&self, request: &MailRequest) -> Result<String, String> {
        let account = &request.mail.account;
        let lane = self.inner.lane(account);
        let lane = lane.ok_or_else(|| format!("there is no account {account}"))?;
        let queue = &self.inner.parts.queue;
        let (id, to) = (queue.next_id(), &request.mail.to);
        let octets = notify::letter(
            &request.notice,
            &id.to_string(),
            &lane.account.mailbox,
            to,
            &lane.common.hostname,
        );
        let smtputf8 = !octets.is_ascii() || !to.is_ascii();
        let accepted = queue.accept(NewEntry {
            id,
            account: account.clone(),
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: vec![Recipient {
                    notify: Notify::Never,
                    ..Recipient::new(to.clone())
                }],
                body: if smtputf8 {
                    BodyType::EightBitMime
                } else {
                    BodyType::SevenBit
                },
                smtputf8,
                ret: None,
                envid: None,
            },
            message: bounce::message(octets),
            client: None,
        });
        accepted.await.map_err(|error| error.to_string())?;
        Ok(format!("queued as {id} through account {account}"))
    }
}
