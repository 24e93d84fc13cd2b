//! Offers over a real store, with the lane played by the test.

use super::*;
use crate::{
    queue::{
        Next,
        tests::{Rig, account, new_entry, settlement},
    },
    store::Filter,
};

fn reply(code: u16) -> Option<Reply> {
    Some(Reply::new(code, None, "because"))
}

fn all(state: RecipientState, code: u16) -> Settlement {
    let outcomes = (0..2).map(|index| (index, state, reply(code)));
    settlement(outcomes.collect(), Next::Hold)
}

async fn stored(queue: &Queue) -> Vec<Entry> {
    queue.list(Filter::default()).await.unwrap()
}

#[tokio::test]
async fn a_client_hears_what_became_of_its_message_and_nothing_is_stored() {
    let rig = Rig::new();
    let queue = rig.open();
    for remainder in [Remainder::Refused, Remainder::Stored] {
        for (state, code, expected) in [
            (RecipientState::Delivered, 250, Outcome::Delivered),
            (RecipientState::Bounced, 550, Outcome::Refused(reply(550))),
        ] {
            let offer = queue.offer(new_entry(&queue), None, remainder).unwrap();
            let lease = queue.lease(&account()).await;
            assert!(lease.commit());
            let mut settlement = all(state, code);
            if code == 550 {
                // The report that a lane would send: the client is told already.
                settlement.reports.push(new_entry(&queue));
            }
            queue.settle(lease, settlement).await.unwrap();
            assert_eq!(offer.outcome().await, expected);
            assert!(stored(&queue).await.is_empty());
        }
    }
    assert!(queue.inner.lanes().known.is_empty());
}

#[tokio::test]
async fn what_is_not_delivered_is_refused_or_queued_by_contract() {
    let rig = Rig::new();
    let queue = rig.open();
    let mixed = || {
        let outcomes = vec![
            (0, RecipientState::Delivered, reply(250)),
            (1, RecipientState::Deferred, reply(450)),
        ];
        settlement(outcomes, Next::Hold)
    };
    let offer = queue
        .offer(new_entry(&queue), None, Remainder::Refused)
        .unwrap();
    let lease = queue.lease(&account()).await;
    assert!(lease.is_all_or_none());
    queue.settle(lease, mixed()).await.unwrap();
    assert_eq!(offer.outcome().await, Outcome::Deferred(reply(450)));
    assert!(stored(&queue).await.is_empty());

    let offer = queue
        .offer(new_entry(&queue), None, Remainder::Stored)
        .unwrap();
    let lease = queue.lease(&account()).await;
    assert!(!lease.is_all_or_none());
    queue.settle(lease, mixed()).await.unwrap();
    assert_eq!(offer.outcome().await, Outcome::Stored);
    let [entry] = &stored(&queue).await[..] else {
        panic!("one message is stored")
    };
    let states = entry.recipients.iter().map(|r| r.state);
    let states: Vec<_> = states.collect();
    assert_eq!(
        states,
        [RecipientState::Delivered, RecipientState::Deferred]
    );
}

#[tokio::test]
async fn a_message_is_called_back_until_its_data_may_have_ended() {
    let rig = Rig::new();
    let queue = rig.open();
    // In nobody's hands.
    let offer = queue
        .offer(new_entry(&queue), None, Remainder::Refused)
        .unwrap();
    assert!(offer.withdraw());
    drop(offer);
    // Under way, not ended.
    let offer = queue
        .offer(new_entry(&queue), None, Remainder::Refused)
        .unwrap();
    let lease = queue.lease(&account()).await;
    assert!(offer.withdraw());
    assert!(!lease.is_wanted() && !lease.commit(), "it must not be sent");
    drop(lease);
    drop(offer);
    // Ended: the outcome counts.
    let offer = queue
        .offer(new_entry(&queue), None, Remainder::Refused)
        .unwrap();
    let lease = queue.lease(&account()).await;
    assert!(lease.commit() && !offer.withdraw());
    queue
        .settle(lease, all(RecipientState::Delivered, 250))
        .await
        .unwrap();
    assert_eq!(offer.outcome().await, Outcome::Delivered);
    drop(offer);
    assert!(stored(&queue).await.is_empty());
    assert!(queue.inner.lanes().known.is_empty());
}

#[tokio::test]
async fn an_attempt_under_way_settles_the_message_that_is_queued_meanwhile() {
    let rig = Rig::new();
    let queue = rig.open();
    for committed in [false, true] {
        let offer = queue
            .offer(new_entry(&queue), None, Remainder::Stored)
            .unwrap();
        let lease = queue.lease(&account()).await;
        if committed {
            assert!(lease.commit());
        }
        assert_eq!(offer.store().await.unwrap(), Outcome::Stored);
        assert_eq!(stored(&queue).await.len(), 1, "durable before the 250");
        assert_eq!(queue.leased(), [offer.id()], "nobody else may take it");
        assert!(lease.commit(), "the same attempt goes on");
        queue
            .settle(lease, all(RecipientState::Delivered, 250))
            .await
            .unwrap();
        assert!(stored(&queue).await.is_empty());
    }
}

#[tokio::test]
async fn a_queued_message_is_leased_once_whoever_had_it_when_it_was_stored() {
    let rig = Rig::new();
    let queue = rig.open();
    // In the lane's memory.
    let waits = queue
        .offer(new_entry(&queue), None, Remainder::Stored)
        .unwrap();
    waits.store().await.unwrap();
    // Given back by an attempt before it was stored, and after.
    let declined = queue
        .offer(new_entry(&queue), None, Remainder::Stored)
        .unwrap();
    let mut leases = vec![queue.lease(&account()).await, queue.lease(&account()).await];
    let kept = leases.remove(0);
    drop(leases);
    assert_eq!(declined.outcome().await, Outcome::Declined);
    assert_eq!(declined.store().await.unwrap(), Outcome::Stored);
    let given_back = queue
        .offer(new_entry(&queue), None, Remainder::Stored)
        .unwrap();
    let mut ids = vec![kept.entry.id];
    let mut leases = vec![kept];
    for _ in 0..2 {
        let lease = queue.lease(&account()).await;
        ids.push(lease.entry.id);
        leases.push(lease);
    }
    given_back.store().await.unwrap();
    let last = leases
        .iter()
        .position(|lease| lease.entry.id == given_back.id());
    drop(leases.remove(last.unwrap()));
    leases.push(queue.lease(&account()).await);
    ids.sort();
    let mut wanted = vec![waits.id(), declined.id(), given_back.id()];
    wanted.sort();
    assert_eq!(ids, wanted);
    for lease in leases {
        queue
            .settle(lease, all(RecipientState::Delivered, 250))
            .await
            .unwrap();
    }
    assert!(stored(&queue).await.is_empty());
}

#[tokio::test]
async fn behind_a_closed_gate_clients_hear_it_at_once() {
    let rig = Rig::new();
    let queue = rig.open();
    let before = queue
        .offer(new_entry(&queue), None, Remainder::Refused)
        .unwrap();
    let stays = queue
        .offer(new_entry(&queue), None, Remainder::Stored)
        .unwrap();
    stays.store().await.unwrap();
    let (account, other) = (account(), queue.clone());
    let declining = other.decline_offers(&account);
    let clients = async {
        assert_eq!(before.outcome().await, Outcome::Declined);
        let after = queue
            .offer(new_entry(&queue), None, Remainder::Refused)
            .unwrap();
        assert_eq!(after.outcome().await, Outcome::Declined);
    };
    tokio::select! {
        () = declining => panic!("declines for ever"),
        () = clients => {}
    }
    // What is stored waits for the gate as all mail does.
    assert_eq!(queue.lease(&account).await.entry.id, stays.id());
}

#[tokio::test]
async fn a_body_on_the_disk_goes_with_its_offer() {
    let rig = Rig::new();
    let queue = rig.open();
    let spilled = || async {
        let mut entry = new_entry(&queue);
        let spill = queue.spill(entry.id).unwrap();
        entry.message = spill.finish(b"Subject: x\r\n\r\n".to_vec()).await.unwrap();
        entry
    };
    let exists = |message: &Message| match &message.body {
        Body::File(file) => file.path.exists(),
        Body::Memory(_) => panic!("it is in a file"),
    };
    let entry = spilled().await;
    let message = entry.message.clone();
    let offer = queue.offer(entry, None, Remainder::Stored).unwrap();
    let lease = queue.lease(&account()).await;
    queue
        .settle(lease, all(RecipientState::Delivered, 250))
        .await
        .unwrap();
    assert!(exists(&message));
    drop(offer);
    assert!(!exists(&message));

    let entry = spilled().await;
    let message = entry.message.clone();
    let offer = queue.offer(entry, None, Remainder::Stored).unwrap();
    offer.store().await.unwrap();
    drop(offer);
    assert!(exists(&message), "the store answers for it");
}
