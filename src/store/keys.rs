//! The key space of the state: the only place that encodes LevelDB keys.
//!
//! | row | key | value |
//! |---|---|---|
//! | format | `01 66` ("f") | format version, u32 big-endian |
//! | counters | `01 63` ("c") | the machine's counters |
//! | owned slots | `01 73` ("s") | slot ranges |
//! | directory | `01 64` ("d") | the masters' directory |
//! | moves | `01 76` ("v") | the moves that the group is in, and the last ones it was in |
//! | flush mark | `01 6d` ("m") | local: not part of the machine's state |
//! | record | `02` user key | a record, see `record.rs` |
//! | expiry | `03` milliseconds u64 big-endian, user key | empty |
//! | request id | `04` slot u16 big-endian, id | clock u64 big-endian, fingerprint, reply |
//! | request age | `05` clock u64 big-endian, slot u16 big-endian, id | empty; `01` behind a first sweep |
//! | session | `06` session, 16 bytes | number u64 big-endian, slot u16 big-endian, then as a request id |
//! | session age | `07` clock u64 big-endian, session | empty |
//! | outbox | `08` number u64 big-endian | the row that changed |
//! | in chunks | `09` user key | empty: the record's value is in chunks |
//!
//! Records are ordered by user key, so that a prefix scan of rows is a prefix scan of keys.

/// The version of everything below `state/`, written into each generation.
pub const FORMAT: u32 = 1;

const MACHINE: u8 = 1;
const RECORD: u8 = 2;
const EXPIRY: u8 = 3;
const REQUEST: u8 = 4;
const REQUEST_AGE: u8 = 5;
const SESSION: u8 = 6;
const SESSION_AGE: u8 = 7;
const OUTBOX: u8 = 8;
const CHUNKED: u8 = 9;

/// The row that holds the format version.
pub const FORMAT_ROW: [u8; 2] = [MACHINE, b'f'];
/// The row that holds the machine's counters.
pub const COUNTERS_ROW: [u8; 2] = [MACHINE, b'c'];
/// The row that holds the slots that the group owns.
pub const SLOTS_ROW: [u8; 2] = [MACHINE, b's'];
/// The row that holds the directory.
pub const DIRECTORY_ROW: [u8; 2] = [MACHINE, b'd'];
/// The row that holds the moves that the group is in.
pub const MOVES_ROW: [u8; 2] = [MACHINE, b'v'];
/// A local row, written with a sync after a flush to learn whether LevelDB still writes.
pub const FLUSH_ROW: [u8; 2] = [MACHINE, b'm'];

/// The value of a request-age row that a sweep has written anew.
pub const MET_ONCE: [u8; 1] = [1];

/// The first row behind all rows.
pub fn end() -> Vec<u8> {
    vec![0xff]
}

/// True for rows that belong to one folder and are not part of the machine's state: snapshots and digests pass over
/// them.
pub fn is_local(row: &[u8]) -> bool {
    row == FORMAT_ROW || row == FLUSH_ROW
}

/// (index, term) of the last applied entry: the first 16 bytes of [`COUNTERS_ROW`], two u64 little-endian. What
/// follows is the machine's. Errors with [`crate::error::Kind::Damaged`].
pub fn applied_of(counters: &[u8]) -> crate::error::Result<(u64, u64)> {
    let applied = counters.split_first_chunk::<8>().and_then(|(index, rest)| {
        Some((u64::from_le_bytes(*index), u64::from_le_bytes(*rest.first_chunk::<8>()?)))
    });
    applied.ok_or_else(|| {
        crate::error::Error::new(crate::error::Kind::Damaged, "the counters of the state are too short")
    })
}

/// The row of the record of `key`.
pub fn record(key: &[u8]) -> Vec<u8> {
    with_prefix(RECORD, &[key])
}

/// The user key in a record's row.
pub fn record_key(row: &[u8]) -> Option<&[u8]> {
    row.strip_prefix(&[RECORD])
}

/// The first row that can belong to a record, and the first row after all of them.
pub fn records() -> (Vec<u8>, Vec<u8>) {
    (vec![RECORD], vec![RECORD + 1])
}

/// Rows of the keys that begin with `prefix`: first row, and the first row behind them.
pub fn records_with_prefix(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let from = record(prefix);
    let mut to = from.clone();
    while to.last() == Some(&0xff) {
        to.pop();
    }
    if let Some(last) = to.last_mut() {
        *last += 1;
    }
    (from, to)
}

/// The row that makes `key` expire at `milliseconds` of the group's clock.
pub fn expiry(milliseconds: u64, key: &[u8]) -> Vec<u8> {
    with_prefix(EXPIRY, &[&milliseconds.to_be_bytes(), key])
}

/// (milliseconds, user key) of an expiry row.
pub fn expiry_parts(row: &[u8]) -> Option<(u64, &[u8])> {
    let (time, key) = row.strip_prefix(&[EXPIRY])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*time), key))
}

/// Expiry rows up to and including `milliseconds`: first row, and the first row behind them.
pub fn expiries_until(milliseconds: u64) -> (Vec<u8>, Vec<u8>) {
    (vec![EXPIRY], until(EXPIRY, milliseconds))
}

/// The row that remembers the reply to the request `id` on a key of `slot`.
pub fn request(slot: u16, id: &[u8]) -> Vec<u8> {
    with_prefix(REQUEST, &[&slot.to_be_bytes(), id])
}

/// All request rows: first row, and the first row behind them.
pub fn requests() -> (Vec<u8>, Vec<u8>) {
    (vec![REQUEST], vec![REQUEST + 1])
}

/// The row that orders remembered requests by age.
pub fn request_age(clock: u64, slot: u16, id: &[u8]) -> Vec<u8> {
    with_prefix(REQUEST_AGE, &[&clock.to_be_bytes(), &slot.to_be_bytes(), id])
}

/// (clock, slot, id) of a request-age row.
pub fn request_age_parts(row: &[u8]) -> Option<(u64, u16, &[u8])> {
    let (clock, rest) = row.strip_prefix(&[REQUEST_AGE])?.split_first_chunk::<8>()?;
    let (slot, id) = rest.split_first_chunk::<2>()?;
    Some((u64::from_be_bytes(*clock), u16::from_be_bytes(*slot), id))
}

/// Request-age rows up to and including `clock`: first row, and the first row behind them.
pub fn request_ages_until(clock: u64) -> (Vec<u8>, Vec<u8>) {
    (vec![REQUEST_AGE], until(REQUEST_AGE, clock))
}

/// The row that remembers the last request of `session`.
pub fn session(session: &[u8; 16]) -> Vec<u8> {
    with_prefix(SESSION, &[session])
}

/// The row that orders sessions by age: by when a sweep last looked at them, at first by their first request.
pub fn session_age(clock: u64, session: &[u8; 16]) -> Vec<u8> {
    with_prefix(SESSION_AGE, &[&clock.to_be_bytes(), session])
}

/// (clock, session) of a session-age row.
pub fn session_age_parts(row: &[u8]) -> Option<(u64, [u8; 16])> {
    let (clock, session) = row.strip_prefix(&[SESSION_AGE])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*clock), session.try_into().ok()?))
}

/// Session-age rows up to and including `clock`: first row, and the first row behind them.
pub fn session_ages_until(clock: u64) -> (Vec<u8>, Vec<u8>) {
    (vec![SESSION_AGE], until(SESSION_AGE, clock))
}

/// The row of the change with this number.
pub fn outbox(number: u64) -> Vec<u8> {
    with_prefix(OUTBOX, &[&number.to_be_bytes()])
}

/// The number of a row of the outbox.
pub fn outbox_number(row: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(row.strip_prefix(&[OUTBOX])?.try_into().ok()?))
}

/// The row that says that the value of `key` is in chunks.
pub fn chunked(key: &[u8]) -> Vec<u8> {
    with_prefix(CHUNKED, &[key])
}

/// The user key of a row that says that its value is in chunks.
pub fn chunked_key(row: &[u8]) -> Option<&[u8]> {
    row.strip_prefix(&[CHUNKED])
}

/// The rows of keys whose values are in chunks: first row, and the first row behind them.
pub fn all_chunked() -> (Vec<u8>, Vec<u8>) {
    (vec![CHUNKED], vec![CHUNKED + 1])
}

/// The rows of one slot's remembered requests: first row, and the first row behind them.
pub fn requests_of(slot: u16) -> (Vec<u8>, Vec<u8>) {
    (
        with_prefix(REQUEST, &[&slot.to_be_bytes()]),
        match slot.checked_add(1) {
            Some(next) => with_prefix(REQUEST, &[&next.to_be_bytes()]),
            None => vec![REQUEST + 1],
        },
    )
}

/// (slot, id) of a request row.
pub fn request_parts(row: &[u8]) -> Option<(u16, &[u8])> {
    let (slot, id) = row.strip_prefix(&[REQUEST])?.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*slot), id))
}

/// The session of a session row.
pub fn session_of(row: &[u8]) -> Option<[u8; 16]> {
    row.strip_prefix(&[SESSION])?.try_into().ok()
}

/// The rows that go where their slot goes, in order: records, remembered requests, sessions.
pub fn movable() -> [(Vec<u8>, Vec<u8>); 3] {
    [RECORD, REQUEST, SESSION].map(|kind| (vec![kind], vec![kind + 1]))
}

/// Every row that the machine carries over a clear, as ranges: request ids, sessions, and their ages.
pub fn carried_over() -> [(Vec<u8>, Vec<u8>); 1] {
    [(vec![REQUEST], vec![SESSION_AGE + 1])]
}

/// The first row, and a row behind all rows of any kind.
pub fn everything() -> (Vec<u8>, Vec<u8>) {
    (Vec::new(), vec![0xff])
}

fn until(kind: u8, time: u64) -> Vec<u8> {
    match time.checked_add(1) {
        Some(next) => with_prefix(kind, &[&next.to_be_bytes()]),
        None => vec![kind + 1],
    }
}

fn with_prefix(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    row.push(kind);
    for part in parts {
        row.extend_from_slice(part);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_rows() {
        assert_eq!(FORMAT, 1);
        assert_eq!(FORMAT_ROW, [0x01, 0x66]);
        assert_eq!(COUNTERS_ROW, [0x01, 0x63]);
        assert_eq!(SLOTS_ROW, [0x01, 0x73]);
        assert_eq!(DIRECTORY_ROW, [0x01, 0x64]);
        assert_eq!(FLUSH_ROW, [0x01, 0x6d]);
        assert_eq!(record(b"A"), [0x02, 0x41]);
        assert_eq!(record(b""), [0x02]);
        assert_eq!(records(), (vec![0x02], vec![0x03]));
        assert_eq!(records_with_prefix(b"a"), (vec![0x02, 0x61], vec![0x02, 0x62]));
        assert_eq!(records_with_prefix(b""), (vec![0x02], vec![0x03]));
        assert_eq!(records_with_prefix(&[0xff, 0xff]), (vec![0x02, 0xff, 0xff], vec![0x03]));
        assert_eq!(expiry(258, b"k"), [0x03, 0, 0, 0, 0, 0, 0, 1, 2, 0x6b]);
        assert_eq!(expiries_until(258), (vec![0x03], vec![0x03, 0, 0, 0, 0, 0, 0, 1, 3]));
        assert_eq!(expiries_until(u64::MAX), (vec![0x03], vec![0x04]));
        assert_eq!(request(259, b"id"), [0x04, 1, 3, 0x69, 0x64]);
        assert_eq!(request_age(1, 259, b"id"), [0x05, 0, 0, 0, 0, 0, 0, 0, 1, 1, 3, 0x69, 0x64]);
        let session_id = *b"0123456789abcdef";
        assert_eq!(session(&session_id), b"\x060123456789abcdef");
        assert_eq!(session_age(258, &session_id), b"\x07\0\0\0\0\0\0\x01\x020123456789abcdef");
        assert_eq!(session_ages_until(258), (vec![0x07], vec![0x07, 0, 0, 0, 0, 0, 0, 1, 3]));
        assert_eq!(session_ages_until(u64::MAX), (vec![0x07], vec![0x08]));
        assert_eq!(carried_over(), [(vec![0x04], vec![0x08])]);
        assert_eq!(MOVES_ROW, [0x01, 0x76]);
        assert_eq!(outbox(258), [0x08, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(chunked(b"A"), [0x09, 0x41]);
        assert_eq!(all_chunked(), (vec![0x09], vec![0x0a]));
        assert_eq!(requests_of(258), (vec![0x04, 1, 2], vec![0x04, 1, 3]));
        assert_eq!(movable(), [(vec![0x02], vec![0x03]), (vec![0x04], vec![0x05]), (vec![0x06], vec![0x07])]);
        assert_eq!(applied_of(&[7, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9]).unwrap(), (263, 2));
        assert!(applied_of(&[0; 15]).is_err());
    }

    proptest! {
        #[test]
        fn rows_come_back(time: u64, slot: u16, key: Vec<u8>, session: [u8; 16]) {
            let (record, expiry, age) = (record(&key), expiry(time, &key), request_age(time, slot, &key));
            prop_assert_eq!(record_key(&record), Some(&key[..]));
            prop_assert_eq!(expiry_parts(&expiry), Some((time, &key[..])));
            prop_assert_eq!(request_age_parts(&age), Some((time, slot, &key[..])));
            prop_assert_eq!(session_age_parts(&session_age(time, &session)), Some((time, session)));
            let request = request(slot, &key);
            prop_assert_eq!(request_parts(&request), Some((slot, &key[..])));
            prop_assert_eq!(session_of(&super::session(&session)), Some(session));
            prop_assert_eq!(outbox_number(&outbox(time)), Some(time));
            let chunked = chunked(&key);
            prop_assert_eq!(chunked_key(&chunked), Some(&key[..]));
        }

        #[test]
        fn arbitrary_rows_never_panic(row: Vec<u8>) {
            let _ = (record_key(&row), expiry_parts(&row), request_age_parts(&row), session_age_parts(&row));
            let _ = (request_parts(&row), session_of(&row), outbox_number(&row));
        }

        #[test]
        fn a_prefix_range_holds_exactly_the_keys_with_that_prefix(prefix: Vec<u8>, key: Vec<u8>) {
            let (from, to) = records_with_prefix(&prefix);
            let row = record(&key);
            prop_assert_eq!(from <= row && row < to, key.starts_with(&prefix));
        }
    }
}
