//! Keys, values and errors as JSON: list pages, batches, problem documents. Bytes that are not UTF-8 travel as
//! `{"base64": …}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

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
#[serde(tag = "op", rename_all = "lowercase", try_from = "Fields")]
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

/// The fields of any operation. Read as an enum by its tag, each operation would be kept as a tree first: `op` may come last.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    op: Op,
    key: JsonBytes,
    #[serde(default, deserialize_with = "not_null")]
    value: Option<JsonBytes>,
    content_type: Option<String>,
    ttl: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    version: Option<u64>,
}

/// A field that may be absent, but not `null`.
fn not_null<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Delete,
    Check,
}

impl TryFrom<Fields> for BatchOp {
    type Error = String;

    fn try_from(fields: Fields) -> Result<BatchOp, String> {
        let Fields { op, key, value, content_type, ttl, version } = fields;
        match (op, value, content_type, ttl, version) {
            (Op::Put, Some(value), content_type, ttl, None) => {
                Ok(BatchOp::Put { key, value, content_type, ttl })
            }
            (Op::Delete, None, None, None, None) => Ok(BatchOp::Delete { key }),
            (Op::Check, None, None, None, Some(version)) => Ok(BatchOp::Check { key, version }),
            (Op::Put, ..) => {
                Err("a put has `key`, `value` and if it is wanted `content_type` and `ttl`".to_owned())
            }
            (Op::Delete, ..) => Err("a delete has `key`, and nothing else".to_owned()),
            (Op::Check, ..) => Err("a check has `key` and `version`".to_owned()),
        }
    }
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
        deserializer.deserialize_any(Text)
    }
}

/// Bytes as they stand in JSON.
struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = JsonBytes;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string or {\"base64\": …}")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<JsonBytes, E> {
        Ok(JsonBytes(text.as_bytes().to_vec()))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<JsonBytes, E> {
        Ok(JsonBytes(text.into_bytes()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonBytes, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Encoded {
            base64: String,
        }
        let encoded = Encoded::deserialize(MapAccessDeserializer::new(map))?;
        let bytes = BASE64.decode(encoded.base64);
        bytes.map(JsonBytes).map_err(|error| serde::de::Error::custom(format!("base64: {error}")))
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
        assert!(serde_json::from_str::<JsonBytes>("{\"base64\":\"/wA=\",\"more\":1}").is_err());
        let escaped = serde_json::from_str::<JsonBytes>("\"c\\u0061t\"").unwrap();
        assert_eq!(escaped.0, b"cat");
        let number = serde_json::from_str::<JsonBytes>("7").unwrap_err().to_string();
        assert!(number.contains("expected a string or {\"base64\": …}"), "{number}");
    }

    #[test]
    fn operations_are_read_as_they_are_written_and_have_their_own_fields_only() {
        let key = || JsonBytes(b"a".to_vec());
        let put = |content_type: Option<&str>, ttl: Option<&str>| BatchOp::Put {
            key: key(),
            value: JsonBytes(vec![0xff]),
            content_type: content_type.map(str::to_owned),
            ttl: ttl.map(str::to_owned),
        };
        for op in [
            put(None, None),
            put(Some("text/plain"), Some("5s")),
            BatchOp::Delete { key: key() },
            BatchOp::Check { key: key(), version: 7 },
        ] {
            let text = serde_json::to_string(&op).unwrap();
            assert_eq!(serde_json::from_str::<BatchOp>(&text).unwrap(), op, "{text}");
        }
        let last = r#"{"version":0,"key":"a","op":"check"}"#;
        assert_eq!(serde_json::from_str::<BatchOp>(last).unwrap(), BatchOp::Check { key: key(), version: 0 });
        for (text, why) in [
            (r#"{"op":"put","key":"a"}"#, "a put has `key`, `value`"),
            (r#"{"op":"put","key":"a","value":"b","version":1}"#, "a put has `key`, `value`"),
            (r#"{"op":"delete","key":"a","value":"b"}"#, "a delete has `key`, and nothing else"),
            (r#"{"op":"put","key":"a","value":null}"#, "invalid type: null"),
            (r#"{"op":"delete","key":"a","value":null}"#, "invalid type: null"),
            (r#"{"op":"check","key":"a","version":null}"#, "invalid type: null"),
            (r#"{"op":"check","key":"a"}"#, "a check has `key` and `version`"),
            (r#"{"op":"check","key":"a","version":1,"ttl":"5s"}"#, "a check has `key` and `version`"),
            (r#"{"op":"get","key":"a"}"#, "unknown variant `get`, expected one of `put`, `delete`, `check`"),
            (r#"{"op":"delete"}"#, "missing field `key`"),
            (r#"{"key":"a"}"#, "missing field `op`"),
            (r#"{"op":"delete","key":"a","key":"b"}"#, "duplicate field `key`"),
            (r#"{"op":"delete","key":"a","extra":1}"#, "unknown field `extra`"),
        ] {
            let error = serde_json::from_str::<BatchOp>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
