//! The tests with real processes: the built binary on free ports in temporary folders, killed with -9, stopped, cut
//! off and restarted. Each file is named after what a user fears; together they are one program, which is linked once
//! and keeps its threads busy to the end. `cargo test --test processes leader_killed` runs one file.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/lone.rs"]
mod lone;

mod a_million_keys;
mod all_killed_at_once;
mod all_masters_lost;
mod any_member_answers;
mod bench;
mod clear;
mod clone_of_a_clone;
mod clone_under_load;
mod close_and_open;
mod command_line;
mod cut_off_leader;
mod damage;
mod drain_a_voter;
mod every_path;
mod every_value;
mod exact_repeats;
mod failover_unnoticed;
mod files_move;
mod files_of_any_size;
mod first_session;
mod follower_killed_and_back;
mod format;
mod free_ports;
mod full_disk;
mod full_disk_on_one_member;
mod groups_come_and_go;
mod guards;
mod leader_killed;
mod leaders_die_while_slots_move;
mod lists_and_batches;
mod majority_gone;
mod master_down;
mod masters_killed_one_by_one;
mod memory_stays_bounded;
mod nonsense;
mod nothing_acknowledged_is_lost;
mod old_copy_beside_the_new;
mod one_clone;
mod one_sync_for_many;
mod paused_leader_wakes_up;
mod planned_restart;
mod promote;
mod promoted_copy_waits;
mod ranges;
mod replace;
mod rolling_restart;
mod sigterm_under_load;
mod slots_move_while_you_write;
mod slow_heads;
mod source_dies_while_cloned;
mod stale_reads;
mod status_of_many;
mod stopped_owner;
mod uploads_under_kills;
mod verify;
mod wrong_folder;
