//! What goes wrong, one trouble after another.

use crate::event::{Death, Event, Place};
use crate::group::Group;
use crate::node::Subject;
use crate::system::{MS, System};
use crate::themes::Trouble::{self, *};
use crate::world::World;

impl World {
    /// Something goes wrong; the next trouble is planned.
    pub fn trouble(&mut self) -> Result<(), String> {
        if !self.sys.faults {
            return Ok(());
        }
        let pause = self.sys.between(0, 2 * self.theme.pause * MS);
        self.sys.after(pause, Event::Trouble);
        let weights = self.theme.weights;
        let mut left = self.sys.between(1, weights.iter().map(|(weight, _)| weight).sum());
        let chosen = weights.iter().find(|(weight, _)| {
            let here = left <= *weight;
            left = left.saturating_sub(*weight);
            here
        });
        let Some((_, trouble)) = chosen else { return Ok(()) };
        self.sys.mix(*trouble as u64);
        self.begin(*trouble)
    }

    fn begin(&mut self, trouble: Trouble) -> Result<(), String> {
        let at_masters = self.sys.one_in(if self.theme.name == "masters" { 2 } else { 6 });
        let group = self.workers.some(&mut self.sys);
        if matches!(trouble, Close | HandOver | HandOverUnheard | OutgoingLeads | Rot)
            && self.votes_are_few(group)
        {
            return Ok(());
        }
        match trouble {
            MoveSlots => {
                self.move_slots(group);
                Ok(())
            }
            Drain => {
                self.drain(group);
                Ok(())
            }
            Share => {
                self.rebalance();
                Ok(())
            }
            FoundGroup => {
                self.found_group();
                Ok(())
            }
            StrikeMove => {
                self.plan_strike();
                Ok(())
            }
            CancelMove => {
                self.cancel_move();
                Ok(())
            }
            Replace | LeaveGroup | Join | JoinMaster | RemoveMaster | PowerAll => self.change(group, trouble),
            Loss | Delays | Repeats => {
                self.network(trouble);
                Ok(())
            }
            RestartWithinPromise => self.restart_within_promise(group),
            HandOverUnheard => self.hand_over_unheard(group),
            SplitJoint => {
                self.plots(group).split_joint = true;
                Ok(())
            }
            BreakPull => {
                self.plots(group).break_pull = true;
                Ok(())
            }
            OutgoingLeads => {
                self.plan_outgoing_leader(group);
                Ok(())
            }
            ReplaceUnheard => {
                self.replace_unheard(group);
                Ok(())
            }
            WithStandbys => {
                self.with_standbys(group);
                Ok(())
            }
            Partition | OneWay | IsolateLeader => {
                self.cut(group, trouble, at_masters);
                Ok(())
            }
            _ if at_masters => single(&mut self.sys, &mut self.masters, trouble),
            _ => single(&mut self.sys, self.workers.group_mut(group), trouble),
        }
    }

    /// True while a lone voter may not give way: for as long as a leader takes a lost standby for alive, it would make
    /// that one the only voter.
    fn votes_are_few(&self, group: u32) -> bool {
        let group = self.workers.group(group);
        let lone = group.leader().and_then(|leader| group.membership(leader));
        !self.nobody_changes() && lone.is_none_or(|membership| membership.voters.len() == 1)
    }

    fn network(&mut self, trouble: Trouble) {
        let much = self.sys.between(20, 300);
        match trouble {
            Loss => {
                self.sys.count("time of losses");
                self.sys.net.lose = much;
            }
            Delays => {
                self.sys.count("time of delays");
                self.sys.net.slow = much;
                self.sys.net.longest = self.sys.between(20, 1500) * MS;
            }
            _ => {
                self.sys.count("time of repeats");
                self.sys.net.repeat = much;
            }
        }
        let length = self.sys.between(500, 4000) * MS;
        self.sys.after(length, Event::Calm);
    }

    pub(super) fn everybody(&self) -> Vec<Place> {
        let masters = self.masters.there().into_iter().map(Place::Master);
        masters.chain(self.workers.there().into_iter().map(Place::Worker)).collect()
    }

    fn cut(&mut self, group: u32, trouble: Trouble, at_masters: bool) {
        let until = self.sys.now + self.sys.between(300, 5000) * MS;
        let places = self.everybody();
        match trouble {
            Partition => {
                self.sys.count("partition");
                let side: Vec<bool> = places.iter().map(|_| self.sys.one_in(2)).collect();
                for (one, first) in places.iter().zip(&side) {
                    for (other, second) in places.iter().zip(&side) {
                        if first != second {
                            self.sys.net.cut(*one, *other, until);
                        }
                    }
                }
            }
            OneWay => {
                self.sys.count("one-way cut");
                let one = places[self.sys.random.up_to(places.len() - 1)];
                let all = self.sys.one_in(2);
                for other in places {
                    if all || self.sys.one_in(2) {
                        if until.is_multiple_of(2) {
                            self.sys.net.cut(one, other, until);
                        } else {
                            self.sys.net.cut(other, one, until);
                        }
                    }
                }
            }
            _ => {
                let leader = match at_masters {
                    true => self.masters.leader().map(Place::Master),
                    false => self.workers.group(group).leader().map(Place::Worker),
                };
                if let Some(leader) = leader {
                    self.sys.count("leader cut off");
                    if let Place::Worker(leader) = leader {
                        self.hurry(leader);
                    }
                    for other in places.into_iter().filter(|place| *place != leader) {
                        self.sys.net.cut(leader, other, until);
                        self.sys.net.cut(other, leader, until);
                    }
                }
            }
        }
    }

    fn change(&mut self, group: u32, trouble: Trouble) -> Result<(), String> {
        match trouble {
            PowerAll => {
                self.sys.count("power lost everywhere");
                for id in self.workers.group(group).running() {
                    let soon = self.sys.between(0, 2 * MS);
                    let life = self.workers.group(group).nodes.get(&id).map_or(0, |node| node.life);
                    self.sys.after(soon, Event::Die(Place::Worker(id), life, Death::Power));
                }
            }
            Join => {
                let there = self.workers.group(group).there().len();
                if there + self.operator.joining() < self.most_workers {
                    self.operator.join(&mut self.sys, Some(group), None);
                }
            }
            JoinMaster => {
                if self.masters.there().len() < 4 && self.nobody_changes() {
                    self.operator.join_master(&mut self.sys);
                }
            }
            Replace => self.lose_worker(group),
            LeaveGroup => self.drain_worker(group),
            _ => self.lose_master(),
        }
        Ok(())
    }
}

/// Trouble of one machine.
fn single<M: Subject>(sys: &mut System, group: &mut Group<M>, trouble: Trouble) -> Result<(), String> {
    let there = group.there();
    let leader = group.leader().filter(|_| sys.one_in(3));
    let id = leader.unwrap_or(there[sys.random.up_to(there.len() - 1)]);
    let place = M::place(id);
    let Some(node) = group.nodes.get_mut(&id).filter(|node| node.up.is_some()) else { return Ok(()) };
    let life = node.life;
    match trouble {
        Kill => sys.after(0, Event::Die(place, life, Death::Kill)),
        Power => sys.after(0, Event::Die(place, life, Death::Power)),
        CrashAtStep => {
            sys.count("crash in the middle of a step");
            node.planned = Some(if sys.one_in(2) { Death::Power } else { Death::Kill });
            let steps = sys.between(1, 30);
            node.disk.crash_at(steps);
        }
        DiskError => {
            sys.count("disk error");
            node.planned = Some(Death::Kill);
            let steps = sys.between(1, 20);
            node.disk.fail_at(steps);
        }
        Pause => {
            sys.count("pause");
            let long = if sys.one_in(2) { sys.between(50, 900) } else { sys.between(900, 5000) };
            if long > 2000 {
                sys.count("pause longer than the election timeout");
            }
            node.pause(sys.now + long * MS);
        }
        SlowDisk => {
            sys.count("slow disk");
            let sync = sys.between(5, 1500) * MS;
            node.slow_disk = (sync, sys.now + sys.between(500, 5000) * MS);
        }
        Rot => {
            sys.count("rotten rows");
            node.rot(sys);
        }
        DaySet => {
            sys.count("time of day set");
            node.clock.wrong = sys.between(0, 4000) as i64 - 2000;
        }
        Close => {
            node.leave(sys);
            let later = sys.between(0, 1500) * MS;
            sys.after(later, Event::Die(place, life, Death::Close));
        }
        _ => {
            node.leave(sys);
            let later = sys.between(2000, 9000) * MS;
            sys.after(later, Event::Die(place, life, Death::Close));
        }
    }
    Ok(())
}
