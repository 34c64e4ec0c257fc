//! The end of an upload: the manifest becomes a command, once a majority of the group has every chunk.

use super::super::body;
use super::super::door::{Asked, Door};
use super::super::errand::{Aim, Done, Errand, Manner, Stop, Wire};
use super::super::many::blocking;
use super::super::percent;
use super::super::route::{Commit, Style};
use super::super::values::{self, Written};
use super::super::write::{check_value, hand_over, judge};
use super::Order;
use super::held::Held;
use super::session::{Session, random};
use crate::cluster::slots::slot;
use crate::error::{Error, Kind, Result};
use crate::replica::blobs::Keeper;
use crate::replica::command::{Command, PutChunks, Reply, Request, Secured};
use crate::replica::handle::KeyspaceHandle;
use crate::replica::{Manifest, Name};
use crate::server::call::Caller;
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use actix_web::http::Method;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A manifest is not longer than this.
const LONGEST: usize = (64 << 10) + 64;
/// How long another group's node may take to give a chunk.
const GIFT: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// The value is complete: stores it. `told` is the request as the client sent it.
    pub(super) async fn commit(mut self, order: Order, told: Wire<'_>) -> Result<HttpResponse> {
        let (manifest, checksum) = self.finish().await?;
        let (size, style, key) = (manifest.size, order.style, order.key.clone());
        let from = self.addresses();
        let (id, ttl) = (self.id, order.ttl);
        let mut path = format!(
            "/internal/commit/{id}/{checksum}/{}?from={}",
            percent::encode(&key),
            percent::encode(from.as_bytes())
        );
        if let Some(ttl) = ttl {
            path.push_str(&format!("&ttl={ttl}ms"));
        }
        let wire = Wire {
            method: Method::PUT,
            path: &path,
            body: Some(Bytes::from(manifest.encode())),
            content_type: told.content_type,
            redirects: false,
        };
        let ending = Ending { door: self.door, asked: self.asked, id, checksum, from, order };
        let done = ending.run(manifest, wire).await?;
        Written { key: &key, size, style, reword: style == Style::Classic }
            .answer(&self.door.site, done)
            .await
    }

    /// Where the chunks are: at the members of the groups that they were sent to.
    fn addresses(&self) -> String {
        let view = self.door.site.view();
        let groups = self.groups.iter().filter_map(|group| view.group(*group));
        let members = groups.flat_map(|group| &group.members);
        members.map(|member| member.address.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// `PUT /internal/commit/UPLOAD/CHECKSUM/KEY`.
pub(crate) async fn take_commit(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    commit: Commit,
) -> Result<HttpResponse> {
    let body = body::read(&door.site, asked.request, payload, LONGEST, Kind::TooLarge).await?;
    let manifest = Manifest::decode(&body.bytes)
        .map_err(|error| Error::new(Kind::BadRequest, "this is no manifest").cause(error))?;
    let (condition, id) = values::conditions(asked)?;
    let content_type = values::content_type_of(asked)?;
    let Commit { upload, key, checksum, ttl, from } = commit;
    let size = manifest.size;
    let order = Order { key: key.clone(), content_type, ttl, condition, id, style: Style::Resource };
    let wire = Wire::of(asked, Some(Bytes::from(body.bytes)));
    let ending = Ending { door, asked, id: upload, checksum, from, order };
    let done = ending.run(manifest, wire).await?;
    Written { key: &key, size, style: Style::Resource, reword: false }.answer(&door.site, done).await
}

/// A commit on its way.
struct Ending<'a> {
    door: &'a Door,
    asked: &'a Asked<'a>,
    id: u64,
    checksum: u32,
    from: String,
    order: Order,
}

impl Ending<'_> {
    async fn run(self, manifest: Manifest, wire: Wire<'_>) -> Result<Done<Reply>> {
        let site = &self.door.site;
        let manner = Manner::Write { exact: self.order.id.is_some() };
        let aim = Aim::Slot(slot(&self.order.key));
        let deadline = self.asked.deadline()?;
        let errand = Errand { door: self.door, asked: self.asked, aim, manner, deadline, wire };
        // Another attempt may be on its way, by another node: what this one holds does not end with that one.
        let commit = random()?;
        let mut held: Option<Arc<Held>> = None;
        let done = errand
            .run(async |replica| {
                check_value(manifest.size, site.worker()?.max_value)?;
                let held = held.get_or_insert_with(|| Arc::new(Held::new(replica, commit)));
                let secured = self.secure(replica, commit, held, &manifest).await?;
                let request = self.request(&manifest, secured);
                judge(replica, hand_over(site, replica, request, deadline).await?)
            })
            .await;
        let known = !matches!(&done, Err(error) if error.kind() == Kind::UnknownOutcome);
        if let Some(held) = held.filter(|_| known) {
            held.end_with(done.is_ok().then_some(self.id));
        }
        done
    }

    /// Sees to it that a majority has every chunk.
    async fn secure(
        &self,
        replica: &KeyspaceHandle,
        id: u64,
        held: &Arc<Held>,
        manifest: &Manifest,
    ) -> Result<Secured, Stop> {
        let (keeper, held, manifest) = (Arc::clone(replica.keeper()), Arc::clone(held), manifest.clone());
        let source = Elsewhere::of(self.door, &self.from);
        let secured = blocking(move || {
            let secured = secure(&keeper, id, &[manifest], &source);
            drop(held);
            secured
        })
        .await;
        Ok(secured?)
    }

    fn request(&self, manifest: &Manifest, secured: Secured) -> Request {
        let Order { key, content_type, ttl, condition, id, .. } = &self.order;
        let put = PutChunks {
            key: key.clone(),
            manifest: manifest.encode(),
            checksum: self.checksum,
            content_type: content_type.clone(),
            ttl: *ttl,
            condition: *condition,
            secured,
        };
        Request { id: id.clone(), command: Command::PutChunks(put) }
    }
}

/// Nodes of another group that may have chunks.
pub(crate) struct Elsewhere {
    caller: Caller,
    addresses: Vec<String>,
}

impl Elsewhere {
    /// The nodes at `addresses`, with commas between them, as far as they are members of the cluster: nobody else is asked.
    pub(crate) fn of(door: &Door, addresses: &str) -> Elsewhere {
        let (own, view) = (door.site.address(), door.site.view());
        let members = || view.groups.iter().flat_map(|group| &group.members);
        let is_member = |address: &str| members().any(|member| member.address == address);
        let others = addresses.split(',').filter(|address| *address != own && is_member(address));
        Elsewhere {
            caller: Caller::new(door.site.guard.token().map(str::to_owned)),
            addresses: others.map(str::to_owned).collect(),
        }
    }

    fn give(&self, name: &Name) -> Option<Vec<u8>> {
        let path = format!("/internal/chunk/{}", name.hex());
        self.addresses.iter().find_map(|address| {
            let chunk = self.caller.get_bytes(address, &path, GIFT);
            chunk.inspect_err(|error| log::debug!("{address} does not give a chunk: {error}")).ok()
        })
    }
}

/// As [`Keeper::secure`], with what is elsewhere.
pub(crate) fn secure(
    keeper: &Keeper,
    id: u64,
    manifests: &[Manifest],
    source: &Elsewhere,
) -> Result<Secured> {
    keeper.secure(id, manifests, &|name| Ok(source.give(name)))
}
