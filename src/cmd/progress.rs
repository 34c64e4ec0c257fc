//! How far something is: bars, and moves of slots that are waited for.

use super::{output, signals, text};
use crate::cluster::moves::{MoveFacts, MoveStatus, Phase};
use crate::error::{Error, Result};
use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the masters may be silent before whoever waits is told.
const SILENCE: Duration = Duration::from_secs(30);

/// `[#####     ] 5 bytes of 10 bytes`.
pub fn bar(sent: u64, total: u64) -> String {
    bar_of(30, sent, total)
}

/// The same, `width` columns wide between its brackets.
pub fn bar_of(width: u8, sent: u64, total: u64) -> String {
    let width = u64::from(width);
    // Counted in 128 bits: a worker may hold petabytes.
    let filled = (u128::from(sent.min(total)) * u128::from(width)).checked_div(u128::from(total));
    let filled = filled.map_or(width as usize, |filled| filled as usize);
    let empty = width as usize - filled;
    format!("[{}{}] {} of {}", "#".repeat(filled), " ".repeat(empty), text::bytes(sent), text::bytes(total))
}

/// A move as a line: where to, how much, how fast, how long yet.
pub fn move_line(status: &MoveStatus) -> String {
    let order = &status.order;
    let slots = text::plural(u64::from(order.slots.count()), "slot");
    let head = format!("move {}: group {} to {}, {slots}: ", order.id, order.from, order.to);
    let Some(facts) = &status.facts else {
        let silent = if order.cancelled { "called off" } else { "ordered" };
        return head + silent;
    };
    let off = if order.cancelled { ", called off" } else { "" };
    head + &how_far(status, facts) + off
}

fn how_far(status: &MoveStatus, facts: &MoveFacts) -> String {
    match facts.phase {
        Phase::Copy => {
            let rate = format!("{}/s", text::bytes(facts.rate));
            let left = status.seconds_left().map(|seconds| format!(", {} left", time(seconds)));
            let keys = text::plural(facts.keys, "key");
            format!("{}, {keys}, {rate}{}", bar(facts.bytes, facts.total), left.unwrap_or_default())
        }
        Phase::Follow => {
            format!(
                "copied, {} sent, {} to follow",
                text::bytes(facts.bytes),
                text::plural(facts.waiting, "change")
            )
        }
        Phase::Frozen => "changing hands".to_owned(),
        Phase::Given | Phase::Release => "changed hands; the old copies are removed".to_owned(),
        Phase::Withdraw => "the slots stay; what was copied is removed".to_owned(),
        Phase::Done => "done".to_owned(),
    }
}

/// `59 s`, `3 min`, `2 h`.
pub fn time(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// Waits until `look` says that it is over, and shows its lines meanwhile; `look` answers them, or none if it is over.
/// True if it is over; false after Ctrl-C, which ends the waiting and nothing else. A master that does not answer for a
/// while is waited for.
pub fn wait(mut look: impl FnMut() -> Result<Option<Vec<String>>>) -> Result<bool> {
    let stop = signals::watch()?;
    let mut shown = Shown::default();
    let mut heard = Instant::now();
    loop {
        match look() {
            Ok(None) => {
                shown.clear();
                return Ok(true);
            }
            Ok(Some(lines)) => {
                heard = Instant::now();
                shown.show(&lines);
            }
            Err(error) => {
                give_up(&error, heard).map_or(Ok(()), |error| {
                    shown.clear();
                    Err(error)
                })?;
                shown.show(&[error.to_string()]);
            }
        }
        let next = Instant::now() + LOOK;
        while Instant::now() < next {
            if stop.load(Ordering::Relaxed) {
                shown.clear();
                return Ok(false);
            }
            std::thread::sleep(LOOK / 10);
        }
    }
}

/// The error, if nothing better is to be expected.
fn give_up(error: &Error, heard: Instant) -> Option<Error> {
    let lasting = error.kind().advice() == crate::error::Advice::Never;
    (lasting || heard.elapsed() > SILENCE).then(|| error.clone())
}

/// Lines on a terminal that are written anew each time; nothing where standard error is no terminal.
#[derive(Default)]
struct Shown {
    lines: usize,
}

impl Shown {
    fn show(&mut self, lines: &[String]) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        self.clear();
        let text: String = lines.iter().map(|line| output::one_line(line) + "\n").collect();
        let _ = write!(std::io::stderr(), "{text}");
        self.lines = lines.len();
    }

    fn clear(&mut self) {
        if self.lines > 0 {
            let _ = write!(std::io::stderr(), "\x1b[{}A\x1b[J", self.lines);
        }
        self.lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::moves::{MoveOrder, SlotSet, Span};
    use crate::error::Kind;

    fn status(phase: Phase) -> MoveStatus {
        let slots = SlotSet::of([Span { first: 8192, last: 16383 }]);
        MoveStatus {
            order: MoveOrder { id: 3, slots, from: 0, to: 1, cancelled: false, switched: false },
            facts: Some(MoveFacts {
                id: 3,
                phase,
                withdrawn: false,
                keys: 120,
                bytes: 512,
                total: 1024,
                waiting: 1,
                rate: 256,
            }),
        }
    }

    #[test]
    fn a_move_is_one_line() {
        let half = format!("[{}{}]", "#".repeat(15), " ".repeat(15));
        assert_eq!(
            move_line(&status(Phase::Copy)),
            format!(
                "move 3: group 0 to 1, 8192 slots: {half} 512 bytes of 1.0 KiB, 120 keys, 256 bytes/s, 2 s left"
            )
        );
        assert!(move_line(&status(Phase::Follow)).ends_with(": copied, 512 bytes sent, 1 change to follow"));
        let mut called_off = status(Phase::Withdraw);
        called_off.order.cancelled = true;
        assert!(move_line(&called_off).ends_with("is removed, called off"));
        called_off.facts = None;
        assert!(move_line(&called_off).ends_with(": called off"));
        assert_eq!((time(119), time(120), time(7200)), ("119 s".into(), "2 min".into(), "2 h".into()));
    }

    #[test]
    fn masters_that_are_away_are_waited_for() {
        let away = Error::new(Kind::NoMajority, "no master leads");
        assert!(give_up(&away, Instant::now()).is_none());
        assert!(give_up(&Error::new(Kind::Conflict, "no"), Instant::now()).is_some());
        let mut left = 2;
        let over = wait(|| {
            left -= 1;
            Ok((left > 0).then(Vec::new))
        });
        assert!(over.unwrap());
    }
}
