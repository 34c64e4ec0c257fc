//! How the client learns what the cluster looks like, at first and again: `GET /cluster` at seeds, at the nodes of
//! the last view, and at remembered nodes.

use super::memory::{self, Memory};
use super::wire::{Failure, Request};
use super::{Client, Routes, decide::Outcome, routes};
use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::{HeaderValue, Method};

/// A request whose answer shows that the routes are old spends at most so long on newer ones.
const RENEWAL: Duration = Duration::from_millis(500);
/// That happens at most once in this time.
const RENEWAL_PAUSE: Duration = Duration::from_millis(200);
/// A node that lives answers `GET /cluster` from memory.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

impl Client {
    /// The cluster as the client knows it; asks for it if need be.
    pub(super) fn known(&self, end: Instant) -> Result<Arc<ClusterView>> {
        if let Some(view) = &self.routes().view {
            return Ok(view.clone());
        }
        self.find(end)
    }

    /// Asks the seeds, then the remembered nodes.
    fn find(&self, end: Instant) -> Result<Arc<ClusterView>> {
        let mut silent: Option<Failure> = None;
        let mut refused: Option<Failure> = None;
        for seed in &self.seeds {
            match self.ask(seed, end) {
                Ok(view) => return Ok(self.learn(view, seed, true)),
                Err(failure) => {
                    log::debug!("{seed}: {}", failure.error);
                    let is_silent =
                        matches!(failure.outcome, Outcome::NotSent | Outcome::Broken | Outcome::Silent);
                    if is_silent { silent = Some(failure) } else { refused = Some(failure) }
                }
            }
        }
        // Somebody lives there, who may be of another cluster than the one that was remembered.
        if let Some(failure) = refused {
            return Err(failure.error);
        }
        let mut others = 0;
        let mut asked = self.seeds.join(", ");
        if let Some(remembered) = self.memory.as_deref().and_then(memory::read) {
            for node in remembered.nodes.iter().filter(|node| !self.seeds.contains(node)) {
                others += 1;
                match self.ask(node, end) {
                    Ok(view) if view.cluster == remembered.cluster => {
                        log::info!("{asked} does not answer; {node} is of the same cluster");
                        return Ok(self.learn(view, node, false));
                    }
                    Ok(view) => log::debug!("{node} belongs to another cluster now: {}", view.cluster),
                    Err(failure) => log::debug!("{node}: {}", failure.error),
                }
            }
        }
        if others > 0 {
            asked = format!("{asked}, nor at {others} that it named before");
        }
        Err(match silent {
            Some(failure) if failure.outcome != Outcome::NotSent => failure.error,
            _ => Error::new(Kind::Unreachable, format!("no node answers at {asked}"))
                .hint("start a master with `catstore master 3000`, or name a node with --master ADDR"),
        })
    }

    /// Learns the routes anew; keeps the old ones if nobody answers before `end`. Nodes that lately gave no answer are
    /// asked last.
    pub(super) fn refresh(&self, end: Instant) {
        let (known, mut nodes) = {
            let routes = self.routes();
            let mut nodes = routes.view.as_deref().map(routes::nodes).unwrap_or_default();
            nodes.extend(routes.extra.iter().chain(&self.seeds).cloned());
            (routes.view.clone(), nodes)
        };
        let mut seen = HashSet::new();
        nodes.retain(|node| seen.insert(node.clone()));
        {
            let routes = self.routes();
            nodes.sort_by_key(|node| routes.is_suspect(node));
        }
        for node in &nodes {
            if Instant::now() >= end {
                return;
            }
            match self.ask(node, end) {
                Ok(view) if known.as_ref().is_none_or(|known| is_same(known, &view)) => {
                    self.learn(view, node, true);
                    return;
                }
                Ok(view) => log::debug!("{node} belongs to another cluster: {}", view.cluster),
                Err(failure) => log::debug!("{node}: {}", failure.error),
            }
        }
    }

    /// Asks the node at `address`, which has just answered, for its routes, if their `epoch` is higher than that of the
    /// known ones. The answer is here: what follows is for the next request.
    pub(super) fn renew(&self, address: &str, epoch: Option<u64>, end: Instant) {
        let now = Instant::now();
        if !self.routes().may_renew(epoch, now) {
            return;
        }
        let known = self.routes().view.clone();
        match self.ask(address, end.min(now + RENEWAL)) {
            Ok(view) if known.as_ref().is_none_or(|known| is_same(known, &view)) => {
                self.learn(view, address, true);
            }
            Ok(view) => log::debug!("{address} belongs to another cluster: {}", view.cluster),
            Err(failure) => log::debug!("{address}: {}", failure.error),
        }
    }

    /// Takes a view that `node` gave, unless a newer one is known, and remembers its nodes.
    fn learn(&self, view: ClusterView, node: &str, remember: bool) -> Arc<ClusterView> {
        let view = {
            let mut routes = self.routes();
            let better = |known: &&Arc<ClusterView>| known.rank() > view.rank() || !is_same(known, &view);
            if let Some(known) = routes.view.as_ref().filter(better) {
                return known.clone();
            }
            routes.extra = vec![node.to_owned()];
            if !view.cluster.is_empty() {
                routes.cluster = HeaderValue::try_from(&view.cluster).ok();
            }
            let view = Arc::new(view);
            routes.view = Some(view.clone());
            view
        };
        if let (true, Some(path)) = (remember, &self.memory) {
            memory::write(path, &Memory::of(&view));
        }
        view
    }

    fn ask(&self, address: &str, end: Instant) -> Result<ClusterView, Failure> {
        let left = end.saturating_duration_since(Instant::now()).min(ANSWER);
        let sent = self.wire.send(address, &Request::new(Method::GET, "/cluster"), None, left);
        self.note(address, sent.as_ref().err());
        let mut answer = sent?;
        let view: ClusterView = answer.json()?;
        if HeaderValue::try_from(&view.cluster).is_err() {
            return Err(Failure::answered(answer.stranger("the name of its cluster is none")));
        }
        if let Err(error) = view.slots.check() {
            return Err(Failure::answered(answer.stranger(&error)));
        }
        Ok(view)
    }
}

impl Routes {
    /// True if routes of `epoch` are newer than the known ones, and it is time to ask for them; then it counts as asked.
    fn may_renew(&mut self, epoch: Option<u64>, now: Instant) -> bool {
        let newer = epoch > self.view.as_ref().map(|view| view.epoch);
        let due = self.renewed.is_none_or(|at| now.saturating_duration_since(at) >= RENEWAL_PAUSE);
        if newer && due {
            self.renewed = Some(now);
        }
        newer && due
    }
}

/// True unless `view` is of another cluster. A node that has just begun to start names none.
fn is_same(known: &ClusterView, view: &ClusterView) -> bool {
    known.cluster.is_empty() || known.cluster == view.cluster
}

/// A random number in `0.0..1.0`; without randomness, the middle.
pub(super) fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_renewed_when_they_are_old_and_not_too_often() {
        let now = Instant::now();
        let mut routes = Routes::default();
        assert!(!routes.may_renew(None, now));
        routes.view = Some(Arc::new(ClusterView { epoch: 4, ..ClusterView::default() }));
        assert!(
            !routes.may_renew(None, now)
                && !routes.may_renew(Some(4), now)
                && !routes.may_renew(Some(3), now)
        );
        assert!(routes.may_renew(Some(5), now));
        assert!(!routes.may_renew(Some(5), now + RENEWAL_PAUSE / 2));
        assert!(!routes.may_renew(Some(4), now + RENEWAL_PAUSE));
        assert!(routes.may_renew(Some(5), now + RENEWAL_PAUSE));
    }
}
