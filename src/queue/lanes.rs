//! What the queue knows in memory: per account the fresh messages, a window of due ones, and which
//! messages are in somebody's hands. No I/O, no time: plain state behind one short lock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{offer::Desk, turns::Turns};
use crate::{
    mail::{AccountName, Body, Message, QueueId},
    store::{Due, Entry, Located, Turn as SenderTurn},
};

/// Fresh messages kept in memory for their lanes, all accounts together; the rest is found in the
/// store.
const FRESH_MAX: usize = 1_000;
/// Of one sender: the rest of the room is for the others.
const FRESH_SENDER_MAX: usize = FRESH_MAX / 2;
/// Octets of their bodies.
const FRESH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Who has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hands {
    /// A lane's memory; may be taken back.
    Waiting,
    /// An attempt, or an operation on it.
    Leased,
}

/// What a lane does next.
pub(super) enum Turn {
    Fresh(Box<Fresh>),
    Stored(Box<Located>),
    Fetch,
    Wait(Option<Timestamp>, Arc<Notify>),
}

/// A message that came in just now.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) entry: Entry,
    pub(super) message: Message,
    /// Where its client waits, if it was offered before it was stored.
    pub(super) desk: Option<Arc<Desk>>,
}

impl Fresh {
    /// Octets counted for it: whoever offers a message has counted them.
    fn octets(&self) -> u64 {
        if self.desk.is_some() {
            0
        } else {
            in_memory(&self.message)
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    by_account: BTreeMap<AccountName, Lane>,
    /// Messages that must not be taken from the store, because somebody has them.
    pub(super) known: HashMap<QueueId, Hands>,
    fresh: usize,
    fresh_bytes: u64,
}

#[derive(Debug)]
struct Lane {
    fresh: Turns<Fresh>,
    window: Turns<Located>,
    /// The sender whose messages the store gave last.
    last: Option<String>,
    /// Whether the store may hold due messages that are not in the window.
    backlog: bool,
    /// The earliest due time known to lie ahead.
    next_due: Option<Timestamp>,
    /// Fresh and due ones take turns, so that neither starves the other.
    fresh_last: bool,
    /// While the store is being read: messages settled since, whose old rows must be ignored.
    fetching: Option<HashSet<QueueId>>,
    notify: Arc<Notify>,
    /// A message was offered.
    offered: Arc<Notify>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            fresh: Turns::default(),
            window: Turns::default(),
            last: None,
            backlog: true,
            next_due: None,
            fresh_last: false,
            fetching: None,
            notify: Arc::new(Notify::new()),
            offered: Arc::new(Notify::new()),
        }
    }
}

fn in_memory(message: &Message) -> u64 {
    match message.body {
        Body::Memory(_) => message.size,
        Body::File(_) => 0,
    }
}

impl Lanes {
    fn lane(&mut self, account: &AccountName) -> &mut Lane {
        self.by_account.entry(account.clone()).or_default()
    }

    pub(super) fn has_room(&self, entry: &Entry, message: &Message) -> bool {
        let lane = self.by_account.get(&entry.account);
        let of_sender = lane.map_or(0, |lane| lane.fresh.of(&entry.turn()));
        self.fresh < FRESH_MAX
            && of_sender < FRESH_SENDER_MAX
            && self.fresh_bytes + in_memory(message) <= FRESH_BYTES_MAX
    }

    pub(super) fn has_room_for_offer(&self) -> bool {
        self.fresh < FRESH_MAX
    }

    pub(super) fn push_fresh(&mut self, entry: Entry, message: Message, desk: Option<Arc<Desk>>) {
        let fresh = Fresh {
            entry,
            message,
            desk,
        };
        self.fresh += 1;
        self.fresh_bytes += fresh.octets();
        self.known.insert(fresh.entry.id, Hands::Waiting);
        let lane = self.lane(&fresh.entry.account.clone());
        if fresh.desk.is_some() {
            lane.offered.notify_one();
        }
        lane.fresh.push(&fresh.entry.turn(), fresh);
        lane.notify.notify_one();
    }

    /// Takes out every message that only its client and its lane know of, and what tells of more.
    pub(super) fn take_offers(&mut self, account: &AccountName) -> (Vec<Arc<Desk>>, Arc<Notify>) {
        let lane = self.by_account.entry(account.clone()).or_default();
        let is_open = |fresh: &Fresh| fresh.desk.as_ref().is_some_and(|desk| desk.is_open());
        let offers: Vec<Fresh> = std::iter::from_fn(|| lane.fresh.remove(is_open)).collect();
        let news = Arc::clone(&lane.offered);
        self.fresh -= offers.len();
        for offer in &offers {
            self.known.remove(&offer.entry.id);
        }
        let desks = offers.into_iter().filter_map(|fresh| fresh.desk);
        (desks.collect(), news)
    }

    /// Nobody needs a message any more that was never stored.
    pub(super) fn forget(&mut self, id: QueueId) {
        self.known.remove(&id);
    }

    /// Forgets a message that was never stored, unless an attempt has it.
    pub(super) fn withdraw(&mut self, account: &AccountName, id: QueueId) {
        if self.known.get(&id) == Some(&Hands::Waiting) {
            self.take_fresh(account, id);
            self.known.remove(&id);
        }
    }

    /// A message may be in the store that the lane does not know of.
    pub(super) fn look_again(&mut self, account: &AccountName) {
        let lane = self.lane(account);
        lane.backlog = true;
        lane.notify.notify_one();
    }

    fn take_fresh(&mut self, account: &AccountName, id: QueueId) {
        let lane = self.by_account.entry(account.clone()).or_default();
        if let Some(fresh) = lane.fresh.remove(|fresh| fresh.entry.id == id) {
            self.fresh -= 1;
            self.fresh_bytes -= fresh.octets();
        }
    }

    /// What the lane does at `now`; a message given out is marked leased.
    pub(super) fn next(&mut self, account: &AccountName, now: Timestamp) -> Turn {
        let lane = self.by_account.entry(account.clone()).or_default();
        if lane.next_due.is_some_and(|due| due <= now) {
            lane.next_due = None;
            lane.backlog = true;
        }
        if lane.window.is_empty() && lane.backlog && lane.fetching.is_none() {
            lane.backlog = false;
            lane.fetching = Some(HashSet::new());
            return Turn::Fetch;
        }
        let from_fresh = !lane.fresh.is_empty() && (lane.window.is_empty() || !lane.fresh_last);
        lane.fresh_last = from_fresh;
        let turn = if from_fresh { lane.fresh.pop() } else { None };
        if let Some(fresh) = turn {
            lane.pass_on();
            self.fresh -= 1;
            self.fresh_bytes -= fresh.octets();
            self.known.insert(fresh.entry.id, Hands::Leased);
            return Turn::Fresh(Box::new(fresh));
        }
        if let Some(located) = lane.window.pop() {
            lane.pass_on();
            self.known.insert(located.entry.id, Hands::Leased);
            return Turn::Stored(Box::new(located));
        }
        Turn::Wait(lane.next_due, Arc::clone(&lane.notify))
    }

    /// What the store is asked for: not what somebody has, and behind the sender it gave last.
    pub(super) fn wanted(&self, account: &AccountName) -> SenderTurn {
        let lane = self.by_account.get(account);
        SenderTurn {
            last: lane.and_then(|lane| lane.last.clone()),
            known: self.known.keys().copied().collect(),
        }
    }

    pub(super) fn fetched(
        &mut self,
        account: &AccountName,
        found: Option<(Due, Option<Timestamp>)>,
    ) {
        let lane = self.by_account.entry(account.clone()).or_default();
        let settled = lane.fetching.take().unwrap_or_default();
        let Some((due, next)) = found else {
            lane.backlog = true;
            lane.notify.notify_one();
            return;
        };
        for located in due.found {
            let id = located.entry.id;
            if !settled.contains(&id) && !self.known.contains_key(&id) {
                self.known.insert(id, Hands::Waiting);
                lane.window.push(&located.entry.turn(), located);
            }
        }
        lane.last = due.last;
        lane.backlog |= due.more;
        lane.next_due = lane.next_due.into_iter().chain(next).min();
        lane.notify.notify_one();
    }

    /// A message's outcome is on disk; it may be due again at `due`.
    pub(super) fn settled(&mut self, account: &AccountName, id: QueueId, due: Timestamp) {
        self.known.remove(&id);
        let lane = self.lane(account);
        if let Some(settled) = &mut lane.fetching {
            settled.insert(id);
        }
        if lane.next_due.is_none_or(|next| due < next) {
            lane.next_due = Some(due);
            lane.notify.notify_one();
        }
    }

    /// Nobody has the message any more; the store says what it is.
    pub(super) fn give_back(&mut self, account: &AccountName, id: QueueId) {
        self.known.remove(&id);
        let lane = self.lane(account);
        if let Some(settled) = &mut lane.fetching {
            // Its row may have been read before an operator changed it: read again.
            settled.insert(id);
        }
        lane.backlog = true;
        lane.notify.notify_one();
    }

    /// Takes a message out of a lane's memory for an operation on it; false: an attempt has it.
    pub(super) fn take_back(&mut self, account: &AccountName, id: QueueId) -> bool {
        if self.known.get(&id) == Some(&Hands::Leased) {
            return false;
        }
        let lane = self.by_account.entry(account.clone()).or_default();
        lane.window.remove(|located| located.entry.id == id);
        self.take_fresh(account, id);
        self.known.insert(id, Hands::Leased);
        true
    }

    pub(super) fn leased(&self) -> Vec<QueueId> {
        let leased = self
            .known
            .iter()
            .filter(|(_, hands)| **hands == Hands::Leased);
        leased.map(|(id, _)| *id).collect()
    }
}

impl Lane {
    /// Wakes the next worker of the lane when there is more for it.
    fn pass_on(&self) {
        if !self.fresh.is_empty() || !self.window.is_empty() {
            self.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        mail::{Address, QueueId, ReversePath},
        queue::{
            NewEntry, Queue,
            tests::{Rig, account, delivered, new_entry},
        },
        store::Filter,
    };
    use jiff::Timestamp;

    fn from(queue: &Queue, sender: &str, client: Option<&str>) -> NewEntry {
        let mut new = new_entry(queue);
        let address = Address::parse(sender).unwrap();
        new.envelope.reverse_path = ReversePath::Address(address);
        new.client = client.map(str::to_owned);
        new
    }

    /// How many messages go before the one of `wanted`.
    async fn before(queue: &Queue, wanted: QueueId) -> usize {
        let mut count = 0;
        loop {
            let lease = queue.lease(&account()).await;
            let is_it = lease.entry.id == wanted;
            queue
                .settle(lease, delivered(Timestamp::MIN))
                .await
                .unwrap();
            if is_it {
                return count;
            }
            count += 1;
        }
    }

    /// The bound is the same however large the backlog: what stands in front of a new message is one
    /// window's share and what goes in turn with it.
    const WAITS_MAX: usize = 2 * 16 + 2;

    #[tokio::test]
    async fn a_backlog_of_one_sender_does_not_stand_before_another() {
        let rig = Rig::new();
        let queue = rig.open();
        // More than memory holds: the rest is in the store.
        for _ in 0..1200 {
            let new = from(&queue, "bulk@example.com", None);
            queue.accept(new).await.unwrap();
        }
        let new = from(&queue, "alarm@example.com", None);
        let wanted = new.id;
        queue.accept(new).await.unwrap();
        assert!(before(&queue, wanted).await <= WAITS_MAX);
        // The same when all of it is in the store.
        drop(queue);
        let queue = rig.open();
        let new = from(&queue, "alarm@example.com", None);
        let wanted = new.id;
        queue.accept(new).await.unwrap();
        drop(queue);
        let queue = rig.open();
        assert!(before(&queue, wanted).await <= WAITS_MAX);
        // And when the window was filled before.
        let new = from(&queue, "later@example.com", None);
        let wanted = new.id;
        queue.accept(new).await.unwrap();
        assert!(before(&queue, wanted).await <= WAITS_MAX);
        let left = queue.list(Filter::default()).await.unwrap().len();
        assert!(left > 1000, "the backlog is still there: {left}");
    }

    #[tokio::test]
    async fn many_senders_go_round_and_none_is_left_out() {
        let rig = Rig::new();
        let queue = rig.open();
        for n in 0..1000 {
            let new = from(&queue, &format!("s{}@example.com", n % 100), None);
            queue.accept(new).await.unwrap();
        }
        drop(queue);
        let queue = rig.open();
        let mut of_sender = std::collections::BTreeMap::<String, usize>::new();
        for n in 1..=1000 {
            let lease = queue.lease(&account()).await;
            *of_sender.entry(lease.entry.turn()).or_default() += 1;
            queue
                .settle(lease, delivered(Timestamp::MIN))
                .await
                .unwrap();
            if n == 500 {
                // Nobody is far ahead in the middle of it.
                let most = of_sender.values().max().copied();
                assert!(most <= Some(8) && of_sender.len() == 100, "{of_sender:?}");
            }
        }
        assert!(of_sender.values().all(|count| *count == 10));
        assert_eq!(queue.list(Filter::default()).await.unwrap(), []);
    }

    /// Row 62 of the reliability table: an upstream that takes nothing costs disk, not memory.
    #[tokio::test]
    async fn a_backlog_of_any_size_costs_no_more_memory() {
        let rig = Rig::new();
        let queue = rig.open();
        for n in 0..3000 {
            let new = from(&queue, &format!("s{}@example.com", n % 7), None);
            queue.accept(new).await.unwrap();
        }
        {
            let lanes = queue.inner.lanes();
            assert_eq!(lanes.fresh, super::FRESH_MAX);
            assert_eq!(lanes.known.len(), super::FRESH_MAX);
            assert!(lanes.fresh_bytes <= super::FRESH_BYTES_MAX);
        }
        // Nor does looking at it.
        drop(queue.lease(&account()).await);
        let known = queue.inner.lanes().known.len();
        assert!(
            known <= super::FRESH_MAX + crate::store::WINDOW_MAX,
            "{known}"
        );
    }

    /// A list with an address a message is one sender, a login is one whatever it sends as.
    #[tokio::test]
    async fn lists_and_clients_have_one_turn() {
        let rig = Rig::new();
        let queue = rig.open();
        let turn = |sender: &str, client| {
            let (entry, _) = queue.entry(from(&queue, sender, client));
            entry.turn()
        };
        assert_eq!(turn("News+r1=x.example@A.example", None), "news@a.example");
        assert_eq!(turn("+x@a.example", None), "+x@a.example");
        assert_eq!(
            turn("a@a.example", Some("erp")),
            turn("b@a.example", Some("erp"))
        );
        assert_ne!(turn("a@a.example", Some("erp")), turn("a@a.example", None));
    }
}
