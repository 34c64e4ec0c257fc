//! A clone of a large worker under writes, against a copy of its folder.

use crate::nodes::{Group, Process, json, wait};
use crate::shared::figures::{machine, today};
use crate::shared::load::Data;
use crate::shared::{Result, note};
use crate::writers::Writers;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of every value.
const VALUE: usize = 1024;
/// Writes a second meanwhile.
const RATE: usize = 1000;
/// How long the writers are watched before the clone begins.
const BEFORE: Duration = Duration::from_secs(15);
/// The longest that a clone may take.
const LONGEST: Duration = Duration::from_secs(900);

/// The section `clone`.
pub fn measure(values: usize, folder: &Path) -> Result<String> {
    let mut group = Group::start(&folder.join("clone"), 1)?;
    note(&format!("loading {values} values of {VALUE} bytes"));
    Data::tagged(values, VALUE).load(&group.workers[0].address())?;
    // Closed, so that LevelDB does not change the folder meanwhile.
    json_or_text(&group.workers[0].address(), "/close/0")?;
    let copied = copy(&group.data(0), &folder.join("cp"))?;
    json_or_text(&group.workers[0].address(), "/worker/0")?;
    let source_idle = group.workers[0].resident()?;
    let writers = Writers::start(&group.workers[0].address(), RATE, VALUE);
    std::thread::sleep(BEFORE);
    let (before, _) = writers.p99();
    note("cloning");
    let began = Instant::now();
    group.spawn()?;
    let (mut source_most, mut clone_most, mut clone_idle) = ((0.0, 0.0), (0.0, 0.0), None);
    loop {
        source_most = most(source_most, group.workers[0].resident()?);
        let clone: &Process = &group.workers[1];
        clone_most = most(clone_most, clone.resident()?);
        let facts = json(&clone.address(), "/worker").unwrap_or_default();
        if facts["state"] == "open" {
            clone_idle.get_or_insert(clone.resident()?);
        }
        if facts["copy"]["done"] == true && facts["applied"].as_u64() > Some(0) {
            break;
        }
        if began.elapsed() > LONGEST {
            return Err("the clone did not end".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let cloned = began.elapsed();
    let (during, written) = writers.p99();
    // The master and the workers share a file for what they say.
    let log = folder.join("clone").join("log");
    wait(|| Ok(std::fs::read_to_string(&log)?.contains("hold the same")))?;
    let compared = began.elapsed();
    writers.stop()?;
    let mut text = format!(
        "`make bench-groups` on {}. {}; {values} values of {VALUE} bytes, {RATE} writes a second, synced before the answer, \
         {written} of them during the clone\n\n| clone | seen | target |\n|---|---|---|\n",
        today(),
        machine()
    );
    let (clone, copy) = (cloned.as_secs_f64(), copied.as_secs_f64());
    writeln!(
        text,
        "| time / `cp -r` with a sync | {clone:.1} s / {copy:.1} s = **{:.2}** | at most 4 |",
        clone / copy
    )?;
    writeln!(text, "| time until the digests were found equal | {:.1} s | |", compared.as_secs_f64())?;
    writeln!(
        text,
        "| p99 of the writers, during / before | {during:.1} ms / {before:.1} ms = **{:.2}** | at most 2 |",
        during / before
    )?;
    let clone_idle = clone_idle.unwrap_or(clone_most);
    for (name, most, idle) in [("source", source_most, source_idle), ("clone", clone_most, clone_idle)] {
        writeln!(
            text,
            "| memory of the {name} above idle (with mapped files) | **{:.0} MiB** ({:.0} MiB) | under 128 MiB |",
            most.0 - idle.0,
            most.1 - idle.1
        )?;
    }
    group.stop()?;
    Ok(text)
}

fn most(one: (f64, f64), other: (f64, f64)) -> (f64, f64) {
    (one.0.max(other.0), one.1.max(other.1))
}

fn json_or_text(address: &str, path: &str) -> Result<()> {
    ureq::get(format!("http://{address}{path}")).call()?.body_mut().read_to_vec()?;
    Ok(())
}

/// `cp -r` and a sync: the time of both. What was loaded is synced before, and is in memory as it is for the clone.
fn copy(from: &Path, to: &Path) -> Result<Duration> {
    Command::new("sync").status()?;
    let began = Instant::now();
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status()?;
    let synced = Command::new("sync").status()?;
    let time = began.elapsed();
    if !copied.success() || !synced.success() {
        return Err("cp or sync failed".into());
    }
    std::fs::remove_dir_all(to)?;
    Ok(time)
}
