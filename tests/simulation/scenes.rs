//! Scenes of several acts, each at its time.

use crate::event::{Death, Event, Place, Scene};
use crate::system::{MS, SECOND};
use crate::world::World;
use std::collections::BTreeSet;

impl World {
    /// First act: somebody is cut off for so long that it wants to lead. Second act ([`World::scene`]): a follower comes
    /// back, and the leader cannot reach it.
    pub(super) fn restart_within_promise(&mut self, group: u32) -> Result<(), String> {
        let Some(leader) = self.workers.group(group).leader() else { return Ok(()) };
        let voters = self.workers.group(group).membership(leader).map(|membership| membership.voters.clone());
        let voters = voters.unwrap_or_default();
        let others: Vec<u64> = voters.into_iter().filter(|id| *id != leader).collect();
        if others.len() < 2 {
            return Ok(());
        }
        let follower = others[self.sys.random.up_to(others.len() - 1)];
        // What is on its way arrives first, and nothing follows: whoever is cut off must not fall behind.
        self.quiet(self.sys.now + 3200 * MS);
        self.sys.after(600 * MS, Event::Scene(Scene::CutOff { leader, follower }));
        let later = self.sys.between(1700, 3200) * MS;
        self.sys.after(later, Event::Scene(Scene::RestartWithinPromise { leader, follower }));
        Ok(())
    }

    pub(super) fn hand_over_unheard(&mut self, group: u32) -> Result<(), String> {
        let Some(leader) = self.workers.group(group).leader() else { return Ok(()) };
        self.hurry(leader);
        let life = self.workers.group(group).nodes.get(&leader).map_or(0, |node| node.life);
        self.sys.after(0, Event::Leave(Place::Worker(leader), life));
        let soon = self.sys.between(0, 2 * MS);
        self.sys.after(soon, Event::Scene(Scene::HandOver { leader }));
        // It does not stay for ever.
        let later = self.sys.between(1500, 6000) * MS;
        self.sys.after(later, Event::Die(Place::Worker(leader), life, Death::Close));
        Ok(())
    }

    /// The second act of a scene.
    pub fn scene(&mut self, scene: Scene) -> Result<(), String> {
        let (Scene::RestartWithinPromise { leader, .. }
        | Scene::HandOver { leader }
        | Scene::CutOff { leader, .. }) = scene;
        let group = self.workers.group_of(leader).unwrap_or_default();
        if !self.sys.faults || self.workers.group(group).leader() != Some(leader) {
            return Ok(());
        }
        if let Scene::CutOff { follower, .. } = scene {
            let until = self.sys.now + 5 * SECOND;
            for other in
                self.workers.group(group).there().into_iter().filter(|id| *id != leader && *id != follower)
            {
                self.sys.net.cut(Place::Worker(leader), Place::Worker(other), until);
                self.sys.net.cut(Place::Worker(other), Place::Worker(leader), until);
            }
            return Ok(());
        }
        self.quiet(0);
        self.hurry(leader);
        let until = self.sys.now + self.sys.between(900, 2500) * MS;
        for other in self.workers.group(group).there().into_iter().filter(|id| *id != leader) {
            self.sys.net.cut(Place::Worker(other), Place::Worker(leader), until);
            if let Scene::RestartWithinPromise { .. } = scene {
                self.sys.net.cut(Place::Worker(leader), Place::Worker(other), until);
            }
        }
        match scene {
            Scene::CutOff { .. } => {}
            Scene::HandOver { .. } => self.sys.count("handover unheard"),
            Scene::RestartWithinPromise { follower, .. } => {
                self.sys.count("restart within the promise");
                if let Some(node) = self.workers.group_mut(group).nodes.get_mut(&follower) {
                    node.die(&mut self.sys, Death::Kill)?;
                    let soon = self.sys.between(1, 60) * MS;
                    self.sys.after(soon, Event::Start(Place::Worker(follower)));
                }
            }
        }
        Ok(())
    }

    /// The leader and the standbys on one side, all other voters on the other.
    pub(super) fn with_standbys(&mut self, group: u32) {
        let Some(leader) = self.workers.group(group).leader() else { return };
        let Some(membership) = self.workers.group(group).membership(leader) else { return };
        let with: BTreeSet<u64> = membership.learners.iter().copied().chain([leader]).collect();
        if with.len() < 2 {
            return;
        }
        self.sys.count("leader alone with standbys");
        self.hurry(leader);
        self.part(group, &with);
    }

    /// Nothing passes between these workers and all others for a while.
    pub(super) fn part(&mut self, group: u32, with: &BTreeSet<u64>) {
        let until = self.sys.now + self.sys.between(1500, 5000) * MS;
        for one in self.workers.group(group).there() {
            for other in self.workers.group(group).there() {
                if with.contains(&one) != with.contains(&other) {
                    self.sys.net.cut(Place::Worker(one), Place::Worker(other), until);
                }
            }
        }
    }
}
