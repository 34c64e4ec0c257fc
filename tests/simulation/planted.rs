//! Each bug that is put in on purpose is found.

use crate::bug::Bug;
use crate::run;

/// How many seeds a planted bug may hide.
const SEARCH: u64 = 1000;

fn finds(bug: Bug) {
    let found = (0..SEARCH).find_map(|seed| Some((seed, run::live(seed, bug).failure?)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {SEARCH} seeds"));
    println!("{bug:?} found by seed {seed}: {why}");
    let false_alarm = run::live(seed, Bug::None).failure;
    assert_eq!(false_alarm, None, "seed {seed} fails without {bug:?}");
}

#[test]
fn acknowledging_before_the_sync_is_found() {
    finds(Bug::NoSync);
}

#[test]
fn reading_without_a_lease_is_found() {
    finds(Bug::ReadWithoutLease);
}

#[test]
fn voting_right_after_a_restart_is_found() {
    finds(Bug::VoteAfterRestart);
}

#[test]
fn a_lease_after_handing_over_is_found() {
    finds(Bug::LeaseAfterHandOver);
}

#[test]
fn applying_twice_after_a_crash_is_found() {
    finds(Bug::AppliedApart);
}

#[test]
fn cutting_the_log_beyond_the_tables_is_found() {
    finds(Bug::CutBeyondTables);
}

#[test]
fn trusting_the_write_ahead_logs_after_power_loss_is_found() {
    finds(Bug::TrustLogs);
}

#[test]
fn membership_that_is_not_synced_is_found() {
    finds(Bug::UnsyncedMembership);
}

#[test]
fn sending_before_the_new_term_is_synced_is_found() {
    finds(Bug::SendBeforeTerm);
}

#[test]
fn counting_a_standby_in_the_majority_is_found() {
    finds(Bug::StandbyCounts);
}

#[test]
fn asking_half_of_a_joint_configuration_is_found() {
    finds(Bug::HalfJoint);
}

#[test]
fn request_ids_lost_by_a_snapshot_are_found() {
    finds(Bug::RequestsLost);
}
