//! Keys, values and errors as JSON: list pages, batches, problem documents. Bytes that are not UTF-8 travel as
//! `{"base64": …}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

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
