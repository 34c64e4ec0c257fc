//! A group of one on a simulated disk, crashed at every kind of step.
//!
//! After every crash: the state is exactly what was acknowledged, or that and the whole entry whose outcome was
//! unknown; nothing else, no half of it.

mod model;
mod world;

use crate::run;
use world::{Bug, Totals, World};

#[test]
fn nothing_acknowledged_is_lost_whatever_step_a_crash_hits() {
    let mut totals = Totals::default();
    let seeds = run::number("SEEDS").unwrap_or(300);
    let first = run::number("SEED").unwrap_or_else(run::first_seed);
    println!("seeds {first} to {}", first + seeds - 1);
    for seed in first..first + seeds {
        if let Err(why) = World::new(seed, Bug::None).live(&mut totals) {
            panic!(
                "seed {seed} fails: {why}\nreplay it with SEED={seed} SEEDS=1 cargo test --test simulation lone"
            );
        }
    }
    println!("{seeds} seeds: {totals:?}");
    totals.check(seeds);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        let (mut one, mut two) = (Totals::default(), Totals::default());
        World::new(seed, Bug::None).live(&mut one).unwrap();
        World::new(seed, Bug::None).live(&mut two).unwrap();
        assert_eq!(one, two);
    }
}

/// How many seeds a planted bug may hide.
const SEARCH: u64 = 1000;

fn finds(bug: Bug) {
    let mut totals = Totals::default();
    let found = (0..SEARCH).find_map(|seed| Some((seed, World::new(seed, bug).live(&mut totals).err()?)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {SEARCH} seeds"));
    println!("{bug:?} found by seed {seed}: {why}");
    let false_alarm = World::new(seed, Bug::None).live(&mut totals).err();
    assert_eq!(false_alarm, None, "seed {seed} fails without {bug:?}");
}

#[test]
fn planted_acknowledging_before_the_sync_is_found() {
    finds(Bug::NoSync);
}

#[test]
fn planted_trusting_the_write_ahead_logs_after_power_loss_is_found() {
    finds(Bug::TrustLogs);
}

#[test]
fn planted_cutting_the_log_beyond_the_tables_is_found() {
    finds(Bug::CutBeyondTables);
}

#[test]
fn planted_applied_index_in_a_batch_of_its_own_is_found() {
    finds(Bug::AppliedApart);
}
