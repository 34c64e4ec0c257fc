//! What a verification found, in words.

use crate::cluster::verifying::{Findings, Verification};
use crate::cmd::{progress, text};

const WHOLE: &str = "everything is whole";
/// So many hurt keys stand in an error.
const NAMED: usize = 5;

/// How far a verification is: two lines.
pub fn how_far(now: &Verification) -> Vec<String> {
    let Findings { keys, bytes, chunks, .. } = now.findings;
    let total = now.bytes_about.max(bytes);
    let mut line = format!("worker {}: {}", now.worker, progress::bar_of(16, bytes, total));
    if let Some(rate) = rate(bytes, now.milliseconds) {
        line.push_str(&format!(", {}/s", text::bytes(rate)));
        if let Some(seconds) = (total - bytes).checked_div(rate) {
            line.push_str(&format!(", {} left", progress::time(seconds)));
        }
    }
    let of = now.keys_about.max(keys);
    let below = format!("  {keys} of about {}, {}", text::plural(of, "key"), text::plural(chunks, "chunk"));
    vec![line, below + &trouble(&now.findings)]
}

/// Bytes a second, once there is something to tell it by.
fn rate(bytes: u64, milliseconds: u64) -> Option<u64> {
    (milliseconds >= 100).then(|| bytes.saturating_mul(1000) / milliseconds).filter(|rate| *rate > 0)
}

fn trouble(findings: &Findings) -> String {
    let Findings { rotten, missing, mended, hurt, .. } = findings;
    let all = [(rotten, "rotten"), (missing, "missing"), (mended, "mended")];
    let mut words: Vec<String> =
        all.iter().filter(|(count, _)| **count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if findings.renewed > 0 {
        words.push("rows pulled anew".to_owned());
    }
    if *hurt > 0 {
        words.push(format!("{} hurt", text::plural(*hurt, "key")));
    }
    words.iter().map(|word| format!(", {word}")).collect()
}

/// How a verification ended: `worker 0: 12 keys and 3 chunks, 2.0 MiB in 1 s: everything is whole`.
pub fn ending(last: &Verification) -> String {
    let ago = match last.ended_ms.unwrap_or_default() / 1000 {
        seconds @ 0..=59 if seconds < 10 => String::new(),
        seconds => format!(" ({} ago)", progress::time(seconds)),
    };
    let took = progress::time(last.milliseconds.div_ceil(1000));
    format!("worker {}: {} in {took}{ago}: {}", last.worker, read(&last.findings), outcome(&last.findings))
}

/// What was read: `12 keys and 3 chunks, 2.0 MiB`.
pub fn read(findings: &Findings) -> String {
    let (keys, chunks) = (text::plural(findings.keys, "key"), text::plural(findings.chunks, "chunk"));
    format!("{keys} and {chunks}, {}", text::bytes(findings.bytes))
}

/// What came of it: `everything is whole`.
pub fn outcome(findings: &Findings) -> String {
    if findings.renewed == 0 {
        return outcome_of_chunks(findings);
    }
    let rows = "rows were rotten, and all rows were pulled anew";
    match outcome_of_chunks(findings) {
        whole if whole == WHOLE => rows.to_owned(),
        chunks => format!("{rows}; {chunks}"),
    }
}

fn outcome_of_chunks(findings: &Findings) -> String {
    let Findings { rotten, missing, mended, hurt, .. } = *findings;
    let not_whole = match (rotten, missing) {
        (0, 0) if hurt == 0 => return WHOLE.to_owned(),
        (0, missing) => format!("{} missing", text::plural(missing, "chunk")),
        (rotten, 0) => format!("{} rotten", text::plural(rotten, "chunk")),
        (rotten, missing) => format!("{} rotten, {missing} missing", text::plural(rotten, "chunk")),
    };
    match hurt {
        0 if mended == rotten + missing => format!("{not_whole}, mended"),
        // What was mended meanwhile by others, or belonged to a value that was replaced.
        0 => format!("{not_whole}, {mended} mended, the others are not needed any more"),
        _ => format!("{not_whole}, {mended} mended; {} hurt", text::plural(hurt, "key")),
    }
}

/// The first of these keys: `a, b and 3 more`; `count` are hurt in all.
pub fn named<'a>(keys: impl IntoIterator<Item = &'a [u8]>, count: u64) -> String {
    let shown: Vec<String> = keys.into_iter().take(NAMED).map(text::escape).collect();
    match count.saturating_sub(shown.len() as u64) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::verifying::Seen;

    fn verification() -> Verification {
        let mut findings = Findings::default();
        findings.note_record(24);
        findings.note_chunk(Seen::Whole, 1000);
        Verification {
            keys_about: 3,
            bytes_about: 4096,
            milliseconds: 1000,
            findings,
            ..Verification::default()
        }
    }

    #[test]
    fn how_far_it_is() {
        let mut now = verification();
        let quarter = format!("[{}{}]", "#".repeat(4), " ".repeat(12));
        assert_eq!(
            how_far(&now),
            [
                format!("worker 0: {quarter} 1.0 KiB of 4.0 KiB, 1.0 KiB/s, 3 s left"),
                "  1 of about 3 keys, 1 chunk".to_owned()
            ]
        );
        now.findings.note_chunk(Seen::Rotten, 0);
        now.findings.note_mended();
        now.findings.note_hurt(b"a", "why");
        now.milliseconds = 0;
        let lines = how_far(&now);
        assert!(lines[0].ends_with("1.0 KiB of 4.0 KiB"), "{lines:?}");
        assert_eq!(lines[1], "  1 of about 3 keys, 2 chunks, 1 rotten, 1 mended, 1 key hurt");
        let wide = Verification { bytes_about: 1 << 50, ..verification() };
        assert!(how_far(&wide)[0].chars().count() < 80);
    }

    #[test]
    fn how_it_ended() {
        let mut last = verification();
        assert_eq!(ending(&last), "worker 0: 1 key and 1 chunk, 1.0 KiB in 1 s: everything is whole");
        last.ended_ms = Some(90_000);
        last.findings.note_chunk(Seen::Rotten, 0);
        last.findings.note_mended();
        assert!(ending(&last).ends_with("1.0 KiB in 1 s (90 s ago): 1 chunk rotten, mended"));
        last.findings.note_chunk(Seen::Missing, 0);
        last.findings.note_hurt(b"a", "why");
        assert!(ending(&last).ends_with(": 1 chunk rotten, 1 missing, 1 mended; 1 key hurt"));
        let mut last = verification();
        last.findings.note_renewed();
        assert!(ending(&last).ends_with(": rows were rotten, and all rows were pulled anew"));
        last.findings.note_chunk(Seen::Rotten, 0);
        last.findings.note_mended();
        assert!(ending(&last).ends_with("pulled anew; 1 chunk rotten, mended"));
        assert_eq!(named([&b"a\n"[..], b"b"], 2), "a\\n, b");
        assert_eq!(named([&b"a"[..]; 7], 9), "a, a, a, a, a and 4 more");
    }
}
