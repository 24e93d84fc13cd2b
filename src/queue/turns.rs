//! Items of several senders, who take turns: one with ten thousand messages stands beside the next
//! one's first, not in front of it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Items by sender, each sender's in the order they came.
#[derive(Debug)]
pub(super) struct Turns<T> {
    by_sender: HashMap<Arc<str>, VecDeque<T>>,
    /// Senders that have items, the next one first.
    order: VecDeque<Arc<str>>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            by_sender: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T> Turns<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many items a sender has.
    pub(super) fn of(&self, sender: &str) -> usize {
        self.by_sender.get(sender).map_or(0, VecDeque::len)
    }

    pub(super) fn push(&mut self, sender: &str, item: T) {
        if let Some(items) = self.by_sender.get_mut(sender) {
            items.push_back(item);
            return;
        }
        let sender: Arc<str> = sender.into();
        self.order.push_back(Arc::clone(&sender));
        self.by_sender.insert(sender, VecDeque::from([item]));
    }

    /// The oldest item of the sender whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let sender = self.order.pop_front()?;
        let items = self.by_sender.get_mut(&sender)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.by_sender.remove(&sender);
        } else {
            self.order.push_back(sender);
        }
        item
    }

    /// Takes out the first item that fits.
    pub(super) fn remove(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut places = self.by_sender.iter();
        let (sender, at) = places.find_map(|(sender, items)| {
            let at = items.iter().position(&fits)?;
            Some((Arc::clone(sender), at))
        })?;
        let items = self.by_sender.get_mut(&sender)?;
        let item = items.remove(at);
        if items.is_empty() {
            self.by_sender.remove(&sender);
            self.order.retain(|other| *other != sender);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(turns: &mut Turns<(&'static str, u32)>) -> Vec<(&'static str, u32)> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn senders_take_turns_and_each_keeps_its_order() {
        let mut turns = Turns::default();
        for n in 0..4 {
            turns.push("a", ("a", n));
        }
        turns.push("b", ("b", 0));
        turns.push("c", ("c", 0));
        turns.push("c", ("c", 1));
        assert_eq!((turns.of("a"), turns.of("d")), (4, 0));
        let all = [
            ("a", 0),
            ("b", 0),
            ("c", 0),
            ("a", 1),
            ("c", 1),
            ("a", 2),
            ("a", 3),
        ];
        assert_eq!(drain(&mut turns), all);
        assert!(turns.is_empty());
    }

    #[test]
    fn what_is_taken_out_leaves_no_turn_behind() {
        let mut turns = Turns::default();
        turns.push("a", ("a", 0));
        turns.push("b", ("b", 0));
        turns.push("b", ("b", 1));
        assert_eq!(turns.remove(|item| *item == ("a", 0)), Some(("a", 0)));
        assert_eq!(turns.remove(|item| *item == ("a", 0)), None);
        assert_eq!(turns.remove(|item| item.1 == 0), Some(("b", 0)));
        turns.push("a", ("a", 1));
        assert_eq!(drain(&mut turns), [("b", 1), ("a", 1)]);
    }
}
