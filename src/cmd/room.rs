//! How much memory rows may take where nobody says it: an eighth of what the machine has, or of what a control group leaves
//! this process, within limits.

use std::fs;
use std::path::Path;

/// Of the memory, rows may take this part: several nodes share a machine, and the system's cache of tables is needed too.
const PART: u64 = 8;
/// At least so much, in bytes.
const LEAST: u64 = 48 << 20;
/// At most so much. A node that is stopped gives all of it back row by row, and others wait for a table of rows that grows.
const MOST: u64 = 4 << 30;

/// Bytes for rows that were read or written lately.
pub fn for_rows() -> usize {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    part(machine, limits(&groups, read))
}

/// The part of the least of these; where nothing is known, the least that rows get.
fn part(machine: Option<u64>, limits: Vec<u64>) -> usize {
    let memory = machine.into_iter().chain(limits).min();
    let part = memory.map_or(LEAST, |memory| (memory / PART).clamp(LEAST, MOST));
    usize::try_from(part).unwrap_or(usize::MAX)
}

/// The line `MemTotal` of `/proc/meminfo` (proc_meminfo(5)), in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control groups of `/proc/self/cgroup` (cgroups(7)) and those around them let this process have, in bytes: of version 2
/// in `memory.max` and `memory.high`, of version 1 in `memory.limit_in_bytes`. A container may see its own group as the outermost one.
fn limits(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, files): (_, &[&str]) = match controllers {
            "" => ("/sys/fs/cgroup", &["memory.max", "memory.high"]),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            for file in files {
                // A group without a limit says `max`.
                let limit = read(&Path::new(root).join(group).join(file));
                limits.extend(limit.and_then(|limit| limit.trim().parse::<u64>().ok()));
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const GIB: u64 = 1 << 30;

    #[test]
    fn an_eighth_of_the_least_and_never_too_little_or_too_much() {
        assert_eq!(part(Some(24 * GIB), vec![]), 3 << 30);
        assert_eq!(part(Some(24 * GIB), vec![u64::MAX, 8 * GIB]), 1 << 30);
        assert_eq!(part(None, vec![8 * GIB]), 1 << 30);
        assert_eq!(part(Some(256 << 20), vec![]), 48 << 20);
        assert_eq!(part(None, vec![]), 48 << 20);
        assert_eq!(part(Some(1024 * GIB), vec![]), 4 << 30);
    }

    #[test]
    fn the_machines_memory() {
        let text = "MemTotal:       24683812 kB\nMemFree:        19926380 kB\n";
        assert_eq!(total(text), Some(24_683_812 * 1024));
        for text in ["", "MemTotal: x kB", "MemTotal: 5", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(total(text), None, "{text}");
        }
        assert!(for_rows() as u64 >= LEAST);
    }

    #[test]
    fn limits_of_groups_and_of_those_around_them() {
        let seen = |groups: &str, files: &[(&str, &str)]| {
            let files: HashMap<&Path, &str> =
                files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
            limits(groups, |path| files.get(path).map(|text| (*text).to_owned()))
        };
        let second = [
            ("/sys/fs/cgroup/a.slice/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a.slice/b/memory.high", "900\n"),
            ("/sys/fs/cgroup/a.slice/memory.max", "1000\n"),
        ];
        assert_eq!(seen("0::/a.slice/b\n", &second), [900, 1000]);
        assert_eq!(seen("0::/\n", &[("/sys/fs/cgroup/memory.max", "2000\n")]), [2000], "a container's own");
        let first = [
            ("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "3000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(seen("5:cpu:/c\n4:memory:/c\n0::/c\n", &first), [3000, 9_223_372_036_854_771_712]);
        for groups in ["", "nonsense", "0:", "0::", "4:memory"] {
            assert_eq!(seen(groups, &first), [] as [u64; 0], "{groups}");
        }
    }
}
