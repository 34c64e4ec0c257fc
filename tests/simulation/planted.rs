//! Each bug that is put in on purpose is found.

use crate::bug::Bug;
use crate::run;
use crate::themes;

/// How many seeds a planted bug may hide.
const SEARCH: u64 = 1000;

/// The seeds that are about moves.
fn finds_in_moves(bug: Bug) {
    finds_among(bug, &|seed| themes::theme(seed).name == "moves");
}

fn finds(bug: Bug) {
    finds_among(bug, &|_| true);
}

fn finds_among(bug: Bug, fits: &dyn Fn(u64) -> bool) {
    let mut seeds = (0..).filter(|seed| fits(*seed)).take(SEARCH as usize);
    let found = seeds.find_map(|seed| Some((seed, run::live(seed, bug).failure?)));
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

#[test]
fn two_groups_that_take_the_same_slots_are_found() {
    finds_in_moves(Bug::ActivateTwice);
}

#[test]
fn an_outbox_that_loses_its_tail_is_found() {
    finds_in_moves(Bug::OutboxTail);
}

#[test]
fn taking_back_what_was_given_is_found() {
    finds_in_moves(Bug::WithdrawGiven);
}

#[test]
fn a_version_counter_that_restarts_is_found() {
    finds_in_moves(Bug::VersionRestarts);
}

#[test]
fn reads_of_slots_that_were_given_away_are_found() {
    finds_in_moves(Bug::ReadGivenAway);
}

#[test]
fn a_chunk_that_comes_late_is_found() {
    finds_in_moves(Bug::LateChunk);
}

#[test]
fn a_clear_in_the_middle_of_a_move_is_found() {
    finds_in_moves(Bug::ClearWhileMoving);
}

#[test]
fn a_release_of_slots_that_came_back_is_found() {
    finds_in_moves(Bug::ReleaseOwned);
}

#[test]
fn changes_that_are_decided_anew_are_found() {
    finds_in_moves(Bug::DecidedAnew);
}

#[test]
fn commands_without_their_chunks_are_found() {
    finds(Bug::ChunksUnsecured);
}

#[test]
fn a_collector_that_ignores_the_log_is_found() {
    finds(Bug::CollectorIgnoresLog);
}

#[test]
fn a_collector_that_ignores_uploads_is_found() {
    finds(Bug::CollectorIgnoresUploads);
}

#[test]
fn a_collector_that_ignores_readers_is_found() {
    finds(Bug::CollectorIgnoresReaders);
}

#[test]
fn a_collector_that_ignores_moves_is_found() {
    finds_in_moves(Bug::CollectorIgnoresMove);
}
