//! What members send each other: a few Raft messages, and who sends them. Strangers are refused before a message is
//! looked at: another cluster, another group, an older incarnation, an old copy of a member's folder.
//!
//! Layout, numbers big-endian: version u8 (2), length u8 and bytes of the cluster's id, group u32, incarnation u64,
//! from u64, to u64, starts u64, run u64, commit u64, complete u64; then each message as length u32 and protobuf; then the CRC-32 of
//! all before it.

use crate::error::{Error, Kind, Result};
use protobuf::Message as _;
use raft::eraftpb::Message;
use std::collections::HashMap;
use std::sync::Mutex;

const VERSION: u8 = 2;
/// The masters' own group; workers' groups have the index of their founder.
pub const MASTERS: u32 = u32::MAX;
/// The largest parcel that is read.
pub const LARGEST: usize = 24 << 20;

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The id of the cluster.
    pub cluster: String,
    /// The group.
    pub group: u32,
    /// The group's incarnation.
    pub incarnation: u64,
    /// The sender's Raft id.
    pub id: u64,
    /// How often its folder was opened.
    pub starts: u64,
    /// A random number of its run.
    pub run: u64,
}

/// How far a member is, as it tells the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it has committed.
    pub commit: u64,
    /// The last entry up to which it has the chunks of all values; [`u64::MAX`] if its values are never in chunks.
    pub complete: u64,
}

/// A parcel, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// Who sent it.
    pub sender: Sender,
    /// The Raft id of the member that it is for.
    pub to: u64,
    /// How far the sender was.
    pub progress: Progress,
    /// Its messages.
    pub messages: Vec<Message>,
}

/// Packs messages that are encoded already.
pub fn encode(sender: &Sender, to: u64, progress: Progress, messages: &[Vec<u8>]) -> Vec<u8> {
    let size: usize = messages.iter().map(|message| message.len() + 4).sum();
    let mut parcel = head(sender, to, progress, size);
    for message in messages {
        parcel.extend_from_slice(&(message.len() as u32).to_be_bytes());
        parcel.extend_from_slice(message);
    }
    seal(parcel)
}

fn head(sender: &Sender, to: u64, progress: Progress, room: usize) -> Vec<u8> {
    let cluster = &sender.cluster.as_bytes()[..sender.cluster.len().min(255)];
    let mut head = Vec::with_capacity(room + cluster.len() + 72);
    head.extend_from_slice(&[VERSION, cluster.len() as u8]);
    head.extend_from_slice(cluster);
    head.extend_from_slice(&sender.group.to_be_bytes());
    let Progress { commit, complete } = progress;
    for number in [sender.incarnation, sender.id, to, sender.starts, sender.run, commit, complete] {
        head.extend_from_slice(&number.to_be_bytes());
    }
    head
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Packs a question to another member that is no Raft message.
pub fn envelope(sender: &Sender, to: u64, question: &[u8]) -> Vec<u8> {
    let mut envelope = head(sender, to, Progress::default(), question.len());
    envelope.extend_from_slice(question);
    seal(envelope)
}

/// The question in an envelope, if `gate` lets its sender in. Errors as [`open`].
pub fn open_envelope<'a>(bytes: &'a [u8], gate: &Gate) -> Result<&'a [u8]> {
    Ok(unseal(bytes, gate)?.1)
}

/// Unpacks the outside of a parcel and, if `gate` lets its sender in, its messages.
///
/// Errors: `BadRequest` if it has another form; `Conflict` if a stranger sends it.
pub fn open(bytes: &[u8], gate: &Gate) -> Result<Parcel> {
    let (outside, mut rest) = unseal(bytes, gate)?;
    let Outside { sender, to, progress } = outside;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (encoded, behind) =
            behind.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
        let mut message = Message::default();
        message.merge_from_bytes(encoded).map_err(|_| bad("holds a message that is none"))?;
        if message.from != sender.id || message.to != to {
            return Err(bad("holds a message of somebody else"));
        }
        messages.push(message);
        rest = behind;
    }
    Ok(Parcel { sender, to, progress, messages })
}

/// What stands before the messages.
struct Outside {
    sender: Sender,
    to: u64,
    progress: Progress,
}

/// Reads what is before the messages and lets the sender in; returns the rest.
fn unseal<'a>(bytes: &'a [u8], gate: &Gate) -> Result<(Outside, &'a [u8])> {
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(|| bad("is too short"))?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(bad("does not match its checksum"));
    }
    let ([version, length], rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
    if *version != VERSION {
        return Err(bad("has a version that is not known"));
    }
    let (cluster, rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(short)?;
    let cluster = std::str::from_utf8(cluster).map_err(|_| bad("names no cluster"))?.to_owned();
    let (group, mut rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let mut numbers = [0; 7];
    for number in &mut numbers {
        let (bytes, behind) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        (*number, rest) = (u64::from_be_bytes(*bytes), behind);
    }
    let [incarnation, id, to, starts, run, commit, complete] = numbers;
    let sender = Sender { cluster, group: u32::from_be_bytes(*group), incarnation, id, starts, run };
    gate.admit(&sender, to)?;
    Ok((Outside { sender, to, progress: Progress { commit, complete } }, rest))
}

fn bad(what: &str) -> Error {
    Error::new(Kind::BadRequest, format!("a parcel {what}"))
}

fn short() -> Error {
    bad("ends early")
}

/// Who is let in.
#[derive(Debug)]
pub struct Gate {
    own: Sender,
    /// Start counter and run of each member as last seen.
    seen: Mutex<HashMap<u64, (u64, u64)>>,
}

impl Gate {
    /// The gate of the member `own`.
    pub fn new(own: Sender) -> Gate {
        Gate { own, seen: Mutex::default() }
    }

    /// Refuses strangers with `Conflict`.
    pub fn admit(&self, sender: &Sender, to: u64) -> Result<()> {
        let own = &self.own;
        let refuse = |why: String| Err(Error::new(Kind::Conflict, why));
        if sender.cluster != own.cluster {
            return refuse(format!("this is cluster {}, not {}", own.cluster, sender.cluster));
        }
        if sender.group != own.group || to != own.id {
            return refuse(format!(
                "this is member {} of group {}, not member {to} of group {}",
                own.id, own.group, sender.group
            ));
        }
        if sender.incarnation != own.incarnation {
            return refuse(format!(
                "this is incarnation {} of the group, not {}",
                own.incarnation, sender.incarnation
            ));
        }
        let mut seen = super::shared::lock(&self.seen);
        let last = seen.entry(sender.id).or_insert((sender.starts, sender.run));
        if sender.starts < last.0 || sender.starts == last.0 && sender.run != last.1 {
            return refuse(format!(
                "member {} was started {} times: this is an old copy of its folder, started {} times",
                sender.id, last.0, sender.starts
            ));
        }
        *last = (sender.starts, sender.run);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use raft::eraftpb::MessageType;

    fn sender(id: u64) -> Sender {
        Sender { cluster: "c1".into(), group: 4, incarnation: 2, id, starts: 5, run: 9 }
    }

    fn message(from: u64, to: u64) -> Vec<u8> {
        let mut message = Message { from, to, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.write_to_bytes().unwrap()
    }

    #[test]
    fn a_parcel_comes_back() {
        let gate = Gate::new(sender(1));
        let progress = Progress { commit: 77, complete: 70 };
        let parcel = open(&encode(&sender(2), 1, progress, &[message(2, 1), message(2, 1)]), &gate).unwrap();
        assert_eq!((parcel.sender, parcel.to, parcel.progress), (sender(2), 1, progress));
        assert_eq!(parcel.messages.len(), 2);
    }

    #[test]
    fn strangers_are_refused() {
        let gate = Gate::new(sender(1));
        let admit = |sender: Sender| gate.admit(&sender, 1).map_err(|error| error.kind());
        assert_eq!(admit(sender(2)), Ok(()));
        for stranger in [
            Sender { cluster: "c2".into(), ..sender(2) },
            Sender { group: 5, ..sender(2) },
            Sender { incarnation: 1, ..sender(2) },
            Sender { incarnation: 3, ..sender(2) },
            Sender { starts: 4, ..sender(2) },
            Sender { run: 8, ..sender(2) },
        ] {
            assert_eq!(admit(stranger.clone()), Err(Kind::Conflict), "{stranger:?}");
        }
        assert_eq!(admit(Sender { starts: 6, run: 8, ..sender(2) }), Ok(()));
        assert_eq!(admit(sender(2)), Err(Kind::Conflict), "the run before");
        assert!(gate.admit(&sender(2), 3).is_err(), "meant for somebody else");
    }

    #[test]
    fn a_message_of_somebody_else_is_refused() {
        let gate = Gate::new(sender(1));
        for message in [message(3, 1), message(2, 3)] {
            assert_eq!(
                open(&encode(&sender(2), 1, Progress::default(), &[message]), &gate).unwrap_err().kind(),
                Kind::BadRequest
            );
        }
    }

    #[test]
    fn an_envelope_comes_back_to_whom_it_is_for() {
        let sealed = envelope(&sender(2), 1, b"which?");
        assert_eq!(open_envelope(&sealed, &Gate::new(sender(1))).unwrap(), b"which?");
        assert_eq!(open_envelope(&sealed, &Gate::new(sender(3))).unwrap_err().kind(), Kind::Conflict);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, sealed: bool) {
            if sealed {
                let checksum = crc32fast::hash(&bytes);
                bytes.extend_from_slice(&checksum.to_be_bytes());
            }
            let _ = open(&bytes, &Gate::new(sender(1)));
        }
    }
}
