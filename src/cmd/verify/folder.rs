//! `catstore verify --data DIR`: reads the folder of a node that does not run. It can mend nothing, and says who can.

use super::words;
use crate::cmd::bar::Bar;
use crate::cmd::{output, report, text};
use crate::error::{Error, Kind, Result};
use crate::server::inspect::{Inspection, inspect};
use serde::Serialize;
use std::path::Path;

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    /// True if nothing is damaged or missing.
    whole: bool,
    #[serde(flatten)]
    inspection: &'a Inspection,
}

/// Reads the folder and says what was found.
pub fn run(data: &Path, json: bool) -> Result<()> {
    let bar = Bar::new("verify".to_owned());
    let inspection = inspect(data, &mut |done, total| bar.show(done, 0, Some(total)))?;
    bar.clear();
    let outcome = judge(&inspection);
    if json {
        output::json(&Document { whole: outcome.is_ok(), inspection: &inspection })?;
        return outcome.map_err(|error| report::told("not everything is whole", error));
    }
    output::write(describe(&inspection).as_bytes())?;
    outcome
}

/// Who the folder belongs to, what was read, and what is wrong, a line each.
fn describe(inspection: &Inspection) -> String {
    let who = who(inspection);
    let mut lines: Vec<String> = inspection.damage.iter().map(|damage| format!("{who}: {damage}")).collect();
    lines.extend(inspection.remarks.iter().map(|remark| format!("{who}: {remark}")));
    lines.push(match &inspection.findings {
        // A master has no keys.
        Some(_) if inspection.role == "master" => {
            let outcome = if inspection.damage.is_empty() { "everything is whole" } else { "see above" };
            format!("{who}: {} read: {outcome}", text::bytes(inspection.bytes))
        }
        Some(findings) => format!("{who}: {}: {}", words::read(findings), words::outcome(findings)),
        None => format!("{who}: records and chunks were not looked at, because the state is damaged"),
    });
    lines.iter().map(|line| line.clone() + "\n").collect()
}

fn who(inspection: &Inspection) -> String {
    match inspection.index {
        Some(index) => format!("{} {index}", inspection.role),
        None => format!("a {} without an index", inspection.role),
    }
}

fn judge(inspection: &Inspection) -> Result<()> {
    if inspection.is_whole() {
        return Ok(());
    }
    let index = inspection.index.map_or_else(|| "IDX".to_owned(), |index| index.to_string());
    let replace = match inspection.role {
        "worker" => format!(
            "keep the folder as it is; put another worker in its place: catstore worker PORT --replace {index}, or \
             restore a copy: docs/operations.md, Backup"
        ),
        _ => "keep the folder as it is; docs/operations.md, A lost master, says what to do".to_owned(),
    };
    if let Some(first) = inspection.damage.first() {
        let more = match inspection.damage.len() - 1 {
            0 => String::new(),
            more => format!(" (and {})", text::plural(more as u64, "more file")),
        };
        return Err(Error::new(Kind::Damaged, format!("{first}{more}")).hint(replace));
    }
    let findings = inspection.findings.clone().unwrap_or_default();
    let keys = words::named(findings.hurt_keys.iter().map(|key| key.0.as_slice()), findings.hurt);
    let verb = if findings.hurt == 1 { "is" } else { "are" };
    let detail = format!("{} {verb} hurt in this folder: {keys}", text::plural(findings.hurt, "key"));
    let hint = match inspection.rotten_records {
        0 => format!("start worker {index}, then catstore verify {index} mends it from the other members"),
        _ => format!(
            "records are rotten; if the group has other members, start worker {index}, and catstore verify {index} pulls \
             all rows anew; else {replace}"
        ),
    };
    Err(Error::new(Kind::Damaged, detail).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::verifying::{Findings, Seen};

    #[test]
    fn what_is_wrong_and_who_can_mend_it() {
        let whole = || Inspection {
            role: "worker",
            index: Some(2),
            findings: Some(Findings::default()),
            ..Inspection::default()
        };
        assert!(judge(&whole()).is_ok());
        assert_eq!(describe(&whole()), "worker 2: 0 keys and 0 chunks, 0 bytes: everything is whole\n");
        let master = Inspection { role: "master", bytes: 2048, ..whole() };
        assert_eq!(describe(&master), "master 2: 2.0 KiB read: everything is whole\n");
        let mut rotten = whole();
        let mut findings = Findings::default();
        findings.note_chunk(Seen::Rotten, 0);
        findings.note_hurt(b"a", "why");
        rotten.findings = Some(findings);
        let error = judge(&rotten).unwrap_err();
        assert_eq!(error.detail(), "1 key is hurt in this folder: a");
        assert!(error.hint_text().unwrap().contains("catstore verify 2 mends"));
        rotten.rotten_records = 1;
        assert!(judge(&rotten).unwrap_err().hint_text().unwrap().contains("--replace 2"));
        let damaged = Inspection { damage: vec!["/x is damaged".into(); 3], findings: None, ..whole() };
        let error = judge(&damaged).unwrap_err();
        assert_eq!((error.kind(), error.detail()), (Kind::Damaged, "/x is damaged (and 2 more files)"));
        assert!(describe(&damaged).ends_with("because the state is damaged\n"));
    }
}
