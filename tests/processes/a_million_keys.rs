//! The promises about moves with a million keys. They take minutes, so they run by `make million`.

use crate::common::clients::{Clients, Habits};
use crate::common::six::Six;
use crate::common::{Dice, Home, Node, Session, disk_usage, listed, pause, private_memory, shares, within};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEYS: u64 = 1_000_000;
/// A batch stays within one slot: so many keys have one tag.
const BATCH: u64 = 500;
/// How long slots may take to their new places.
const LONGEST: Duration = Duration::from_secs(900);
/// What listing may add to the memory of a node, whatever the number of keys.
const LIST_MEMORY: u64 = 64 << 20;

/// The keys, in their order: all names are equally long.
fn key(number: u64) -> String {
    format!("{{{:07}}}/{number:07}", number / BATCH)
}

fn fill(node: &Node) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = Session::new(node.port);
                loop {
                    let batch = next.fetch_add(1, Ordering::Relaxed) * BATCH;
                    if batch >= KEYS {
                        return;
                    }
                    let op = |number: u64| json!({"op": "put", "key": key(number), "value": "v".repeat(100)});
                    let ops: Vec<Value> = (batch..batch + BATCH).map(op).collect();
                    let body = json!({ "ops": ops }).to_string();
                    session.ask("POST", "/batch", &[], Some(body.as_bytes())).must_be(200);
                }
            });
        }
    });
}

/// Lists every key through `node`, page by page: each is there once, and they are in order.
fn list_all(node: &Node) -> u64 {
    let mut session = Session::new(node.port);
    let (mut after, mut count, mut pages) = (String::new(), 0, 0);
    loop {
        let path = format!("/kv?prefix=%7B&limit=1000{after}");
        let page = session.ask("GET", &path, &[], None).must_be(200).json();
        for found in listed(&page) {
            assert_eq!(found, key(count), "after {count} keys");
            count += 1;
        }
        pages += 1;
        let Some(last) = page["after"].as_str() else { break };
        after = format!("&after={}", last.replace('{', "%7B").replace('}', "%7D").replace('/', "%2F"));
    }
    assert_eq!(count, KEYS, "keys in {pages} pages");
    pages
}

/// Kills leaders in turn until `done`; how many died.
fn kill_until(six: &mut Six, dice: &mut Dice, what: &str, done: impl Fn(&Six) -> bool) -> usize {
    let mut turn = 0;
    within(LONGEST, what, || {
        if turn >= 3 && done(six) {
            return Some(());
        }
        turn += usize::from(six.kill_one(turn, 500 + dice.below(1000)));
        pause(2000 + dice.below(2000));
        None
    });
    turn
}

#[test]
#[ignore = "minutes: make million"]
fn leaders_are_killed_while_half_a_million_keys_move() {
    let mut dice = Dice::fresh();
    let mut six = Six::begin(&[]);
    fill(&six.workers[0]);
    let habits = Habits { clients: 16, silence: Duration::from_secs(4), pause: 20, ..Habits::default() };
    let clients = Clients::start(&six.ports(), habits);
    clients.progress(50);
    six.add_group();
    clients.talk_to(&six.ports());
    let began = Instant::now();
    let even = |six: &Six| six.shares() == Some((8192, 8192, 0));
    let died = kill_until(&mut six, &mut dice, "the shares are even", even);
    println!("even after {:.0} s, {died} leaders killed", began.elapsed().as_secs_f64());
    clients.turn_the_page();
    let began = Instant::now();
    let masters = six.master_list();
    six.home.run(&["drain", "--group", "3", "--no-wait", "--master", &masters]).exits(0);
    let empty = |six: &Six| {
        six.shares().is_some_and(|(first, second, moves)| (first, second, moves) == (16384, 0, 0))
    };
    let died = kill_until(&mut six, &mut dice, "the second group is empty", empty);
    println!("drained after {:.0} s, {died} leaders killed", began.elapsed().as_secs_f64());
    clients.talk_to(&six.ports()[..6]);
    clients.progress(50);
    println!("{:?}", clients.counts());
    clients.finish_and_check(&six.ports()[..6]);
    list_all(&six.workers[1]);
}

#[test]
#[ignore = "minutes: make million"]
fn a_list_during_a_move_is_complete_and_needs_no_memory() {
    let home = Home::new();
    let master = home.start("master", &["--move-rate", "2MB"]);
    let first = home.worker(&master);
    fill(&first);
    let second = home.worker(&master);
    let third = home.worker(&master);
    within(LONGEST, "a move is under way", || (shares(master.port).1 > 0).then_some(()));
    let nodes = [&master, &first, &second, &third];
    let memory = || nodes.map(|node| private_memory(node.pid()));
    let (mut during, mut rounds, mut most) = (0, 0, [0; 4]);
    let begin = memory();
    loop {
        let (owned, moves) = shares(master.port);
        let pages = list_all(nodes[rounds % nodes.len()]);
        during += usize::from(moves > 0);
        rounds += 1;
        let now = memory();
        most = std::array::from_fn(|at| now[at].max(most[at]));
        println!(
            "{pages} pages while {owned:?}, {moves} moves; own memory {:?} MiB",
            now.map(|bytes| bytes >> 20)
        );
        if moves == 0 && owned.len() == 3 && owned.iter().all(|(_, slots)| slots.abs_diff(16384 / 3) <= 1) {
            break;
        }
    }
    assert!(during >= 3, "{during} of {rounds} lists during a move");
    // The master keeps no keys: what it needs more is for listing.
    assert!(most[0] < begin[0] + LIST_MEMORY, "the master grew from {} to {} bytes", begin[0], most[0]);
    println!("disk of the source {} MiB", disk_usage(&first.data) >> 20);
}
