//! `/verify/IDX`: reading and mending everything that this worker holds. POST begins it and GET says how far it is; the
//! work is the replica's.

use super::door::Door;
use super::facts::this_worker;
use super::many::blocking;
use super::respond;
use crate::error::{Error, Kind, Result};
use actix_web::HttpResponse;
use std::sync::Arc;

/// `POST /verify/IDX`: begins a verification, or takes up the one under way. Errors: `Conflict` if this is another node,
/// `Closed`.
pub(crate) async fn verify(door: &Door, index: u32) -> Result<HttpResponse> {
    let site = Arc::clone(&door.site);
    let begun = blocking(move || {
        let worker = this_worker(&site, Some(index))?;
        let replica = site.with_open(&worker.node.mode(), |replica| Ok(replica.clone()))?;
        let numbers = replica.numbers();
        replica.keeper().verify(numbers.keys, numbers.bytes)
    });
    Ok(respond::json(&begun.await?, false))
}

/// `GET /verify/IDX`: how far the verification is, or how the last one ended. Errors: as [`verify`], `NotFound` if there was
/// none since the worker was opened.
pub(crate) fn verification(door: &Door, index: u32) -> Result<HttpResponse> {
    let worker = this_worker(&door.site, Some(index))?;
    let last = door.site.with_open(&worker.node.mode(), |replica| Ok(replica.keeper().verification()))?;
    let none = || {
        Error::new(Kind::NotFound, format!("worker {index} has verified nothing since it was opened"))
            .hint(format!("catstore verify {index} begins it"))
    };
    Ok(respond::json(&last.ok_or_else(none)?, false))
}
