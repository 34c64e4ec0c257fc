//! The body of `POST /batch`, from JSON to commands. Everything that can be refused without the replica is refused
//! here: the number of operations, the length of keys, times to live, keys that lie in more than one slot.
//! The number of bytes of the body is limited where it is read.

use super::{content_type, route, ttl};
use crate::cluster::slots;
use crate::cluster::view::{BatchBody, BatchOp};
use crate::error::{Error, Kind, Result};
use crate::replica::checksum;
use crate::replica::command::{BatchCommand, Condition, Put};

/// The most operations of one batch.
pub const OPERATIONS: usize = 10_000;
/// The most bytes of a batch's body.
pub const BYTES: usize = 8 << 20;

/// The commands of a batch's body.
///
/// Errors: [`Kind::BadRequest`], [`Kind::TooLarge`], [`Kind::KeyEmpty`], [`Kind::KeyTooLong`], [`Kind::CrossSlot`].
pub fn parse(body: &[u8]) -> Result<Vec<BatchCommand>> {
    let body: BatchBody = serde_json::from_slice(body).map_err(|error| {
        Error::new(Kind::BadRequest, format!("the body is not a batch: {error}"))
            .hint("send {\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":\"happy\"}]}")
    })?;
    if body.ops.is_empty() {
        return Err(Error::new(Kind::BadRequest, "the batch has no operations"));
    }
    if body.ops.len() > OPERATIONS {
        return Err(Error::new(Kind::TooLarge, format!("the batch has {} operations", body.ops.len()))
            .hint(format!("send at most {OPERATIONS}")));
    }
    let mut commands = Vec::with_capacity(body.ops.len());
    for (position, op) in body.ops.into_iter().enumerate() {
        commands.push(command(op).map_err(|error| at(position, &error))?);
    }
    one_slot(&commands)?;
    Ok(commands)
}

/// The key of one operation.
pub fn key(command: &BatchCommand) -> &[u8] {
    match command {
        BatchCommand::Put(put) => &put.key,
        BatchCommand::Delete { key } | BatchCommand::Check { key, .. } => key,
    }
}

fn command(op: BatchOp) -> Result<BatchCommand> {
    let command = match op {
        BatchOp::Put { key, value, content_type, ttl } => BatchCommand::Put(Put {
            key: key.0,
            checksum: checksum(&value.0),
            value: value.0,
            content_type: content_type.as_deref().map(content_type::check).transpose()?.unwrap_or_default(),
            ttl: ttl.as_deref().map(ttl::parse).transpose()?,
            condition: Condition::Any,
        }),
        BatchOp::Delete { key } => BatchCommand::Delete { key: key.0 },
        BatchOp::Check { key, version: 0 } => {
            BatchCommand::Check { key: key.0, condition: Condition::Absent }
        }
        BatchOp::Check { key, version } => {
            BatchCommand::Check { key: key.0, condition: Condition::Version(version) }
        }
    };
    route::check_key(key(&command))?;
    Ok(command)
}

fn one_slot(commands: &[BatchCommand]) -> Result<()> {
    let mut slots = commands.iter().map(|command| slots::slot(key(command)));
    let first = slots.next();
    match slots.position(|slot| Some(slot) != first) {
        None => Ok(()),
        Some(position) => Err(Error::new(
            Kind::CrossSlot,
            format!("operations 0 and {} of the batch have keys in different slots", position + 1),
        )
        .hint("give the keys a common {tag}, as in {user1}.name and {user1}.mail")),
    }
}

fn at(position: usize, error: &Error) -> Error {
    let located = Error::new(error.kind(), format!("operation {position} of the batch: {}", error.detail()));
    match error.hint_text() {
        Some(hint) => located.hint(hint),
        None => located,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(body: &str) -> Kind {
        parse(body.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn a_batch_becomes_commands() {
        let body = r#"{"ops":[
            {"op":"check","key":"{a}1","version":0},
            {"op":"check","key":"{a}1","version":7},
            {"op":"put","key":"{a}2","value":{"base64":"/wA="},"ttl":"5s","content_type":"text/plain"},
            {"op":"delete","key":"{a}3"}]}"#;
        let commands = parse(body.as_bytes()).unwrap();
        assert_eq!(commands[0], BatchCommand::Check { key: b"{a}1".to_vec(), condition: Condition::Absent });
        assert_eq!(
            commands[1],
            BatchCommand::Check { key: b"{a}1".to_vec(), condition: Condition::Version(7) }
        );
        let BatchCommand::Put(put) = &commands[2] else { panic!("a put") };
        assert_eq!(
            (&put.value[..], put.ttl, put.content_type.as_str()),
            (&b"\xff\x00"[..], Some(5000), "text/plain")
        );
        assert_eq!(put.checksum, checksum(b"\xff\x00"));
        assert_eq!(commands[3], BatchCommand::Delete { key: b"{a}3".to_vec() });
    }

    #[test]
    fn what_is_wrong_has_its_own_word() {
        assert_eq!(kind("happy"), Kind::BadRequest);
        assert_eq!(kind(r#"{"ops":[]}"#), Kind::BadRequest);
        assert_eq!(kind(r#"{"ops":[{"op":"get","key":"a"}]}"#), Kind::BadRequest);
        assert_eq!(kind(r#"{"ops":[{"op":"delete","key":"a","extra":1}]}"#), Kind::BadRequest);
        assert_eq!(kind(r#"{"ops":[{"op":"put","key":"a","value":"b","ttl":"0"}]}"#), Kind::BadRequest);
        assert_eq!(
            kind(r#"{"ops":[{"op":"put","key":"a","value":"b","content_type":"a\nb"}]}"#),
            Kind::BadRequest
        );
        assert_eq!(kind(r#"{"ops":[{"op":"delete","key":""}]}"#), Kind::KeyEmpty);
        assert_eq!(kind(r#"{"ops":[{"op":"delete","key":"a"},{"op":"delete","key":"b"}]}"#), Kind::CrossSlot);
        let long = format!(r#"{{"ops":[{{"op":"delete","key":"{}"}}]}}"#, "k".repeat(4097));
        assert_eq!(kind(&long), Kind::KeyTooLong);
        let many =
            format!(r#"{{"ops":[{}]}}"#, vec![r#"{"op":"delete","key":"a"}"#; OPERATIONS + 1].join(","));
        assert_eq!(kind(&many), Kind::TooLarge);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>, text in r#"\{"ops":\[\{"op":"(put|delete|check)".{0,40}"#) {
            let _ = parse(&body);
            let _ = parse(text.as_bytes());
        }
    }
}
