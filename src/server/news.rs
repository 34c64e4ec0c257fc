//! Asking for newer routes at once, where a request shows that the known ones are old: `GET /cluster` at the node that
//! said so, at the masters, and at a member of each group. Newer routes are taken over. It holds up no
//! request, and happens a few times a second at most.

use super::beat;
use super::door::Door;
use super::forward::{self, CLUSTER};
use super::owner::Target;
use super::site::{Member, Site};
use crate::cluster::view::ClusterView;
use crate::error::Result;
use actix_web::http::header::{AUTHORIZATION, HeaderValue};
use actix_web::{rt, web};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// So many nodes are asked at once.
const MOST: usize = 8;
/// The longest description of a cluster.
const LARGEST: usize = 8 << 20;

/// When this node last asked for news.
#[derive(Default)]
pub(crate) struct News {
    asked: Mutex<Option<Instant>>,
}

impl News {
    /// True if it is time to ask again; then it counts as asked.
    fn due(&self, now: Instant) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked.is_none_or(|asked| now.saturating_duration_since(asked) >= PAUSE);
        if due {
            *asked = Some(now);
        }
        due
    }
}

/// Asks for newer routes, `first` among others, unless that happened a moment ago. Does not wait for the answers.
pub(crate) fn ask(door: &Door, first: Option<&Target>) {
    if !door.site.news.due(Instant::now()) {
        return;
    }
    let (site, client) = (Arc::clone(&door.site), door.client.clone());
    let places = places(&site, first);
    rt::spawn(async move {
        let mut answers: FuturesUnordered<_> =
            places.iter().map(|place| question(&site, &client, place)).collect();
        while let Some(answer) = answers.next().await {
            if let Some(view) = answer {
                take(&site, view).await;
            }
        }
    });
}

/// Whom to ask: who said that the routes are old, the masters, and a member of each group.
fn places(site: &Site, first: Option<&Target>) -> Vec<String> {
    let view = site.view();
    let members = view.groups.iter().filter_map(|group| group.target()).map(|member| &member.address);
    let mut places: Vec<String> = Vec::with_capacity(MOST);
    for place in first.map(|target| &target.address).into_iter().chain(&view.masters).chain(members) {
        if places.len() < MOST && place != site.address() && !places.contains(place) {
            places.push(place.clone());
        }
    }
    places
}

/// The routes as the node at `place` knows them; none if it does not answer, or is of another cluster.
async fn question(site: &Site, client: &awc::Client, place: &str) -> Option<ClusterView> {
    let cluster = forward::own_cluster(site)?;
    let mut request = client.get(format!("http://{place}/cluster")).insert_header((CLUSTER, cluster.clone()));
    if let Some(token) = site.guard.token() {
        request =
            request.insert_header((AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).ok()?));
    }
    let answered = async {
        let mut answer = request.send().await.ok()?;
        let ours = answer.status().is_success() && answer.headers().get(CLUSTER) == Some(cluster);
        if !ours {
            return None;
        }
        answer.body().limit(LARGEST).await.ok()
    };
    let body = tokio::time::timeout(ANSWER, answered).await.ok()??;
    let view: ClusterView = serde_json::from_slice(&body).ok()?;
    let fits = cluster.as_bytes() == view.cluster.as_bytes()
        && view.rank() > site.view().rank()
        && view.slots.check().is_ok();
    fits.then_some(view)
}

/// Takes routes over. A worker also notes them on its disk, on a thread that may block.
async fn take(site: &Arc<Site>, view: ClusterView) {
    let site = Arc::clone(site);
    let taken = web::block(move || -> Result<()> {
        match &site.member {
            Member::Worker(worker) => beat::learn(&site, worker, view),
            Member::Master(_) => drop(site.learn(view)),
        }
        Ok(())
    });
    if let Err(error) = taken.await {
        log::debug!("routes were not taken over: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_asked_for_a_few_times_a_second_at_most() {
        let (news, now) = (News::default(), Instant::now());
        assert!(news.due(now) && !news.due(now) && !news.due(now + PAUSE / 2));
        assert!(news.due(now + PAUSE) && !news.due(now + PAUSE));
        assert!(!news.due(now), "a clock of another thread");
    }
}
