//! A bounded queue into one thread that is woken when it is worth while: as soon as as many items wait as it asked for.
//! A thread that gathers fifty commands is woken once, not fifty times.

use super::shared::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Why an item was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The queue is full.
    Full,
    /// The thread has ended.
    Gone,
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// Something is there, or the time is over.
    Over,
    /// Nothing is there, and nobody is left who could send.
    Alone,
}

struct Queue<T> {
    items: VecDeque<T>,
    /// The thread sleeps until so many items are there; 0 while it does not sleep.
    wanted: usize,
    senders: usize,
    /// False once the thread has ended.
    open: bool,
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// For the thread.
    filled: Condvar,
    /// For those who wait for room.
    emptied: Condvar,
    limit: usize,
}

/// The way in.
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// The way out.
pub(super) struct Receiver<T>(Arc<Shared<T>>);

/// A queue of at most `limit` items.
pub(super) fn mailbox<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Queue { items: VecDeque::new(), wanted: 0, senders: 1, open: true };
    let shared =
        Arc::new(Shared { queue: Mutex::new(queue), filled: Condvar::new(), emptied: Condvar::new(), limit });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Shared<T> {
    /// Adds an item; `urgent` ones wake the thread in any case.
    fn push(&self, queue: &mut Queue<T>, item: T, urgent: bool) {
        queue.items.push_back(item);
        if queue.wanted > 0 && (urgent || queue.items.len() >= queue.wanted) {
            queue.wanted = 0;
            self.filled.notify_one();
        }
    }
}

impl<T> Sender<T> {
    /// Adds an item that can wait until the thread has gathered what it wants.
    pub(super) fn try_send(&self, item: T) -> Result<(), Refused> {
        self.offer(item, false)
    }

    /// Adds an item that the thread is to see at once.
    pub(super) fn try_send_now(&self, item: T) -> Result<(), Refused> {
        self.offer(item, true)
    }

    fn offer(&self, item: T, urgent: bool) -> Result<(), Refused> {
        let mut queue = lock(&self.0.queue);
        if !queue.open {
            return Err(Refused::Gone);
        }
        if queue.items.len() >= self.0.limit {
            return Err(Refused::Full);
        }
        self.0.push(&mut queue, item, urgent);
        Ok(())
    }

    /// Adds an item that the thread is to see at once, as soon as there is room.
    pub(super) fn send(&self, item: T) -> Result<(), Refused> {
        let mut queue = lock(&self.0.queue);
        while queue.open && queue.items.len() >= self.0.limit {
            queue = self.0.emptied.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.open {
            return Err(Refused::Gone);
        }
        self.0.push(&mut queue, item, true);
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0.queue).senders += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.senders -= 1;
        if queue.senders == 0 {
            self.0.filled.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// Sleeps until `count` items are there, an urgent one has come, or it is `until`.
    pub(super) fn wait(&self, count: usize, until: Instant) -> Waited {
        let mut queue = lock(&self.0.queue);
        // What is asked for is never more than there is room for.
        queue.wanted = count.clamp(1, self.0.limit);
        if queue.items.len() >= queue.wanted {
            queue.wanted = 0;
        }
        while queue.wanted > 0 && queue.senders > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.0.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.wanted = 0;
        if queue.items.is_empty() && queue.senders == 0 { Waited::Alone } else { Waited::Over }
    }

    /// Takes the first `most` items.
    pub(super) fn take(&self, most: usize) -> VecDeque<T> {
        let mut queue = lock(&self.0.queue);
        let full = queue.items.len() >= self.0.limit;
        let taken = if queue.items.len() <= most {
            // What is left has room for what came now: it will come again.
            let room = VecDeque::with_capacity(queue.items.len());
            std::mem::replace(&mut queue.items, room)
        } else {
            queue.items.drain(..most).collect()
        };
        if full {
            self.0.emptied.notify_all();
        }
        taken
    }

    /// Puts items back that were taken last, in front of all others.
    pub(super) fn put_back(&self, mut items: VecDeque<T>) {
        let mut queue = lock(&self.0.queue);
        items.append(&mut queue.items);
        queue.items = items;
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut queue = lock(&self.0.queue);
            queue.open = false;
            self.0.emptied.notify_all();
            std::mem::take(&mut queue.items)
        };
        // Outside of the lock: whoever is dropped may drop senders.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(30);

    fn later() -> Instant {
        Instant::now() + LONG
    }

    #[test]
    fn items_come_in_order_and_no_more_than_there_is_room_for() {
        let (sender, receiver) = mailbox(3);
        for item in 0..3 {
            sender.try_send(item).unwrap();
        }
        assert_eq!(sender.try_send(3), Err(Refused::Full));
        assert_eq!(receiver.wait(1, later()), Waited::Over);
        assert_eq!(receiver.take(2), [0, 1]);
        receiver.put_back([0, 1].into());
        assert_eq!(receiver.take(usize::MAX), [0, 1, 2]);
        drop(receiver);
        assert_eq!((sender.try_send_now(4), sender.send(5)), (Err(Refused::Gone), Err(Refused::Gone)));
    }

    #[test]
    fn the_thread_sleeps_until_there_is_enough_or_something_urgent_or_the_time_is_over() {
        let (sender, receiver) = mailbox(10);
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|item| sender.try_send(item).unwrap()));
            receiver.wait(3, later());
            assert_eq!(receiver.take(10).len(), 3, "all of them at once");
            scope.spawn(|| {
                sender.try_send(7).unwrap();
                sender.try_send_now(8).unwrap();
            });
            receiver.wait(10, later());
            assert_eq!(receiver.take(10), [7, 8]);
        });
        assert!(began.elapsed() < LONG);
        sender.try_send(9).unwrap();
        assert_eq!(receiver.wait(2, Instant::now() + Duration::from_millis(5)), Waited::Over);
        // More than there is room for is never waited for.
        (0..9).for_each(|item| sender.try_send(item).unwrap());
        assert_eq!(receiver.wait(usize::MAX, later()), Waited::Over);
    }

    #[test]
    fn who_waits_for_room_gets_it_and_the_last_sender_ends_the_wait() {
        let (sender, receiver) = mailbox(1);
        sender.send(1).unwrap();
        std::thread::scope(|scope| {
            let other = sender.clone();
            scope.spawn(move || other.send(2).unwrap());
            let mut seen = Vec::new();
            while seen.len() < 2 {
                receiver.wait(1, later());
                seen.extend(receiver.take(1));
            }
            assert_eq!(seen, [1, 2]);
            scope.spawn(move || drop(sender));
            assert_eq!(receiver.wait(1, later()), Waited::Alone);
        });
    }

    #[test]
    fn items_that_hold_senders_can_be_dropped_with_the_queue() {
        struct Holder(#[expect(dead_code, reason = "it is dropped")] Option<Sender<Holder>>);
        let (sender, receiver) = mailbox(2);
        assert!(sender.try_send(Holder(Some(sender.clone()))).is_ok());
        drop(receiver);
        assert_eq!(sender.try_send(Holder(None)), Err(Refused::Gone));
    }
}
