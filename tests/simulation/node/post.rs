//! Sending parcels; and those that the gate must refuse.

use super::{Node, Subject};
use crate::event::{Death, Event};
use crate::system::{MS, System};
use catstore::replica::parcel::{self, Progress, Sender};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// For each so many parcels a stranger sends one.
const STRANGERS: u64 = 10_000;

impl<M: Subject> Node<M> {
    pub(super) fn send(&mut self, sys: &mut System, messages: Vec<Message>) {
        let Some(up) = &self.up else { return };
        let own = up.own.clone();
        let complete = up.upkeep.as_ref().map_or(u64::MAX, |upkeep| upkeep.complete);
        let complete = if up.member.renews() { 0 } else { complete };
        let progress = Progress { commit: up.member.core().commit(), complete };
        let mut parcels: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        let mut voted = false;
        for message in messages {
            let kind = message.get_msg_type();
            if kind == MessageType::MsgTimeoutNow {
                sys.count("leadership handed over");
            }
            voted |= kind == MessageType::MsgRequestVoteResponse && !message.reject;
            sys.mix(message.to ^ (message.index << 8) ^ ((kind as u64) << 40) ^ (message.term << 50));
            if let Ok(bytes) = message.write_to_bytes() {
                parcels.entry(message.to).or_default().push(bytes);
            }
        }
        for (to, messages) in parcels {
            let bytes = Arc::new(parcel::encode(&own, to, progress, &messages));
            self.last_sent = Some((to, bytes.clone()));
            self.post(sys, to, &bytes);
            if sys.faults && sys.one_in(STRANGERS) {
                let stranger = stranger(sys, own.clone());
                let bytes = parcel::encode(&stranger, to, progress, &messages);
                sys.after(MS, Event::Parcel(M::place(to), Arc::new(bytes)));
            }
        }
        if voted && sys.faults && sys.one_in(sys.power_after_vote) {
            let soon = sys.between(0, MS);
            sys.after(soon, Event::Die(self.place(), self.life, Death::Power));
        }
    }

    fn post(&self, sys: &mut System, to: u64, bytes: &Arc<Vec<u8>>) {
        let delays = sys.send(self.place(), M::place(to));
        if delays.is_empty() {
            let late = sys.between(MS, 300 * MS);
            sys.after(late, Event::Unreachable(self.place(), self.life, to));
        }
        for delay in delays {
            sys.after(delay, Event::Parcel(M::place(to), bytes.clone()));
        }
    }

    /// After a restart a parcel of the life before may still be on its way. Who has heard of this life refuses it;
    /// for all others it is a late one.
    pub(super) fn deliver_late(&mut self, sys: &mut System) {
        if let Some((to, bytes)) = self.last_sent.take().filter(|_| sys.faults && sys.one_in(4)) {
            sys.count("parcel of an earlier run");
            let late = sys.between(200, 4000) * MS;
            sys.after(late, Event::Parcel(M::place(to), bytes));
        }
    }
}

/// Somebody who says that it is the member `own` of another cluster, of another group, or of what the group was before
/// it went on without its majority.
fn stranger(sys: &mut System, own: Sender) -> Sender {
    sys.count("parcel of a stranger");
    match sys.between(0, 2) {
        0 => Sender { cluster: "another".into(), ..own },
        1 => Sender { group: own.group ^ 1, ..own },
        _ => Sender { incarnation: own.incarnation - 1, ..own },
    }
}
