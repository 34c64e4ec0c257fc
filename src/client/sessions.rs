//! The ids of writes. A session is a random number of 128 bits and counts its requests, `SESSION:NUMBER`; a node
//! remembers its last request alone, so it has one request under way at a time. Threads that write at once get a
//! session each, and leave it here for the next write.

use crate::error::{Error, Kind, Result};
use std::sync::{Mutex, PoisonError};

/// At most so many sessions wait for their next request.
const MOST_IDLE: usize = 1024;

struct Session {
    name: u128,
    number: u64,
}

/// The sessions of a client that are not in use.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Vec<Session>>);

/// The id of one write, the same for each of its attempts. Its session is free again when this is dropped.
pub(super) struct WriteId<'a> {
    sessions: &'a Sessions,
    session: Session,
}

impl Sessions {
    /// An id for the next write. Errors: `System` if there are no random numbers.
    pub fn next(&self) -> Result<WriteId<'_>> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle {
            Some(session) => session,
            None => Session { name: random()?, number: 0 },
        };
        session.number += 1;
        Ok(WriteId { sessions: self, session })
    }
}

impl WriteId<'_> {
    /// As it travels in `Catstore-Request-Id`.
    pub fn text(&self) -> String {
        format!("{:032x}:{}", self.session.name, self.session.number)
    }
}

impl Drop for WriteId<'_> {
    fn drop(&mut self) {
        let Session { name, number } = self.session;
        let mut idle = self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(Session { name, number });
        }
    }
}

fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(Kind::System, format!("the system gives no random bytes: {error}")))?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_and_is_used_by_one_write_at_a_time() {
        let sessions = Sessions::default();
        let split = |id: &WriteId<'_>| {
            let text = id.text();
            let (session, number) = text.split_once(':').unwrap();
            assert_eq!(session.len(), 32);
            (session.to_owned(), number.parse::<u64>().unwrap())
        };
        let (first, number) = split(&sessions.next().unwrap());
        assert_eq!(number, 1);
        let again = sessions.next().unwrap();
        assert_eq!(split(&again), (first.clone(), 2));
        let other = sessions.next().unwrap();
        assert_ne!(split(&other).0, first);
        assert_eq!(split(&other).1, 1);
        drop((again, other));
        let (one, two) = (sessions.next().unwrap(), sessions.next().unwrap());
        assert_eq!(split(&one).1 + split(&two).1, 5);
    }
}
