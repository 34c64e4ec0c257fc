//! Members of one group that talk to each other without a network: elections, the promise, the lease, hand-over,
//! clones. The simulation does the same with faults.

use super::*;
use crate::cluster::slots::SlotTable;
use crate::replica::command::{Command, Condition, Put, Reply, Request};
use crate::replica::copies::Offer;
use crate::replica::core::{LEASE_MS, PROMISE_MS, Role, TICK_MS};
use crate::replica::keyspace::{Keyspace, founding_rows};
use crate::replica::snapshot::{self, Held};
use crate::store::doubles::{Disk, MemoryGenerations, MemoryLog};
use crate::store::record::checksum;
use crate::store::state::Building as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType};
use std::collections::VecDeque;

type Subject = Member<Keyspace, MemoryLog, MemoryGenerations>;

#[derive(Default)]
struct Post(Vec<Message>);

impl Rim for Post {
    fn publish(&mut self, _status: &Status) {}
    fn send(&mut self, mut messages: Vec<Message>) {
        self.0.append(&mut messages);
    }
}

struct Group {
    now: u64,
    members: BTreeMap<u64, Subject>,
    /// Who is cut off from everybody.
    cut: BTreeSet<u64>,
    /// Which messages are lost.
    lose: fn(&BTreeMap<u64, Subject>, &Message) -> bool,
    mail: Vec<Message>,
    offers: BTreeMap<u64, Offer>,
    replies: Vec<(Ticket, Result<Reply>)>,
    reads: Vec<(Ticket, Result<()>)>,
}

impl Group {
    /// Member 1 alone with all slots, and empty ones that are to join it.
    fn new(size: u64) -> Group {
        let mut group = Group {
            now: 10_000,
            members: BTreeMap::new(),
            cut: BTreeSet::new(),
            lose: |_, _| false,
            mail: Vec::new(),
            offers: BTreeMap::new(),
            replies: Vec::new(),
            reads: Vec::new(),
        };
        for id in 1..=size {
            let (membership, slots) = match id {
                1 => (ConfState { voters: vec![1], ..ConfState::default() }, SlotTable::whole(0)),
                _ => (ConfState::default(), SlotTable::default()),
            };
            let (log, generations) = Disk::new(id, membership, &founding_rows(&slots).unwrap()).open(false);
            let mut member = Member::open(Setup::new(id, 1, id, group.now), log, generations).unwrap();
            member.want(Wanted { members: (1..=size).collect(), ..Wanted::default() });
            group.members.insert(id, member);
        }
        group.settle();
        group
    }

    /// A group in which everybody is where it belongs.
    fn grown(size: u64) -> Group {
        let mut group = Group::new(size);
        let voters = (size - 1 + size % 2) as usize;
        group.ticks_until(|group| {
            let configuration = group.members[&1].core().membership();
            let copied =
                |member: &Subject| member.machine().position() == group.members[&1].machine().position();
            group.members.values().all(copied)
                && configuration.voters.len() == voters
                && configuration.voters_outgoing.is_empty()
                && group.lease(1) > group.now
        });
        group
    }

    /// Runs everybody until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            for (id, member) in &mut self.members {
                let mut post = Post::default();
                let outputs = member.run(self.now, &mut post).unwrap();
                let cut = &self.cut;
                self.mail.extend(
                    post.0.into_iter().filter(|message| !cut.contains(&message.to) && !cut.contains(id)),
                );
                self.replies.extend(outputs.replies);
                self.reads.extend(outputs.reads);
                self.offers.extend(outputs.offers.into_iter().map(|offer| (offer.name.id, offer)));
                if let Some(mut fetch) = outputs.fetch {
                    let view = self.offers[&fetch.name.id].view.clone();
                    let held = Held { view, keys: 0, bytes: 0, ahead: Arc::default() };
                    let chunk = snapshot::encode(&held, &[], snapshot::CHUNK_BYTES).unwrap();
                    let chunk = snapshot::decode(&chunk.bytes).unwrap();
                    fetch.building.write(&chunk.rows).unwrap();
                    fetch.building.finish().unwrap();
                    member.fetched(fetch.name.id, Some(fetch.building));
                    self.mail.push(Message { to: *id, ..Message::default() });
                }
            }
            if self.mail.is_empty() {
                return;
            }
            for message in std::mem::take(&mut self.mail) {
                if message.from != 0
                    && !(self.lose)(&self.members, &message)
                    && let Some(member) = self.members.get_mut(&message.to)
                {
                    member.step(self.now, message);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK_MS;
        for member in self.members.values_mut() {
            member.tick(self.now);
        }
        self.settle();
    }

    fn ticks_until(&mut self, done: impl Fn(&Group) -> bool) {
        for _ in 0..200 {
            if done(self) {
                return;
            }
            self.tick();
        }
        let seen: Vec<_> = self
            .members
            .values()
            .map(|m| (m.status(), m.core().membership().clone(), m.core().last_index()))
            .collect();
        panic!("it does not come about in 20 s: {} {seen:?}", self.now);
    }

    fn lease(&self, id: u64) -> u64 {
        self.members[&id].status().lease
    }

    fn leads(&self, id: u64) -> bool {
        self.members[&id].status().role == Role::Leader
    }

    fn put(&mut self, id: u64, ticket: Ticket) {
        let put = Put {
            key: b"A".to_vec(),
            value: b"v".to_vec(),
            checksum: checksum(b"v"),
            content_type: String::new(),
            ttl: None,
            condition: Condition::Any,
        };
        let request = Request { id: None, command: Command::Put(put) };
        let member = self.members.get_mut(&id).unwrap();
        let refused = member.propose(1, &mut VecDeque::from([(ticket, request)]));
        self.replies.extend(refused.into_iter().map(|(ticket, error)| (ticket, Err(error))));
        self.settle();
    }

    fn answered(&self, ticket: Ticket) -> Option<&Result<Reply>> {
        self.replies.iter().find(|(answered, _)| *answered == ticket).map(|(_, reply)| reply)
    }
}

#[test]
fn clones_join_copy_and_vote_by_the_odd_rule() {
    for (size, voters) in [(2, 1), (3, 3), (4, 3), (5, 5)] {
        let mut group = Group::grown(size);
        assert_eq!(group.members[&1].core().membership().voters.len(), voters);
        group.put(1, 7);
        group.tick();
        group.tick();
        assert!(matches!(group.answered(7), Some(Ok(Reply::Stored { .. }))));
        for member in group.members.values() {
            assert_eq!(member.machine().position(), group.members[&1].machine().position());
            assert_eq!(member.machine().publish().counters.keys, 1);
        }
    }
}

#[test]
fn a_leader_that_dies_is_followed_by_another_after_the_promise() {
    let mut group = Group::grown(3);
    let died = group.now;
    group.cut.insert(1);
    group.ticks_until(|group| group.leads(2) || group.leads(3));
    assert!(group.now >= died + PROMISE_MS);
    assert!(group.lease(1) <= died + LEASE_MS, "its lease ended before");
    let leader = if group.leads(2) { 2 } else { 3 };
    group.put(leader, 8);
    assert!(matches!(group.answered(8), Some(Ok(_))));
    group.cut.clear();
    group.ticks_until(|group| !group.leads(1) && group.members[&1].machine().publish().counters.keys == 1);
}

#[test]
fn a_member_that_has_just_opened_neither_votes_nor_campaigns() {
    let mut group = Group::grown(3);
    let Group { members, now, .. } = &mut group;
    let (log, generations) = members.remove(&2).unwrap().into_stores();
    let mut opened: Subject = Member::open(Setup::new(2, 1, 9, *now), log, generations).unwrap();
    let mut ask = Message {
        from: 3,
        to: 2,
        term: opened.core().term() + 1,
        index: 1000,
        log_term: 1000,
        ..Message::default()
    };
    ask.set_msg_type(MessageType::MsgRequestVote);
    let mut post = Post::default();
    opened.step(*now + PROMISE_MS - 1, ask.clone());
    opened.run(*now + PROMISE_MS - 1, &mut post).unwrap();
    assert!(post.0.is_empty(), "it may have promised before it died");
    opened.step(*now + PROMISE_MS, ask.clone());
    opened.run(*now + PROMISE_MS, &mut post).unwrap();
    assert_eq!(post.0.len(), 1);
    assert!(!post.0[0].reject);
    let (log, generations) = opened.into_stores();
    let mut again: Subject = Member::open(Setup::new(2, 1, 9, *now), log, generations).unwrap();
    ask.term += 1;
    ask.context = b"CampaignTransfer".to_vec().into();
    again.step(*now, ask);
    let mut post = Post::default();
    again.run(*now, &mut post).unwrap();
    assert_eq!(post.0.len(), 1, "a vote that a leader asked for by handing over ignores every promise");
}

#[test]
fn a_leader_without_a_majority_has_no_lease_and_confirms_no_read() {
    let mut group = Group::grown(3);
    assert!(group.lease(1) > group.now && group.lease(1) < u64::MAX);
    group.cut.extend([2, 3]);
    let cut = group.now;
    group.members.get_mut(&1).unwrap().read(5);
    for _ in 0..30 {
        group.tick();
    }
    assert!(group.lease(1) <= cut + LEASE_MS);
    assert!(!group.leads(1), "check-quorum");
    assert_eq!(group.reads[0].1.as_ref().unwrap_err().kind(), Kind::Moved);
    assert_eq!(group.reads.len(), 1);
}

#[test]
fn a_round_confirms_every_read_that_waits() {
    let mut group = Group::grown(3);
    for ticket in 1..=3 {
        group.members.get_mut(&1).unwrap().read(ticket);
    }
    group.settle();
    let tickets: Vec<Ticket> =
        group.reads.iter().map(|(ticket, right)| right.as_ref().map(|()| *ticket).unwrap()).collect();
    assert_eq!(tickets, [1, 2, 3]);
    group.members.get_mut(&2).unwrap().read(4);
    group.settle();
    assert_eq!(group.reads[3].1.as_ref().unwrap_err().kind(), Kind::Moved, "a follower sends readers away");
}

#[test]
fn who_hands_over_has_no_lease_any_more_in_that_term() {
    let mut group = Group::grown(3);
    let (now, term) = (group.now, group.members[&1].status().term);
    // Nobody hears of the hand-over.
    group.cut.insert(1);
    let leader = group.members.get_mut(&1).unwrap();
    leader.leave(now);
    let mut post = Post::default();
    leader.run(now, &mut post).unwrap();
    assert!(post.0.iter().any(|message| message.get_msg_type() == MessageType::MsgTimeoutNow));
    assert_eq!((leader.status().lease, leader.status().term), (0, term));
    group.cut.clear();
    for _ in 0..5 {
        group.tick();
        assert!(group.members[&1].status().term > term || group.lease(1) == 0);
    }
}

#[test]
fn a_planned_stop_hands_over_also_in_a_group_of_two() {
    for size in [2, 3] {
        let mut group = Group::grown(size);
        let now = group.now;
        group.members.get_mut(&1).unwrap().leave(now);
        group.settle();
        group.ticks_until(|group| group.members[&1].has_left(group.now) && !group.leads(1));
        // From here on nobody needs it any more.
        group.cut.insert(1);
        group.ticks_until(|group| {
            group.members.keys().any(|id| *id != 1 && group.leads(*id) && group.lease(*id) > group.now)
        });
        let leader = group.members.keys().copied().find(|id| *id != 1 && group.leads(*id)).unwrap();
        group.put(leader, 9);
        assert!(matches!(group.answered(9), Some(Ok(_))), "{size} members");
    }
}

#[test]
fn a_voter_is_not_let_go_while_the_next_one_lacks_chunks() {
    let mut group = Group::grown(2);
    let (now, written) = (group.now, group.members[&1].machine().position().index);
    let lacking = |group: &mut Group, complete| {
        let progress = Progress { commit: 0, complete };
        group.members.get_mut(&1).unwrap().hear_progress(now, 2, progress);
        group.members.get_mut(&2).unwrap().note_complete(complete);
    };
    // It is complete up to here, and not up to the change that makes it the only voter.
    lacking(&mut group, written);
    group.members.get_mut(&1).unwrap().leave(now);
    group.ticks_until(|group| group.leads(2));
    for _ in 0..100 {
        group.tick();
        assert_eq!(group.members[&2].core().membership().voters_outgoing, [1]);
    }
    lacking(&mut group, u64::MAX);
    group.ticks_until(|group| group.members[&2].core().membership().voters_outgoing.is_empty());
}

#[test]
fn entries_that_another_leader_displaced_are_answered_however_far_they_reached() {
    let mut group = Group::grown(3);
    group.cut.insert(1);
    for ticket in 10..20 {
        group.put(1, ticket);
    }
    assert_eq!(group.members[&1].uncommitted(), 10);
    group.ticks_until(|group| group.leads(2) || group.leads(3));
    group.cut.clear();
    // Not even as many entries follow as there were: the new leader's first one tells of all of them.
    group.ticks_until(|group| group.members[&1].uncommitted() == 0);
    for ticket in 10..20 {
        assert!(matches!(group.answered(ticket), Some(Err(error)) if error.kind() == Kind::Moved));
    }
}

#[test]
fn a_leader_that_inherits_the_change_that_removes_it_steps_down() {
    let mut group = Group::grown(2);
    // Member 1 gives way; member 2 leads, and never hears that the end of the joint configuration has arrived.
    group.lose = |members, message| {
        let log = members[&1].core().log();
        let last = log.entries(log.last_index(), log.last_index() + 1, 1 << 20).unwrap();
        let ends = |entry: &Entry| {
            let change = ConfChangeV2::parse_from_bytes(&entry.data).unwrap_or_default();
            entry.get_entry_type() == EntryType::EntryConfChangeV2 && change.changes.is_empty()
        };
        let answers = [MessageType::MsgAppendResponse, MessageType::MsgHeartbeatResponse];
        message.from == 1 && answers.contains(&message.get_msg_type()) && last.iter().any(ends)
    };
    let now = group.now;
    group.members.get_mut(&1).unwrap().leave(now);
    group.ticks_until(|group| group.leads(2));
    let joint = group.members[&1].core().membership().clone();
    assert_eq!((&joint.voters[..], &joint.voters_outgoing[..]), (&[2][..], &[1][..]));
    // So it is member 1 that is elected again, and commits that end.
    group.ticks_until(|group| group.members[&1].core().membership().voters_outgoing.is_empty());
    assert!(!group.leads(1), "it has no vote any more");
    group.lose = |_, _| false;
    group.ticks_until(|group| group.leads(2) && group.lease(2) > group.now);
    group.put(2, 9);
    assert!(matches!(group.answered(9), Some(Ok(_))));
}

/// Whoever has rotten rows gets a whole copy from whoever leads, and keeps every entry that it acknowledged.
#[test]
fn a_member_with_rotten_rows_pulls_a_snapshot_from_the_leader() {
    let mut group = Group::grown(3);
    group.put(1, 1);
    group.settle();
    for id in [2, 1] {
        let leader = (1..=3).find(|id| group.leads(*id)).unwrap();
        let now = group.now;
        let last = group.members[&id].core().last_index();
        assert!(group.members.get_mut(&id).unwrap().renew(now));
        group.ticks_until(|group| !group.members[&id].renews());
        assert!(!group.leads(id), "who has rotten rows hands over");
        let member = &group.members[&id];
        assert!(member.core().last_index() >= last);
        assert!(member.core().log().truncated().0 >= last, "state and log were replaced");
        // And it goes on as before: it follows, and its vote counts.
        let third = (1..=3).find(|other| *other != id && !group.leads(*other)).unwrap();
        let leader = if id == leader { (1..=3).find(|id| group.leads(*id)).unwrap() } else { leader };
        group.cut.insert(third);
        group.put(leader, 10 + id);
        let now = group.now;
        group.ticks_until(|group| group.answered(10 + id).is_some_and(Result::is_ok));
        assert!(group.now - now <= 1000, "it takes entries again at once: {} ms", group.now - now);
        group.cut.clear();
        group.ticks_until(|group| {
            group.members.values().all(|member| {
                member.machine().position().index == group.members[&leader].machine().position().index
            })
        });
        let before = group.members[&id].core().log().truncated();
        (0..100).for_each(|_| group.tick());
        assert_eq!(group.members[&id].core().log().truncated(), before, "one snapshot is enough");
    }
    let mut alone = Group::new(1);
    let now = alone.now;
    assert!(!alone.members.get_mut(&1).unwrap().renew(now), "nobody else has the rows");
}
