//! The keyspace against a model, and the cases that the model does not know.

use super::sweep::SWEEP_ROWS;
use super::*;
use crate::replica::machine::Effect;
use crate::store::state::{View, Visit};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Rows(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl State for Rows {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().get(row).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let rows = self.0.lock().unwrap().clone();
        for (row, value) in rows.range(from.to_vec()..to.to_vec()) {
            if visit(row, value).is_break() {
                break;
            }
        }
        Ok(())
    }
    fn write(&self, batch: &Batch) -> Result<()> {
        let mut rows = self.0.lock().unwrap();
        for (row, value) in &batch.changes {
            match value {
                Some(value) => rows.insert(row.clone(), value.clone()),
                None => rows.remove(row),
            };
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn view(&self) -> Result<Arc<dyn View>> {
        Ok(Arc::new(Copy(Rows(Mutex::new(self.0.lock().unwrap().clone())))))
    }
    fn failure(&self) -> Option<Error> {
        None
    }
}

struct Copy(Rows);

impl View for Copy {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(row)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan(from, to, visit)
    }
}

struct Fixture {
    rows: Rows,
    machine: Keyspace,
    clock: u64,
}

impl Fixture {
    fn new() -> Fixture {
        let rows = Rows::default();
        rows.write(&founding_rows(&SlotTable::whole(0)).unwrap()).unwrap();
        let machine = Keyspace::load(&rows).unwrap();
        Fixture { rows, machine, clock: 1_000 }
    }

    fn entry(&mut self, requests: &[Request]) -> Vec<Reply> {
        let payload = Keyspace::encode(self.clock, requests).unwrap();
        let at = Position { index: self.machine.position().index + 1, term: 1 };
        let applied = self.machine.apply(&self.rows, at, &payload).unwrap();
        match applied.effect {
            Effect::Write(batch) => self.rows.write(&batch).unwrap(),
            Effect::Replace(batch) => {
                self.rows.0.lock().unwrap().clear();
                self.rows.write(&batch).unwrap();
            }
        }
        self.check_counts();
        applied.replies
    }

    fn one(&mut self, command: Command) -> Reply {
        self.entry(&[Request { id: None, command }]).remove(0)
    }

    fn with_id(&mut self, id: &str, command: Command) -> Reply {
        self.entry(&[Request { id: Some(id.into()), command }]).remove(0)
    }

    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let row = self.rows.get(&keys::record(key)).unwrap()?;
        let record = crate::store::record::Record::decode(row).unwrap();
        (!expired(&record.meta, self.machine.clock())).then(|| record.value().to_vec())
    }

    /// What is counted is what is there, and what is loaded again is what was in memory.
    fn check_counts(&self) {
        let rows = self.rows.0.lock().unwrap();
        let (mut count, mut bytes, mut expiring) = (0, 0, 0);
        for (row, value) in rows.iter() {
            if let Some(key) = keys::record_key(row) {
                let (meta, _) = record::decode_meta(value).unwrap();
                count += 1;
                bytes += key.len() as u64 + meta.size;
                if let Some(at) = meta.expires {
                    expiring += 1;
                    assert!(rows.contains_key(&keys::expiry(at, key)));
                }
            }
        }
        let kind = |kind: u8| rows.keys().filter(|row| row[0] == kind).count() as u64;
        let counters = &self.machine.counters;
        assert_eq!((counters.keys, counters.bytes, counters.expiring), (count, bytes, expiring));
        assert_eq!(kind(3), expiring, "one expiry row for each record that expires");
        assert_eq!((kind(5), kind(7)), (kind(4), kind(6)), "one age row for each request and session");
        assert_eq!(kind(4) + kind(6), counters.requests);
        drop(rows);
        assert_eq!(Keyspace::load(&self.rows).unwrap().counters, *counters);
    }
}

fn put_with(key: &[u8], value: &[u8], condition: Condition, ttl: Option<u64>) -> Put {
    Put {
        key: key.to_vec(),
        value: value.to_vec(),
        checksum: record::checksum(value),
        content_type: String::new(),
        ttl,
        condition,
    }
}

fn put(key: &[u8], value: &[u8]) -> Command {
    Command::Put(put_with(key, value, Condition::Any, None))
}

fn delete(key: &[u8]) -> Command {
    Command::Delete { key: key.to_vec(), condition: Condition::Any }
}

#[test]
fn golden_counters() {
    let counters =
        Counters { index: 1, term: 2, version: 3, clock: 4, keys: 5, bytes: 6, expiring: 7, requests: 256 };
    let row = counters.encode();
    assert_eq!(row.len(), 64);
    assert_eq!(&row[..16], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&row[56..], [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Counters::decode(&row).unwrap(), counters);
    assert!(Counters::decode(&row[..63]).is_err());
    assert!(Counters::decode(&[&row[..], &[0]].concat()).is_err());
}

#[test]
fn golden_payload() {
    let requests = [
        Request {
            id: Some("i".into()),
            command: Command::Put(put_with(b"A", b"happy", Condition::Version(300), Some(5))),
        },
        Request { id: None, command: delete(b"B") },
        Request { id: None, command: Command::Clear },
    ];
    let payload = Keyspace::encode(0x0102, &requests).unwrap();
    let mut golden = vec![1, 2, 1, 0, 0, 0, 0, 0, 0];
    golden.extend([3, 1, 1, b'i', 0, 1, b'A', 5]);
    golden.extend(b"happy");
    // The checksum is a varint of five bytes.
    let mut checksum = record::checksum(b"happy");
    while checksum >= 0x80 {
        golden.push((checksum & 0x7f) as u8 | 0x80);
        checksum >>= 7;
    }
    golden.push(checksum as u8);
    golden.extend([0, 1, 5, 3, 0xac, 2]);
    golden.extend([0, 1, 1, b'B', 0]);
    golden.extend([0, 3]);
    assert_eq!(payload, golden);
}

#[test]
fn an_unknown_kind_of_entry_stops_the_node() {
    let mut fixture = Fixture::new();
    let mut payload = Keyspace::encode(1, &[]).unwrap();
    payload[0] = 77;
    let error = fixture.machine.apply(&fixture.rows, Position { index: 1, term: 1 }, &payload).unwrap_err();
    assert_eq!(error.kind(), Kind::Foreign);
    assert_eq!(fixture.machine.position(), Position::default());
}

#[test]
fn versions_only_rise_also_over_deletes_and_clears() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.one(put(b"A", b"1")), Reply::Stored { version: 1, created: true });
    assert_eq!(fixture.one(put(b"A", b"2")), Reply::Stored { version: 2, created: false });
    assert_eq!(fixture.one(delete(b"A")), Reply::Deleted { version: 3 });
    assert_eq!(fixture.one(delete(b"A")), Reply::Absent);
    assert_eq!(fixture.one(put(b"A", b"3")), Reply::Stored { version: 4, created: true });
    assert_eq!(fixture.one(Command::Clear), Reply::Cleared { keys: 1 });
    assert_eq!(fixture.value(b"A"), None);
    assert_eq!(fixture.one(put(b"A", b"4")), Reply::Stored { version: 6, created: true });
}

#[test]
fn conditions_hold_or_nothing_changes() {
    let mut fixture = Fixture::new();
    let conditional = |value: &[u8], condition| Command::Put(put_with(b"A", value, condition, None));
    assert_eq!(
        fixture.one(conditional(b"x", Condition::Exists)),
        Reply::ConditionFailed { current: None, op: None }
    );
    assert_eq!(
        fixture.one(conditional(b"1", Condition::Absent)),
        Reply::Stored { version: 1, created: true }
    );
    assert_eq!(
        fixture.one(conditional(b"x", Condition::Absent)),
        Reply::ConditionFailed { current: Some(1), op: None }
    );
    assert_eq!(
        fixture.one(conditional(b"x", Condition::Version(2))),
        Reply::ConditionFailed { current: Some(1), op: None }
    );
    assert_eq!(
        fixture.one(conditional(b"2", Condition::Version(1))),
        Reply::Stored { version: 2, created: false }
    );
    let old = Command::Delete { key: b"A".to_vec(), condition: Condition::Version(1) };
    assert_eq!(fixture.one(old), Reply::ConditionFailed { current: Some(2), op: None });
    assert_eq!(fixture.value(b"A"), Some(b"2".to_vec()));
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut fixture = Fixture::new();
    fixture.one(put(b"{t}a", b"1"));
    let batch = |version| {
        Command::Batch(vec![
            BatchCommand::Put(put_with(b"{t}b", b"2", Condition::Any, None)),
            BatchCommand::Delete { key: b"{t}a".to_vec() },
            BatchCommand::Delete { key: b"{t}nothing".to_vec() },
            BatchCommand::Check { key: b"{t}a".to_vec(), condition: Condition::Version(version) },
        ])
    };
    assert_eq!(fixture.one(batch(9)), Reply::ConditionFailed { current: Some(1), op: Some(3) });
    assert_eq!((fixture.value(b"{t}a"), fixture.value(b"{t}b")), (Some(b"1".to_vec()), None));
    assert_eq!(fixture.one(batch(1)), Reply::Batch(vec![Some(2), None, None, None]));
    assert_eq!((fixture.value(b"{t}a"), fixture.value(b"{t}b")), (None, Some(b"2".to_vec())));
}

#[test]
fn a_group_without_the_slot_refuses() {
    let mut fixture = Fixture::new();
    fixture.machine.slots = Arc::new(SlotTable::default());
    assert_eq!(fixture.one(put(b"foo", b"1")), Reply::NotOwner { slot: 12182 });
    assert_eq!(fixture.machine.counters.version, 0);
}

#[test]
fn keys_expire_by_the_clock_of_the_group_and_never_come_back() {
    let mut fixture = Fixture::new();
    fixture.one(Command::Put(put_with(b"A", b"1", Condition::Any, Some(500))));
    assert_eq!(fixture.value(b"A"), Some(b"1".to_vec()));
    fixture.one(Command::Sweep);
    assert!(fixture.machine.due(fixture.clock + 999).is_none());
    assert!(fixture.machine.due(fixture.clock + 1000).is_some());
    fixture.clock += 499;
    fixture.one(put(b"B", b"x"));
    assert_eq!(fixture.value(b"A"), Some(b"1".to_vec()));
    fixture.clock += 1;
    fixture.one(put(b"B", b"x"));
    assert_eq!(fixture.value(b"A"), None);
    fixture.clock -= 400;
    fixture.one(put(b"B", b"x"));
    assert_eq!(fixture.value(b"A"), None, "the group's clock does not go back");
    assert_eq!(fixture.one(delete(b"A")), Reply::Absent);
    fixture.one(Command::Put(put_with(b"A", b"2", Condition::Absent, Some(10))));
    fixture.clock += 10_000;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 1 });
    assert_eq!(fixture.machine.counters.keys, 1);
    assert!(fixture.machine.due(u64::MAX).is_none(), "nothing left to expire");
}

#[test]
fn a_sweep_is_bounded_and_asks_for_more() {
    let mut fixture = Fixture::new();
    let puts: Vec<Request> = (0..SWEEP_ROWS + 5)
        .map(|number| Request {
            id: None,
            command: Command::Put(put_with(number.to_string().as_bytes(), b"", Condition::Any, Some(1))),
        })
        .collect();
    fixture.entry(&puts);
    fixture.clock += 10;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: SWEEP_ROWS as u64 });
    assert!(fixture.machine.due(fixture.clock).is_some());
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 5 });
    assert!(fixture.machine.due(fixture.clock + 5000).is_none());
}

#[test]
fn a_repeat_of_a_request_gets_the_first_reply_for_ten_minutes() {
    let mut fixture = Fixture::new();
    let first = fixture.with_id("r", put(b"A", b"1"));
    assert_eq!(first, Reply::Stored { version: 1, created: true });
    fixture.one(put(b"A", b"2"));
    assert_eq!(fixture.with_id("r", put(b"A", b"1")), first);
    assert_eq!(fixture.value(b"A"), Some(b"2".to_vec()), "the repeat did not undo the newer write");
    assert_eq!(
        fixture.with_id("r", put(b"A", b"other")),
        Reply::RequestIdReused,
        "another command is no repeat"
    );
    let repeats = [
        Request { id: Some("s".into()), command: put(b"A", b"3") },
        Request { id: Some("s".into()), command: put(b"A", b"3") },
    ];
    let replies = fixture.entry(&repeats);
    assert_eq!(replies[0], replies[1], "also within one entry");
    assert_eq!(fixture.one(Command::Clear), Reply::Cleared { keys: 1 });
    assert_eq!(fixture.with_id("r", put(b"A", b"1")), first, "also over a clear");
    assert_eq!(fixture.with_id("c", Command::Clear), Reply::Cleared { keys: 0 });
    fixture.one(put(b"A", b"4"));
    assert_eq!(fixture.with_id("c", Command::Clear), Reply::Cleared { keys: 0 });
    assert_eq!(fixture.value(b"A"), Some(b"4".to_vec()), "a repeated clear clears once");
    // The clock jumps, as when a member with another clock begins to lead.
    fixture.clock += 100 * REMEMBER_MS;
    assert_eq!(fixture.with_id("r", put(b"A", b"1")), first);
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 0 });
    assert_eq!(fixture.with_id("r", put(b"A", b"1")), first);
    fixture.clock += REMEMBER_MS - 1;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 0 });
    assert_eq!(fixture.with_id("r", put(b"A", b"1")), first);
    fixture.clock += 1;
    assert!(matches!(fixture.one(Command::Sweep), Reply::Swept { rows } if rows == 3));
    assert_eq!(fixture.machine.counters.requests, 0);
    assert_ne!(fixture.with_id("r", put(b"A", b"1")), first, "a new request");
}

#[test]
fn too_many_request_ids_are_refused_not_forgotten() {
    let mut fixture = Fixture::new();
    let first = fixture.with_id("r", put(b"A", b"1"));
    fixture.machine.counters.requests = MAX_REQUESTS;
    let payload =
        Keyspace::encode(1, &[Request { id: Some("new".into()), command: put(b"A", b"2") }]).unwrap();
    let applied = fixture.machine.apply(&fixture.rows, Position { index: 2, term: 1 }, &payload).unwrap();
    assert_eq!(applied.replies, [Reply::TooManyRequestIds]);
    let payload = Keyspace::encode(1, &[Request { id: Some("r".into()), command: put(b"A", b"1") }]).unwrap();
    let applied = fixture.machine.apply(&fixture.rows, Position { index: 3, term: 1 }, &payload).unwrap();
    assert_eq!(applied.replies, [first]);
}

/// The id of the request `number` of one of two sessions.
fn numbered(session: u8, number: u64) -> String {
    format!("{}:{number}", format!("{session:02x}").repeat(16))
}

#[test]
fn a_session_remembers_its_last_request() {
    let mut fixture = Fixture::new();
    let first = fixture.with_id(&numbered(1, 1), put(b"A", b"1"));
    assert_eq!(first, Reply::Stored { version: 1, created: true });
    fixture.one(put(b"A", b"2"));
    assert_eq!(fixture.with_id(&numbered(1, 1), put(b"A", b"1")), first);
    assert_eq!(fixture.value(b"A"), Some(b"2".to_vec()), "the repeat did not undo the newer write");
    assert_eq!(fixture.with_id(&numbered(1, 1), put(b"A", b"3")), Reply::RequestIdReused);
    assert_eq!(
        fixture.with_id(&numbered(2, 1), put(b"A", b"3")),
        Reply::Stored { version: 3, created: false }
    );

    // Another slot, and numbers that were given to other groups in between.
    let third = fixture.with_id(&numbered(1, 7), put(b"B", b"1"));
    assert_eq!(third, Reply::Stored { version: 4, created: true });
    assert_eq!(fixture.with_id(&numbered(1, 7), put(b"B", b"1")), third);
    for number in [1, 2, 6] {
        let late = fixture.with_id(&numbered(1, number), put(b"A", b"late"));
        assert_eq!(late, Reply::RequestIdPassed, "a request that was given up cannot come later");
    }
    assert_eq!(fixture.value(b"A"), Some(b"3".to_vec()));

    let repeats = [8, 8, 9, 8].map(|number| Request {
        id: Some(numbered(1, number)),
        command: put(b"A", format!("{number}").as_bytes()),
    });
    let replies = fixture.entry(&repeats);
    assert_eq!(replies[0], replies[1], "also within one entry");
    assert_eq!(replies[2..], [Reply::Stored { version: 6, created: false }, Reply::RequestIdPassed]);
    assert_eq!(fixture.machine.counters.requests, 2, "sessions are counted, not requests");
}

#[test]
fn a_session_goes_on_over_a_clear() {
    let mut fixture = Fixture::new();
    let first = fixture.with_id(&numbered(1, 1), put(b"A", b"1"));
    assert_eq!(fixture.one(Command::Clear), Reply::Cleared { keys: 1 });
    assert_eq!(fixture.with_id(&numbered(1, 1), put(b"A", b"1")), first);
    fixture.one(put(b"A", b"2"));
    assert_eq!(fixture.with_id(&numbered(1, 2), Command::Clear), Reply::Cleared { keys: 1 });
    fixture.one(put(b"A", b"3"));
    assert_eq!(fixture.with_id(&numbered(1, 2), Command::Clear), Reply::Cleared { keys: 1 });
    assert_eq!(fixture.with_id(&numbered(2, 1), Command::Clear), Reply::Cleared { keys: 1 });
    assert_eq!(fixture.with_id(&numbered(1, 1), put(b"A", b"1")), Reply::RequestIdPassed);
    assert_eq!(fixture.value(b"A"), None);
    assert_eq!(fixture.machine.counters.requests, 2);
}

#[test]
fn a_session_is_forgotten_when_two_sweeps_met_it_idle() {
    let mut fixture = Fixture::new();
    let command = || put(b"A", b"1");
    let first = fixture.with_id(&numbered(1, 1), command());
    fixture.with_id(&numbered(2, 1), command());
    // The clock jumps, as when a member with another clock begins to lead.
    fixture.clock += 100 * REMEMBER_MS;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 0 });
    assert_eq!(fixture.with_id(&numbered(1, 1), command()), first, "a repeat that is under way");
    fixture.clock += 1;
    let busy = fixture.with_id(&numbered(2, 2), command());
    fixture.clock += REMEMBER_MS - 2;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 0 });
    fixture.clock += 1;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 1 }, "the idle one");
    assert_eq!(fixture.with_id(&numbered(2, 2), command()), busy);
    fixture.clock += REMEMBER_MS;
    assert_eq!(fixture.one(Command::Sweep), Reply::Swept { rows: 1 }, "idle in its turn");
    assert_eq!(fixture.machine.counters.requests, 0);
    assert!(fixture.machine.due(u64::MAX).is_none());
}

#[test]
fn a_session_that_is_known_goes_on_where_new_ones_are_refused() {
    let mut fixture = Fixture::new();
    fixture.with_id(&numbered(1, 1), put(b"A", b"1"));
    fixture.machine.counters.requests = MAX_REQUESTS;
    let requests = [(2, 1), (1, 2)]
        .map(|(session, number)| Request { id: Some(numbered(session, number)), command: put(b"A", b"2") });
    let payload = Keyspace::encode(1, &requests).unwrap();
    let applied = fixture.machine.apply(&fixture.rows, Position { index: 2, term: 1 }, &payload).unwrap();
    assert_eq!(applied.replies, [Reply::TooManyRequestIds, Reply::Stored { version: 2, created: false }]);
    let Effect::Write(batch) = applied.effect else { panic!("not a write") };
    assert_eq!(batch.changes.len(), 3, "the record, the session, the counters: {batch:?}");
}

/// Few ids, plain and numbered, so that they come again.
fn any_id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]", (0u8..2, 1u64..8).prop_map(|(session, number)| numbered(session, number))]
}

/// A command of a small world: few keys in one slot, so that conditions meet.
fn any_command() -> impl Strategy<Value = Command> {
    let key = (0u8..4).prop_map(|number| vec![b'{', b't', b'}', b'a' + number]);
    let condition = prop_oneof![
        3 => Just(Condition::Any),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Exists),
        1 => (1u64..30).prop_map(Condition::Version),
    ];
    let put = (
        key.clone(),
        proptest::collection::vec(any::<u8>(), 0..4),
        condition.clone(),
        proptest::option::of(0u64..40),
    )
        .prop_map(|(key, value, condition, ttl)| put_with(&key, &value, condition, ttl));
    let op = prop_oneof![
        put.clone().prop_map(|put| BatchCommand::Put(Put { condition: Condition::Any, ..put })),
        key.clone().prop_map(|key| BatchCommand::Delete { key }),
        (key.clone(), condition.clone()).prop_map(|(key, condition)| BatchCommand::Check { key, condition }),
    ];
    prop_oneof![
        6 => put.prop_map(Command::Put),
        3 => (key, condition).prop_map(|(key, condition)| Command::Delete { key, condition }),
        2 => proptest::collection::vec(op, 0..5).prop_map(Command::Batch),
    ]
}

proptest! {
    #[test]
    fn one_entry_of_many_commands_does_what_many_entries_would(
        commands in proptest::collection::vec((any_command(), proptest::option::of(any_id())), 1..40),
    ) {
        let requests: Vec<Request> = commands.into_iter().map(|(command, id)| Request { id, command }).collect();
        let (mut together, mut apart) = (Fixture::new(), Fixture::new());
        let replies = together.entry(&requests);
        let single: Vec<Reply> = requests.iter().map(|request| apart.entry(std::slice::from_ref(request)).remove(0)).collect();
        prop_assert_eq!(replies, single);
        let strip = |fixture: &Fixture| {
            let mut rows = fixture.rows.0.lock().unwrap().clone();
            rows.remove(&keys::COUNTERS_ROW[..]);
            rows
        };
        prop_assert_eq!(strip(&together), strip(&apart));
    }

    #[test]
    fn arbitrary_payloads_never_panic(payload: Vec<u8>) {
        let mut fixture = Fixture::new();
        let _ = fixture.machine.apply(&fixture.rows, Position { index: 1, term: 1 }, &payload);
        let mut framed = begin_payload(PAYLOAD, 1);
        framed.extend(payload);
        let _ = fixture.machine.apply(&fixture.rows, Position { index: 2, term: 1 }, &framed);
    }

    #[test]
    fn arbitrary_counters_never_panic(row: Vec<u8>) {
        let _ = Counters::decode(&row);
    }
}
