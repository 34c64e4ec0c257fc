//! Documents that nodes and clients exchange as JSON: what the cluster looks like and what each node says of
//! itself. Unknown fields are ignored, so that a newer node can add some.

use super::slots::{SlotRange, SlotTable, slot};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// What every node knows of its cluster: enough to find the owner of any key. `GET /cluster` answers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The id of the cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// Raised by every change of the directory; a higher epoch replaces a lower one.
    pub epoch: u64,
    /// The addresses (`host:port`) of the masters.
    pub masters: Vec<String>,
    /// The groups, by ascending id.
    pub groups: Vec<GroupView>,
    /// Slot ranges and the group that owns them.
    pub slots: SlotTable,
    /// Moves under way; none exist yet in this version.
    #[serde(default)]
    pub moves: Vec<serde_json::Value>,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// The id of the group: its founder's index.
    pub group: u32,
    /// The index of the member that leads, as far as is known.
    pub leader: Option<u32>,
    /// The members, by ascending index.
    pub members: Vec<MemberView>,
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The worker's index.
    pub index: u32,
    /// Where it serves: `host:port`.
    pub address: String,
    /// True for a voter, false for a standby.
    pub voter: bool,
    /// Its data folder on its own machine.
    pub data: String,
}

impl ClusterView {
    /// The group that owns `key`.
    pub fn group_of_key(&self, key: &[u8]) -> Option<&GroupView> {
        self.slots.owner(slot(key)).and_then(|group| self.group(group))
    }

    /// The group with the id `group`.
    pub fn group(&self, group: u32) -> Option<&GroupView> {
        self.groups.iter().find(|candidate| candidate.group == group)
    }

    /// The worker `index` and the group that it is in.
    pub fn worker(&self, index: u32) -> Option<(&GroupView, &MemberView)> {
        self.groups.iter().find_map(|group| {
            group.members.iter().find(|member| member.index == index).map(|member| (group, member))
        })
    }
}

impl GroupView {
    /// The member to send requests to: the leader, else the first voter.
    pub fn target(&self) -> Option<&MemberView> {
        let leader = self.leader.and_then(|index| self.members.iter().find(|member| member.index == index));
        leader.or_else(|| self.members.iter().find(|member| member.voter))
    }
}

/// What a worker says of itself: the answer of `/worker`, and the body of a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// The id of its cluster.
    pub cluster: String,
    /// Its index.
    pub index: u32,
    /// Its group.
    pub group: u32,
    /// The uuid of its data folder.
    pub uuid: String,
    /// How often the folder was opened.
    pub starts: u64,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// `open`, `closed` or `failed`.
    pub state: String,
    /// `leader`, `follower`, `candidate` or `standby`; empty when it is not open.
    pub role: String,
    /// Raft term.
    pub term: u64,
    /// Keys stored, expired ones that are not swept yet included.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The group's version counter.
    pub version: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// The version of catstore that it runs.
    pub software: String,
}

/// What a worker sends to the master when it starts: it is idempotent by `uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The uuid of the worker's data folder.
    pub uuid: String,
    /// A random number of this run of the process; tells a second process on a copied folder from a repeat.
    pub run: u64,
    /// How often the folder was opened.
    pub starts: u64,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The index that it remembers, if it was registered before.
    pub index: Option<u32>,
    /// The cluster that it remembers.
    pub cluster: Option<String>,
    /// The worker to clone.
    pub clone: Option<u32>,
    /// The version of catstore that it runs.
    pub software: String,
}

/// The master's answer to a [`RegisterRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// The worker's index, for life.
    pub index: u32,
    /// Its group.
    pub group: u32,
    /// A remark for the person at the terminal.
    pub note: Option<String>,
    /// The slots that a new founder starts with.
    pub slots: Vec<SlotRange>,
    /// The cluster as the master sees it.
    pub view: ClusterView,
}

/// A heartbeat of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// The random number of this run, as in [`RegisterRequest`].
    pub run: u64,
    /// What the worker says of itself.
    pub facts: WorkerFacts,
    /// The epoch of the view that it has.
    pub epoch: u64,
}

/// The master's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// True if the master does not know this run of the worker: it registers again.
    pub register: bool,
    /// The cluster, if the worker's view is older.
    pub view: Option<ClusterView>,
}

/// What a master knows of one worker: directory and last heartbeat together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its index.
    pub index: u32,
    /// Its group.
    pub group: u32,
    /// The uuid of its data folder.
    pub uuid: String,
    /// Where it serves.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// True if a heartbeat came within the last 3 seconds.
    pub alive: bool,
    /// Milliseconds since the last heartbeat; none since this master started.
    pub seen_ms: Option<u64>,
    /// The last heartbeat.
    pub facts: Option<WorkerFacts>,
    /// For a worker that is down: the command that starts it again.
    pub restart: Option<String>,
}

/// What a master knows of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its id.
    pub group: u32,
    /// The indices of its members.
    pub members: Vec<u32>,
    /// How many slots it owns.
    pub slots: u16,
    /// Keys, from the last heartbeat of its leader.
    pub keys: Option<u64>,
    /// Bytes of keys and values, likewise.
    pub bytes: Option<u64>,
    /// What it may lose, as a sentence: `1 member: lose worker 0 and its keys are gone`.
    pub may_lose: String,
}

/// The answer of `/master`, and what `catstore status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// The id of the cluster.
    pub cluster: String,
    /// The directory's epoch.
    pub epoch: u64,
    /// `open`, `closed` or `failed`.
    pub state: String,
    /// Where this master serves.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The version of catstore that it runs.
    pub software: String,
    /// The workers, by ascending index.
    pub workers: Vec<WorkerStatus>,
    /// The groups, by ascending id.
    pub groups: Vec<GroupStatus>,
    /// Slot ranges and their owners.
    pub slots: SlotTable,
}

/// A problem document (RFC 9457) as every error of the HTTP interface carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable word: [`crate::error::Kind::word`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status' name.
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What happened, and to what.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Bytes in JSON: a string if they are UTF-8, else `{"base64": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonBytes(pub Vec<u8>);

/// One key of a list page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// The key.
    pub key: JsonBytes,
    /// Its version.
    pub version: u64,
    /// The length of the value in bytes.
    pub size: u64,
    /// Last change, milliseconds since 1970.
    pub modified: u64,
    /// Its content type.
    pub content_type: String,
    /// The value, if `values=true` was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<JsonBytes>,
}

/// One page of `GET /kv`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// Keys in byte order.
    pub keys: Vec<ListedKey>,
    /// The token for the next page: the last key of this one; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<JsonBytes>,
}

/// The body of `POST /batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchBody {
    /// The operations, in order.
    pub ops: Vec<BatchOp>,
}

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum BatchOp {
    /// Stores a value.
    Put {
        /// The key.
        key: JsonBytes,
        /// The value.
        value: JsonBytes,
        /// Its content type; `application/octet-stream` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
        /// Seconds to live, as in `?ttl=`: `60s`, `5m`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<String>,
    },
    /// Removes a key; a key that does not exist is no error.
    Delete {
        /// The key.
        key: JsonBytes,
    },
    /// Requires that the key has this version; 0 requires that it does not exist.
    Check {
        /// The key.
        key: JsonBytes,
        /// The version.
        version: u64,
    },
}

/// The answer of `POST /batch`: one item per operation, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReply {
    /// The version after each `put`; null for `delete` and `check`.
    pub versions: Vec<Option<u64>>,
}

impl Serialize for JsonBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &BASE64.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for JsonBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Encoded {
            base64: String,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a string or {\"base64\": …}")]
        enum Either {
            Text(String),
            Encoded(Encoded),
        }
        match Either::deserialize(deserializer)? {
            Either::Text(text) => Ok(JsonBytes(text.into_bytes())),
            Either::Encoded(encoded) => BASE64
                .decode(encoded.base64)
                .map(JsonBytes)
                .map_err(|error| serde::de::Error::custom(format!("base64: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_when_they_can_be() {
        assert_eq!(serde_json::to_string(&JsonBytes(b"cat".to_vec())).unwrap(), "\"cat\"");
        let raw = JsonBytes(vec![0xff, 0]);
        let json = serde_json::to_string(&raw).unwrap();
        assert_eq!(json, "{\"base64\":\"/wA=\"}");
        assert_eq!(serde_json::from_str::<JsonBytes>(&json).unwrap(), raw);
        assert!(serde_json::from_str::<JsonBytes>("{\"base64\":\"*\"}").is_err());
        assert!(serde_json::from_str::<JsonBytes>("7").is_err());
    }
}
