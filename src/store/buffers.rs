//! Memory of a chunk's size that is used again. Fresh memory costs a page fault for every 4 KiB, which for a chunk takes
//! about as long as hashing it.

use super::chunk::CHUNK;
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many buffers are kept for later.
const MOST: usize = 8;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that comes back when it is dropped.
struct Borrowed(Vec<u8>);

/// An empty buffer with room for a chunk.
pub fn take() -> Vec<u8> {
    spare().pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
}

/// The bytes for whoever wants them; if their memory is that of a chunk, it is used again after the last one.
pub fn share(bytes: Vec<u8>) -> Bytes {
    match bytes.capacity() == CHUNK {
        true => Bytes::from_owner(Borrowed(bytes)),
        false => Bytes::from(bytes),
    }
}

fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        let mut spare = spare();
        if spare.len() < MOST {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_until_nobody_has_them() {
        let mut bytes = take();
        assert!(bytes.is_empty() && bytes.capacity() == CHUNK);
        bytes.extend_from_slice(b"meow");
        let shared = share(bytes);
        let part = shared.slice(1..3);
        drop(shared);
        let mut others: Vec<Vec<u8>> = (0..MOST + 1).map(|_| take()).collect();
        others.iter_mut().for_each(|other| other.extend_from_slice(b"purr"));
        assert_eq!(&part[..], b"eo");
        others.into_iter().for_each(|other| drop(share(other)));
        assert!(take().is_empty());
        assert_eq!(&share(b"small".to_vec())[..], b"small");
    }
}
