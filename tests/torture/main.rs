//! Random kills, stops and cuts on three masters and one group of three, with sixteen clients, for as long as
//! `TORTURE_MINUTES` says: `make torture`. What was told to every client must fit into one order of events for each
//! key, nothing that was acknowledged may be lost, no node may end by itself, and once the trouble stops everything
//! goes on.

#[path = "../common/mod.rs"]
mod common;
mod trouble;

use common::clients::{Clients, Habits};
use common::{Dice, Fleet};
use std::time::{Duration, Instant};
use trouble::Trouble;

const MINUTES: f64 = 15.0;
/// The clients turn to fresh keys after so long, which keeps histories short enough to be decided.
const PAGE: Duration = Duration::from_secs(10);
/// Trouble stops so often, and everything must go on.
const BREATH: Duration = Duration::from_secs(60);

#[test]
#[ignore = "takes TORTURE_MINUTES (15): make torture"]
fn nothing_is_lost_and_nothing_is_stale() {
    let minutes: f64 = match std::env::var("TORTURE_MINUTES") {
        Ok(text) => text.parse().expect("TORTURE_MINUTES is a number"),
        Err(_) => MINUTES,
    };
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let mut fleet = Fleet::with_links(3, 3);
    let habits = Habits { clients: 16, with_id: 70, silence: Duration::from_secs(4), pause: 20 };
    let clients = Clients::start(&fleet.ports(), habits);
    clients.progress(200);
    let mut trouble = Trouble::new(Dice::fresh());
    let (mut page, mut breath) = (Instant::now() + PAGE, Instant::now() + BREATH);
    while Instant::now() < end {
        trouble.go_on(&mut fleet);
        if Instant::now() > page {
            clients.turn_the_page();
            page = Instant::now() + PAGE;
        }
        if Instant::now() > breath {
            recover(&mut trouble, &mut fleet, &clients);
            breath = Instant::now() + BREATH;
        }
    }
    recover(&mut trouble, &mut fleet, &clients);
    println!("trouble: {:?}", trouble.counts);
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

/// Everything is made whole; everybody catches up and serves.
fn recover(trouble: &mut Trouble, fleet: &mut Fleet, clients: &Clients) {
    trouble.stop(fleet);
    fleet.await_equal();
    fleet.await_writes(&fleet.ports());
    clients.progress(100);
    println!(
        "{} writes and {} reads so far; trouble: {:?}",
        clients.written(),
        clients.read(),
        trouble.counts
    );
}

/// The judge must be able to see: each of these histories is wrong in one way.
mod judge {
    use super::common::history::{Ask, Event, History, If, Told};
    use std::path::Path;

    fn event(client: usize, ask: Ask, told: Told, invoked: u64, returned: u64) -> Event {
        Event { key: "cat".into(), client, ask, told, invoked, returned, through: 1, attempts: 1 }
    }

    fn check(events: Vec<Event>) {
        let history = History::default();
        history.add(events);
        history.check(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("history-of-the-judge.txt"));
    }

    fn put(stamp: u64, told: Told, invoked: u64, returned: u64) -> Event {
        event(1, Ask::Put(stamp, If::Always), told, invoked, returned)
    }

    fn get(found: Option<(u64, u64)>, invoked: u64, returned: u64) -> Event {
        event(2, Ask::Get, Told::Found(found), invoked, returned)
    }

    #[test]
    fn what_may_have_happened_may_happen_late() {
        check(vec![
            put(1, Told::Unknown, 0, 10),
            get(None, 20, 30),
            put(2, Told::Created(5), 40, 50),
            get(Some((1, 6)), 60, 70),
        ]);
    }

    #[test]
    #[should_panic(expected = "1 keys are wrong")]
    fn a_stale_read() {
        check(vec![
            put(1, Told::Created(1), 0, 10),
            put(2, Told::Replaced(2), 20, 30),
            get(Some((1, 1)), 40, 50),
        ]);
    }

    #[test]
    #[should_panic(expected = "1 keys are wrong")]
    fn a_lost_write() {
        check(vec![put(1, Told::Created(1), 0, 10), get(None, 20, 30)]);
    }

    #[test]
    #[should_panic(expected = "1 keys are wrong")]
    fn a_write_that_was_done_twice() {
        check(vec![
            put(1, Told::Created(1), 0, 10),
            put(2, Told::Replaced(2), 20, 30),
            get(Some((2, 2)), 35, 38),
            get(Some((1, 3)), 40, 50),
        ]);
    }

    #[test]
    #[should_panic(expected = "1 keys are wrong")]
    fn a_condition_that_did_not_hold() {
        let condition = Ask::Put(3, If::Holds(1));
        check(vec![
            put(1, Told::Created(1), 0, 10),
            put(2, Told::Replaced(2), 20, 30),
            event(3, condition, Told::Replaced(3), 40, 50),
        ]);
    }

    #[test]
    #[should_panic(expected = "1 keys are wrong")]
    fn versions_that_go_back() {
        check(vec![put(1, Told::Created(7), 0, 10), put(2, Told::Replaced(6), 20, 30)]);
    }
}
