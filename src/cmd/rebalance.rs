//! `catstore rebalance`: moves slots until every group has its share, and shows how far that is.

use super::options::ClientArgs;
use super::{output, progress, text};
use crate::cluster::placement::Waits;
use crate::cluster::view::{Plan, PlannedMove, RebalanceRequest};
use crate::error::Result;

/// Arguments of `catstore rebalance`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only says what would move where
    #[arg(long)]
    dry_run: bool,
    /// Slots may go to groups with fewer voters, which keep fewer copies
    #[arg(long)]
    accept_fewer_copies: bool,
    /// From now on slots move by themselves (as at first), or only on this command; `off` also calls off what moves
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"], conflicts_with = "dry_run")]
    auto: Option<String>,
    /// Does not wait until it is done
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Says what moves, and waits for it.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let off = self.auto.as_deref() == Some("off");
        let request = RebalanceRequest {
            dry_run: self.dry_run,
            accept_fewer_copies: self.accept_fewer_copies,
            auto: self.auto.as_deref().map(|auto| auto == "on"),
        };
        let plan = client.rebalance(request)?;
        if off {
            return output::write(b"slots do not move by themselves any more\n");
        }
        output::write(describe(&plan).as_bytes())?;
        if self.dry_run || self.no_wait || is_over(&plan) {
            return Ok(());
        }
        let look = RebalanceRequest { dry_run: true, auto: None, ..request };
        let command = format!("catstore rebalance{}", self.client.words());
        follow(&command, "every group has its share", || {
            let plan = client.rebalance(look)?;
            Ok((!is_over(&plan)).then(|| lines(&plan)))
        })
    }
}

/// Waits, and says how it ended; `command` takes it up again.
pub fn follow(command: &str, done: &str, look: impl FnMut() -> Result<Option<Vec<String>>>) -> Result<()> {
    if progress::wait(look)? {
        return output::write(format!("{done}\n").as_bytes());
    }
    output::note(format!("it goes on without this command; `{command}` shows it again"));
    Ok(())
}

fn is_over(plan: &Plan) -> bool {
    plan.moves.is_empty() && plan.running.is_empty()
}

/// The moves under way, and how many are to come.
pub fn lines(plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = plan.running.iter().map(progress::move_line).collect();
    if !plan.moves.is_empty() {
        lines.push(format!("{} to come", text::plural(plan.moves.len() as u64, "move")));
    }
    lines
}

/// What moves where, who waits, and who is in the way.
pub fn describe(plan: &Plan) -> String {
    let mut lines: Vec<String> = plan.running.iter().map(progress::move_line).collect();
    lines.extend(plan.moves.iter().map(describe_move));
    lines.extend(plan.waits.iter().map(Waits::to_string));
    if !plan.waits.is_empty() {
        lines.push(
            "(slots do not go where fewer vote, unless `catstore rebalance --accept-fewer-copies` says so)"
                .into(),
        );
    }
    lines.extend(
        plan.silent
            .iter()
            .map(|group| format!("group {group} has no leader: nothing moves to it or from it")),
    );
    if lines.is_empty() {
        lines.push("nothing has to move".to_owned());
    }
    lines.join("\n") + "\n"
}

fn describe_move(planned: &PlannedMove) -> String {
    let PlannedMove { from, to, slots, keys, bytes } = planned;
    format!(
        "{} from group {from} to {to}: about {}, {}",
        text::plural(u64::from(slots.count()), "slot"),
        text::plural(*keys, "key"),
        text::bytes(*bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::moves::{SlotSet, Span};

    #[test]
    fn a_plan_says_what_moves_and_who_waits() {
        let mut plan = Plan::default();
        assert_eq!(describe(&plan), "nothing has to move\n");
        let slots = SlotSet::of([Span { first: 0, last: 8191 }]);
        plan.moves.push(PlannedMove { from: 0, to: 1, slots, keys: 1000, bytes: 2048 });
        plan.waits.push(Waits { group: 3, voters: 3, members: 2 });
        plan.silent.push(5);
        let said = describe(&plan);
        assert!(said.starts_with(
            "8192 slots from group 0 to 1: about 1000 keys, 2.0 KiB\ngroup 3 waits for 2 more members\n"
        ));
        assert!(said.ends_with("group 5 has no leader: nothing moves to it or from it\n"), "{said}");
        assert_eq!(lines(&plan), ["1 move to come"]);
    }
}
