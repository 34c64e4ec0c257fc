//! Whole clusters on virtual time: masters and groups of workers between which slots move, the very code of production,
//! with a simulated network, disks that lose what was not synced, and clients that write down what they see. Some values are
//! in chunks, which the keepers of production store, fetch and collect (`ether`, `node/chunks`, `vault`). Everything random
//! comes from the seed that is printed.
//!
//!     cargo test --test simulation                    new seeds, a few
//!     SEEDS=10000 cargo test --release --test simulation
//!     SEED=1234 cargo test --release --test simulation
//!
//! `lone` is a group of one, crashed at every step of its stores; `planted` shows that the simulator can see: with each
//! bug put in on purpose it fails within a bounded number of seeds.

mod bug;
mod carrier;
mod checker;
mod client;
mod ether;
mod event;
mod forgery;
mod group;
mod history;
mod judge;
mod keys;
#[path = "../common/linear.rs"]
mod linear;
mod lister;
mod lone;
mod loss;
mod moving;
mod node;
mod operator;
mod owners;
mod planted;
mod plots;
mod residue;
mod run;
mod scenes;
mod stores;
mod subjects;
mod system;
mod themes;
mod trouble;
mod vault;
mod watch;
mod workers;
mod world;

use bug::Bug;

/// So many seeds if nobody says how many.
const FEW: u64 = 24;

#[test]
fn groups_keep_every_promise_whatever_goes_wrong() {
    if let Some(seed) = run::number("SEED") {
        let outcome = run::live(seed, Bug::None);
        run::report(&[seed], &outcome.totals, outcome.events, None);
        if let Some(why) = outcome.failure {
            panic!("seed {seed} fails: {why}");
        }
        return;
    }
    let seeds = run::number("SEEDS").unwrap_or(FEW);
    run::many(run::first_seed(), seeds);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..3 {
        let (one, two) = (run::live(seed, Bug::None), run::live(seed, Bug::None));
        assert_eq!((one.trace, one.events), (two.trace, two.events));
        assert_eq!(one.totals, two.totals);
    }
}
