//! Lists. Each group that owns slots is asked for a page of its own, at its leader (`GET /internal/list`), and one page is
//! made of them (`merge`). Where one group owns every slot, as in most clusters, its page is the answer.
//!
//! Pages are read at different moments, and slots may change hands between them. So each says which slots it covers, and
//! pages that do not cover every slot exactly once are asked for again, until the deadline. Pages are made on threads that
//! may block, so that reads of single keys do not wait behind them; a few groups are asked at once, and what comes back is
//! counted among the answers that this node holds.

use super::course::DOUBT;
use super::door::{Asked, Door};
use super::errand::{Aim, Done, Errand, Manner, Stop, Wire};
use super::forward::{MARGIN, Seat};
use super::many::blocking;
use super::merge::{GroupPage, Merger};
use super::{news, percent, respond, values};
use crate::error::{Error, Kind, Result};
use crate::replica::reader::ListQuery;
use actix_web::HttpResponse;
use actix_web::body::to_bytes_limited;
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// `Catstore-Slots`, in answers between nodes: `all` if a page covers every slot; otherwise the page names them.
pub(crate) const SLOTS: HeaderName = HeaderName::from_static("catstore-slots");
/// The value of [`SLOTS`].
const ALL: HeaderValue = HeaderValue::from_static("all");
/// So many groups are asked at once.
const AT_ONCE: usize = 3;
/// The longest page of a group: 8 MiB of keys and values, as JSON writes them at worst.
const LARGEST: usize = 64 << 20;
/// The pause before pages are asked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// A page of this member, as it is sent.
struct Written {
    body: Vec<u8>,
    whole: bool,
    gave_to: Option<u32>,
}

impl Written {
    fn of(page: GroupPage) -> Result<Written> {
        let body = serde_json::to_vec(&page)
            .map_err(|error| Error::new(Kind::Failed, "the page cannot be written as JSON").cause(error))?;
        Ok(Written { body, whole: page.is_whole(), gave_to: page.gave_to })
    }
}

/// A list that is being made.
struct Listing<'a> {
    door: &'a Door,
    asked: &'a Asked<'a>,
    query: ListQuery,
    deadline: Instant,
    /// A stale list is asked for.
    stale: bool,
    /// Copies that are behind may contradict each other for as long as they are; leaders do not.
    leaders: bool,
}

/// What came of a round.
enum Round {
    /// The answer.
    Answer(HttpResponse),
    /// Slots changed hands meanwhile; these groups were given some lately.
    Again(BTreeSet<u32>),
}

/// `GET /kv`: one page of the keys of all groups.
pub(crate) async fn list(
    door: &Door,
    asked: &Asked<'_>,
    query: ListQuery,
    stale: bool,
) -> Result<HttpResponse> {
    let mut listing = Listing { door, asked, query, deadline: asked.deadline()?, stale, leaders: !stale };
    let (site, began) = (&door.site, Instant::now());
    let mut more = BTreeSet::new();
    let mut seat: Option<Rc<Seat>> = None;
    loop {
        let mut groups = site.groups_of_all()?;
        groups.extend(&more);
        let round = match groups.first() {
            Some(group) if groups.len() == 1 => listing.one(*group).await,
            _ => listing.several(groups).await,
        };
        match round {
            Ok(Round::Answer(answer)) => return Ok(answer),
            Ok(Round::Again(given)) => more = given,
            // It may be the routes that are dead: a group that has given all its slots away ends.
            Err(error)
                if error.kind() == Kind::NoMajority
                    && began.elapsed() < DOUBT
                    && site.view().groups.len() > 1 => {}
            Err(error) => return Err(error),
        }
        if site.view().slots.ranges().is_empty() {
            return Err(site.no_worker());
        }
        if Instant::now() + PAUSE + MARGIN >= listing.deadline {
            return Err(Error::new(Kind::Frozen, "slots changed hands while their keys were listed")
                .hint("ask again in a moment"));
        }
        listing.leaders = true;
        if seat.is_none() {
            seat = Some(Seat::take(site)?);
        }
        news::ask(door, None);
        tokio::time::sleep(PAUSE).await;
    }
}

/// `GET /internal/list`: one page of the keys of one group, with the slots that it covers.
pub(crate) async fn list_group(
    door: &Door,
    asked: &Asked<'_>,
    group: u32,
    query: ListQuery,
    stale: bool,
) -> Result<HttpResponse> {
    let listing = Listing { door, asked, query, deadline: asked.deadline()?, stale, leaders: !stale };
    match listing.page(group, &Wire::of(asked, Some(Bytes::new())), Written::of).await? {
        Done::There(answer) => Ok(answer),
        Done::Here((page, lag)) => {
            let mut response = respond::json_bytes(page.body);
            if page.whole {
                response.headers_mut().insert(SLOTS, ALL);
            }
            if stale {
                respond::lag(&mut response, lag);
            }
            Ok(response)
        }
    }
}

impl Listing<'_> {
    /// The page of `group`, which may own every slot.
    async fn one(&self, group: u32) -> Result<Round> {
        let path = match self.asked.wants_redirect() {
            true => self.asked.path_and_query().to_owned(),
            false => self.path(group),
        };
        let wire = Wire { redirects: self.asked.wants_redirect(), ..wire(&path) };
        match self.page(group, &wire, Written::of).await? {
            Done::Here((page, _)) if !page.whole => Ok(Round::Again(page.gave_to.into_iter().collect())),
            Done::Here((page, lag)) => Ok(Round::Answer(self.answer(page.body, lag))),
            Done::There(mut answer) => {
                let whole = answer.headers_mut().remove(SLOTS).next().is_some();
                if whole || !answer.status().is_success() {
                    return Ok(Round::Answer(answer));
                }
                Ok(Round::Again(decode(answer, self.deadline).await?.gave_to.into_iter().collect()))
            }
        }
    }

    /// One page of those of `groups`.
    async fn several(&self, groups: BTreeSet<u32>) -> Result<Round> {
        let mut merger = Merger::new(self.query.limit);
        let mut behind = Some(0);
        let pages = stream::iter(groups).map(async |group| {
            let path = self.path(group);
            self.page(group, &wire(&path), Ok).await
        });
        let mut pages = Box::pin(pages.buffer_unordered(AT_ONCE));
        while let Some(done) = pages.next().await {
            let mut lease = self.door.site.answers.lease();
            let (page, lag) = match done? {
                Done::Here((page, lag)) => (page, lag),
                Done::There(answer) if answer.status().is_success() => {
                    let lag = lag_of(&answer);
                    lease.grow(size(&answer))?;
                    (decode(answer, self.deadline).await?, lag)
                }
                Done::There(answer) => return Ok(Round::Answer(answer)),
            };
            behind = behind.zip(lag).map(|(one, two): (u64, u64)| one.max(two));
            merger = blocking(move || merger.add(page).map(|()| merger)).await?;
        }
        drop(pages);
        match merger.finish() {
            Err(gave_to) => Ok(Round::Again(gave_to)),
            Ok(page) => {
                let body = blocking(move || {
                    Written::of(GroupPage { keys: page.keys, after: page.after, ..GroupPage::default() })
                })
                .await?;
                Ok(Round::Answer(self.answer(body.body, behind)))
            }
        }
    }

    /// The page of `group` and how far it may lag behind: read here and given to `finish`, or the answer of another node,
    /// which `wire` asks.
    async fn page<T: Send + 'static>(
        &self,
        group: u32,
        wire: &Wire<'_>,
        finish: fn(GroupPage) -> Result<T>,
    ) -> Result<Done<(T, Option<u64>)>> {
        let stale = !self.leaders;
        let manner = if stale { Manner::Stale } else { Manner::Read };
        let (door, asked, deadline) = (self.door, self.asked, self.deadline);
        let errand = Errand { door, asked, aim: Aim::Group(group), manner, deadline, wire: wire.clone() };
        errand
            .run(async |replica| {
                let (reader, lag) = values::right(replica, stale, deadline).await?;
                let query = self.query.clone();
                let page = blocking(move || {
                    let page = reader.list(&query)?;
                    finish(GroupPage::new(page, reader.slots(), reader.gave_to()))
                });
                Ok((page.await.map_err(Stop::from)?, lag))
            })
            .await
    }

    /// The path that asks for the page of `group`.
    fn path(&self, group: u32) -> String {
        let ListQuery { prefix, after, limit, values } = &self.query;
        let mut path = format!("/internal/list?group={group}&limit={limit}&values={values}");
        if !prefix.is_empty() {
            path += &format!("&prefix={}", percent::encode(prefix));
        }
        if let Some(after) = after {
            path += &format!("&after={}", percent::encode(after));
        }
        if !self.leaders {
            path += "&consistency=stale";
        }
        path
    }

    fn answer(&self, body: Vec<u8>, lag: Option<u64>) -> HttpResponse {
        let mut response = respond::json_bytes(body);
        if self.stale {
            respond::lag(&mut response, lag);
        }
        response
    }
}

fn wire(path: &str) -> Wire<'_> {
    Wire { method: Method::GET, path, body: Some(Bytes::new()), content_type: None, redirects: false }
}

/// How many milliseconds the copy may lag behind that answered; none if nobody can tell.
fn lag_of(answer: &HttpResponse) -> Option<u64> {
    match answer.headers().get(respond::LAG) {
        Some(lag) => lag.to_str().ok()?.parse().ok(),
        // A leader's page has no lag.
        None => Some(0),
    }
}

fn size(answer: &HttpResponse) -> usize {
    use actix_web::body::{BodySize, MessageBody as _};
    match answer.body().size() {
        BodySize::Sized(size) => usize::try_from(size).unwrap_or(LARGEST),
        BodySize::None => 0,
        BodySize::Stream => LARGEST,
    }
}

/// The page that another node sent.
async fn decode(answer: HttpResponse, deadline: Instant) -> Result<GroupPage> {
    let broken = |why: &str| {
        Error::new(Kind::NoMajority, format!("a group's page of the list {why}")).hint("try again")
    };
    let body = tokio::time::timeout_at(deadline.into(), to_bytes_limited(answer.into_body(), LARGEST)).await;
    let body = match body {
        Ok(Ok(Ok(body))) => body,
        Ok(Ok(Err(error))) => return Err(broken(&format!("broke off: {error}"))),
        Ok(Err(_)) => return Err(broken("is too long")),
        Err(_) => return Err(broken("did not come in time")),
    };
    blocking(move || serde_json::from_slice(&body).map_err(|error| broken("is not readable").cause(error)))
        .await
}
