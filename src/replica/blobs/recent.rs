//! Chunks that several readers want at the same time: the last ones that were read more than once, checked, in memory. They
//! stay for a moment only, so that what became of the files is seen.

use crate::store::chunk::Name;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many chunks are kept.
const MOST: usize = 16;
/// So many reads are remembered.
const MOST_SEEN: usize = 64;
/// How long a chunk is kept.
const MOMENT: Duration = Duration::from_secs(1);

/// Chunks that were lately read.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: VecDeque<(Name, Instant, Bytes)>,
    seen: VecDeque<(Name, Instant)>,
}

impl Recent {
    /// The chunk, if it is kept.
    pub(super) fn find(&mut self, name: &Name, now: Instant) -> Option<Bytes> {
        self.forget(now);
        self.kept.iter().find(|(kept, ..)| kept == name).map(|(.., bytes)| bytes.clone())
    }

    /// The chunk was read and checked. It is kept if it was read before.
    pub(super) fn note(&mut self, name: &Name, bytes: &Bytes, now: Instant) {
        self.forget(now);
        if self.kept.iter().any(|(kept, ..)| kept == name) {
            return;
        }
        if self.seen.iter().any(|(seen, _)| seen == name) {
            self.kept.push_back((*name, now, bytes.clone()));
        } else {
            self.seen.push_back((*name, now));
        }
        cut(&mut self.kept, MOST);
        cut(&mut self.seen, MOST_SEEN);
    }

    /// Lets go of what is not recent any more.
    pub(super) fn forget(&mut self, now: Instant) {
        let old = |since: &Instant| now.saturating_duration_since(*since) >= MOMENT;
        while self.kept.front().is_some_and(|(_, since, _)| old(since)) {
            self.kept.pop_front();
        }
        while self.seen.front().is_some_and(|(_, since)| old(since)) {
            self.seen.pop_front();
        }
    }
}

fn cut<T>(queue: &mut VecDeque<T>, most: usize) {
    while queue.len() > most {
        queue.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_twice_is_kept_for_a_moment() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let (name, bytes) = (Name::of(b"meow"), Bytes::from_static(b"meow"));
        recent.note(&name, &bytes, start);
        assert_eq!(recent.find(&name, start), None);
        recent.note(&name, &bytes, start);
        assert_eq!(recent.find(&name, start), Some(bytes.clone()));
        assert_eq!(recent.find(&name, start + MOMENT), None);
    }

    #[test]
    fn many_reads_take_no_more_room() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        for number in 0..1000_u32 {
            let name = Name::of(&number.to_be_bytes());
            for _ in 0..2 {
                recent.note(&name, &Bytes::from_static(b"x"), start);
            }
            assert!(recent.find(&name, start).is_some());
        }
        assert_eq!((recent.kept.len(), recent.seen.len()), (MOST, MOST_SEEN));
    }
}
