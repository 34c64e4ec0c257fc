//! `catstore clear IDX`: removes every key of a group; `--all` of all groups.

use super::options::ClientArgs;
use super::{output, text};
use crate::client::Client;
use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// How long moves that touch a group are waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// The pause before all groups are cleared once more.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `catstore clear`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group: the index of its founder
    #[arg(value_name = "IDX", required_unless_present = "all", conflicts_with = "all")]
    index: Option<u32>,
    /// Every group
    #[arg(long)]
    all: bool,
    /// Does not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Asks, then clears.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let end = Instant::now() + PATIENCE;
        if let Some(index) = self.index {
            self.check_agreed()?;
            return clear(&client, index, end);
        }
        let groups = |view: &ClusterView| {
            let there = view.groups.iter().filter(|group| !group.members.is_empty());
            there.map(|group| group.group).collect::<Vec<_>>()
        };
        let mut before = client.cluster()?;
        if before.groups.is_empty() {
            return Ok(());
        }
        self.check_agreed()?;
        loop {
            groups(&before).into_iter().try_for_each(|group| clear(&client, group, end))?;
            let after = client.cluster()?;
            if is_quiet(&before, &after) {
                return Ok(());
            }
            // Keys that went to a group that was cleared already, from one that was not yet, are still there.
            if Instant::now() >= end {
                return Err(Error::new(Kind::Frozen, "slots move between the groups: some keys may be left")
                    .hint("`catstore status` shows the moves; the same command later"));
            }
            output::remark("the cluster changed meanwhile, and slots may have moved; once more");
            std::thread::sleep(LOOK);
            before = after;
        }
    }

    fn check_agreed(&self) -> Result<()> {
        match self.yes || agreed(self.index)? {
            true => Ok(()),
            false => Err(Error::new(Kind::Conflict, "nothing was cleared").hint("answer y, or say --yes")),
        }
    }
}

/// True if no slot can have changed hands between two looks at the cluster, also not there and back: every step of a
/// move raises the directory's epoch.
fn is_quiet(before: &ClusterView, after: &ClusterView) -> bool {
    before.rank() == after.rank() && before.moves.is_empty()
}

/// Clears `group`, and waits until no move touches it, for as long as there is time.
fn clear(client: &Client, group: u32, end: Instant) -> Result<()> {
    let mut said = false;
    loop {
        match client.clear(group) {
            Ok(keys) => {
                let keys =
                    keys.map_or_else(|| "cleared".to_owned(), |keys| text::plural(keys, "key") + " removed");
                output::remark(format!("group {group}: {keys}"));
                return Ok(());
            }
            Err(error) if error.kind() == Kind::Frozen && Instant::now() < end => {
                if !std::mem::replace(&mut said, true) {
                    output::remark(format!("group {group} is in a move of slots; waiting for its end"));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn agreed(index: Option<u32>) -> Result<bool> {
    let what = index.map_or_else(|| "all groups".to_owned(), |index| format!("group {index}"));
    output::agreed("clear", &format!("Remove every key of {what}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::moves::MoveOrder;
    use crate::cluster::slots::SlotTable;

    #[test]
    fn all_is_cleared_only_if_no_slot_moved() {
        let of = |epoch, group, moves: &[MoveOrder]| ClusterView {
            epoch,
            slots: SlotTable::whole(group),
            moves: moves.to_vec(),
            ..ClusterView::default()
        };
        let order = MoveOrder {
            id: 1,
            slots: crate::cluster::moves::SlotSet::all(),
            from: 0,
            to: 1,
            cancelled: false,
            switched: false,
        };
        let moving = std::slice::from_ref(&order);
        assert!(is_quiet(&of(7, 0, &[]), &of(7, 0, &[])));
        assert!(!is_quiet(&of(7, 0, &[]), &of(9, 1, &[])), "away");
        assert!(!is_quiet(&of(7, 0, &[]), &of(11, 0, &[])), "there and back");
        assert!(!is_quiet(&of(7, 0, &[]), &of(8, 0, moving)), "a move begins");
        assert!(!is_quiet(&of(8, 0, moving), &of(9, 0, &[])), "and ends");
        assert!(!is_quiet(&of(8, 0, moving), &of(8, 0, moving)), "one is under way all the time");
    }
}
