//! What is held, and until when.

use super::*;

fn name(byte: u8) -> Name {
    Name([byte; 32])
}

/// A ledger that holds nothing: it has applied an entry of term 2, and was opened in term 1.
fn opened() -> Ledger {
    let mut ledger = Ledger::new((5, 1), 1);
    ledger.applied(6, 2, &[]);
    ledger
}

/// Whether a collection that begins now must leave the chunk where it is.
fn holds(ledger: &mut Ledger, chunk: u8) -> bool {
    ledger.forget();
    ledger.holds(&name(chunk))
}

#[test]
fn everything_is_held_after_a_start_until_a_later_term() {
    let mut ledger = Ledger::new((5, 2), 3);
    assert!(holds(&mut ledger, 1) && ledger.waits());
    ledger.applied(6, 3, &[]);
    assert!(holds(&mut ledger, 1), "an entry of the term in which it was opened says nothing");
    ledger.applied(7, 4, &[]);
    assert!(!holds(&mut ledger, 1) && !ledger.waits());
}

#[test]
fn everything_is_held_after_a_start_until_the_uploads_of_then_have_ended() {
    let mut ledger = Ledger::new((5, 3), 3);
    ledger.hear(Statement { term: 3, low: 4, next: 6, applied: 9 });
    ledger.applied(9, 3, &[]);
    assert!(holds(&mut ledger, 1), "4 and 5 are under way");
    ledger.hear(Statement { term: 3, low: 6, next: 8, applied: 12 });
    assert!(holds(&mut ledger, 1), "what they wrote may not be applied here");
    ledger.applied(12, 3, &[]);
    assert!(!holds(&mut ledger, 1));
}

#[test]
fn a_lone_voter_that_led_before_its_ledger_was_there_hears_itself() {
    // It takes the lead while it is opened.
    let mut ledger = Ledger::new((5, 2), 3);
    ledger.applied(6, 3, &[]);
    let mark = ledger.begin(3);
    ledger.hear_oneself(3);
    assert!(ledger.waits(), "what is here may belong to the upload");
    ledger.end(mark);
    ledger.hear_oneself(3);
    assert!(!ledger.waits() && !holds(&mut ledger, 1));
}

#[test]
fn a_chunk_of_two_uploads_is_held_until_the_first_has_ended_too() {
    let mut ledger = opened();
    let (one, two) = (ledger.begin(2), ledger.begin(2));
    ledger.mark(&name(1), one);
    ledger.mark(&name(1), two);
    ledger.end(two);
    assert!(holds(&mut ledger, 1));
    ledger.end(one);
    assert!(!holds(&mut ledger, 1));
}

#[test]
fn what_was_held_since_a_collection_began_stays_until_it_has_ended() {
    let mut ledger = opened();
    let (one, two) = (ledger.begin(2), ledger.begin(2));
    ledger.mark(&name(1), one);
    ledger.end(one);
    ledger.mark(&name(2), two);
    ledger.begin_collection();
    ledger.end(two);
    assert!(!ledger.holds(&name(1)) && ledger.holds(&name(2)));
    ledger.begin_collection();
    assert!(!ledger.holds(&name(2)));
}

#[test]
fn what_a_value_named_since_a_collection_began_stays_until_it_has_ended() {
    let mut ledger = opened();
    assert!(!ledger.is_collecting());
    ledger.begin_collection();
    ledger.note_named(&[name(1)]);
    assert!(ledger.is_collecting() && ledger.holds(&name(1)) && !ledger.holds(&name(2)));
    ledger.end_collection();
    assert!(!ledger.is_collecting() && !ledger.holds(&name(1)));
}

#[test]
fn a_leader_holds_what_its_uploads_bring() {
    let mut ledger = opened();
    let (one, two) = (ledger.begin(2), ledger.begin(2));
    ledger.mark(&name(1), one);
    ledger.mark(&name(2), two);
    assert_eq!(ledger.statement(2), Statement { term: 2, low: 0, next: 2, applied: 6 });
    ledger.end(one);
    assert!(!holds(&mut ledger, 1) && holds(&mut ledger, 2) && !holds(&mut ledger, 3));
    assert_eq!(ledger.statement(2).low, 1);
    // It may have been written: only a later term tells.
    ledger.begin(4);
    assert!(holds(&mut ledger, 2));
    ledger.applied(8, 4, &[]);
    assert!(!holds(&mut ledger, 2));
    assert_eq!(ledger.statement(4), Statement { term: 4, low: 2, next: 3, applied: 8 });
}

#[test]
fn a_follower_holds_until_it_has_applied_what_the_leader_had() {
    let mut ledger = opened();
    ledger.mark(&name(1), Mark { term: 2, number: 3 });
    ledger.mark(&name(1), Mark { term: 2, number: 1 });
    ledger.hear(Statement { term: 2, low: 3, next: 9, applied: 7 });
    ledger.applied(7, 2, &[]);
    assert!(holds(&mut ledger, 1), "the later upload counts");
    ledger.hear(Statement { term: 2, low: 4, next: 9, applied: 9 });
    ledger.applied(8, 2, &[]);
    assert!(holds(&mut ledger, 1) && ledger.is_curious());
    ledger.applied(9, 2, &[]);
    assert!(!holds(&mut ledger, 1) && !ledger.is_curious());
}

#[test]
fn the_word_of_another_term_frees_nothing() {
    let mut ledger = opened();
    ledger.mark(&name(1), Mark { term: 4, number: 3 });
    ledger.hear(Statement { term: 3, low: 100, next: 100, applied: 1 });
    assert!(holds(&mut ledger, 1));
}

#[test]
fn a_collection_hears_of_what_comes_meanwhile() {
    let mut ledger = opened();
    ledger.applied(7, 2, &[b"before".to_vec()]);
    ledger.begin_collection();
    ledger.applied(8, 2, &[b"a".to_vec()]);
    ledger.applied(9, 2, &[b"b".to_vec()]);
    assert_eq!(ledger.take_touched(), Some(vec![b"a".to_vec(), b"b".to_vec()]));
    assert_eq!(ledger.take_touched(), Some(Vec::new()));
    ledger.replaced(10, 2);
    assert_eq!(ledger.take_touched(), None);
    ledger.begin_collection();
    ledger.applied(11, 2, &vec![Vec::new(); MOST_TOUCHED + 1]);
    assert_eq!(ledger.take_touched(), None);
}

#[test]
fn a_chunk_of_an_earlier_term_is_held_until_that_term_is_applied_whatever_a_new_leader_does_with_it() {
    let mut ledger = opened();
    // The leader of term 3 may have proposed it. Then this member leads, and its own upload of the same chunk fails.
    ledger.mark(&name(1), Mark { term: 3, number: 7 });
    let own = ledger.begin(4);
    ledger.mark(&name(1), own);
    ledger.end(own);
    assert!(holds(&mut ledger, 1), "the entry of term 3 may not be applied here");
    ledger.applied(8, 4, &[]);
    assert!(!holds(&mut ledger, 1));
}
