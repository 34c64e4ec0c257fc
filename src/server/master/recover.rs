//! When all masters have lost their disks: what the workers know is gathered ([`survey`]), a new master begins with a
//! directory that was built of it, and tells the workers. Masters of before are at an end when they hear of it.

use super::super::call::Caller;
use super::super::config::MasterOptions;
use super::super::site::{Event, Site};
use super::Master;
use crate::cluster::directory::{Directory, Recovered, recover};
use crate::cluster::view::{ClusterView, FactsReply, RecoveredReply};
use crate::error::{Error, Kind, Result};
use crate::replica::holds_stores;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a node that is asked what it knows may take.
const CALL: Duration = Duration::from_secs(3);
/// The same, where a start waits for it, or other work.
const WORD: Duration = Duration::from_millis(700);
/// The masters' incarnation is raised by up to so much, so that two recoveries at once choose different ones.
const STEPS: u64 = 1000;

/// Asks the workers that `options` names, and all others that those know, and builds a directory of what they say. It
/// changes nothing anywhere.
///
/// Errors: `Conflict` if this folder has a directory, a master of the cluster lives, or the answers do not fit together;
/// `Unreachable` if nobody answers.
pub fn survey(options: &MasterOptions) -> Result<Recovered> {
    options.node.check()?;
    check_empty(options, holds_stores(&options.node.data)?)?;
    let caller = Caller::new(options.node.token.clone());
    let mut silent = Vec::new();
    let told = gather(&options.recover, &caller, &mut silent)?;
    check_masters(&told, &caller)?;
    let random = getrandom::u64()
        .map_err(|error| Error::new(Kind::System, format!("the system gives no random numbers: {error}")))?;
    let mut recovered = recover(&told, 1 + random % STEPS)?;
    recovered.remarks.extend(silent);
    Ok(recovered)
}

/// Refuses a folder with stores: what a master holds is never replaced by what others guess of it.
pub(super) fn check_empty(options: &MasterOptions, holds_stores: bool) -> Result<()> {
    if !holds_stores {
        return Ok(());
    }
    let data = options.node.data.display();
    Err(Error::new(Kind::Conflict, format!("{data} holds a directory already: nothing is to be recovered in it"))
        .hint("start this master without --recover; if it is not the one you want, name an empty folder with --data"))
}

/// Asks `named`, then whoever the answers name. `silent` takes a line for each named one that did not answer.
fn gather(named: &[String], caller: &Caller, silent: &mut Vec<String>) -> Result<Vec<FactsReply>> {
    let mut asked: BTreeSet<String> = BTreeSet::new();
    let mut told: Vec<FactsReply> = Vec::new();
    let mut next: Vec<String> = named.to_vec();
    while !next.is_empty() {
        asked.extend(next.iter().cloned());
        for (address, answer) in ask_all::<FactsReply>(&next, "/internal/facts", caller, CALL) {
            match answer {
                Ok(reply) => note(&mut told, reply, named.contains(&address)),
                Err(error) if !named.contains(&address) => log::debug!("{address}: {error}"),
                Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Forbidden) => {
                    return Err(error);
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    return Err(Error::new(
                        Kind::Usage,
                        format!("{address} is no worker ({})", error.detail()),
                    )
                    .hint("--recover names workers; their catstore must be as new as this one"));
                }
                Err(error) => silent.push(format!("{address} did not say what it knows: {error}")),
            }
        }
        let known = told.iter().flat_map(|reply| &reply.view.groups).flat_map(|group| &group.members);
        let known = known.map(|member| member.address.clone()).filter(|address| !asked.contains(address));
        next = known.collect::<BTreeSet<String>>().into_iter().collect();
    }
    if told.is_empty() {
        return Err(Error::new(Kind::Unreachable, format!("no worker answers: {}", silent.join("; ")))
            .hint("start the workers first; they serve without a master"));
    }
    Ok(told)
}

/// Takes an answer, unless it is that of a worker which was reached by another address before, or of a stranger who
/// lives where a worker lived.
fn note(told: &mut Vec<FactsReply>, reply: FactsReply, named: bool) {
    let same = |other: &FactsReply| other.facts.uuid == reply.facts.uuid && other.run == reply.run;
    let ours = told.iter().any(|other| other.facts.cluster == reply.facts.cluster);
    if !told.iter().any(same) && (named || ours) {
        told.push(reply);
    }
}

/// Refuses while a master of the cluster answers.
fn check_masters(told: &[FactsReply], caller: &Caller) -> Result<()> {
    let workers: BTreeSet<&String> = told.iter().map(|reply| &reply.facts.address).collect();
    let masters: BTreeSet<&String> = told.iter().flat_map(|reply| &reply.view.masters).collect();
    let masters: Vec<String> = masters.difference(&workers).map(|address| (*address).clone()).collect();
    let ours = |view: &ClusterView| told.iter().any(|reply| reply.facts.cluster == view.cluster);
    for (address, answer) in ask_all::<ClusterView>(&masters, "/cluster", caller, CALL) {
        if answer.is_ok_and(|view| ours(&view)) {
            return Err(Error::new(Kind::Conflict, format!("the master at {address} lives")).hint(
                "join it with --join; if a majority of the masters is lost for good, stop those that are left first",
            ));
        }
    }
    Ok(())
}

/// Asks all of them at once.
fn ask_all<T: serde::de::DeserializeOwned + Send>(
    addresses: &[String],
    path: &str,
    caller: &Caller,
    limit: Duration,
) -> Vec<(String, Result<T>)> {
    at_once(addresses, |address| caller.get::<T>(address, path, limit))
}

fn at_once<T: Send>(
    addresses: &[String],
    call: impl Fn(&str) -> Result<T> + Sync,
) -> Vec<(String, Result<T>)> {
    let lost = || Error::new(Kind::System, "a thread that asks ended early");
    std::thread::scope(|scope| {
        let calls: Vec<_> = addresses.iter().map(|address| scope.spawn(|| call(address))).collect();
        let answers = calls.into_iter().map(|call| call.join().unwrap_or_else(|_| Err(lost())));
        addresses.iter().cloned().zip(answers).collect()
    })
}

/// The addresses of the workers of which `wanted` is true.
fn workers(directory: &Directory, wanted: impl Fn(u32) -> bool) -> Vec<String> {
    let workers =
        directory.workers.iter().filter(|(index, entry)| entry.removed.is_none() && wanted(**index));
    workers.map(|(_, entry)| entry.address.clone()).filter(|address| !address.is_empty()).collect()
}

/// Asks the workers whether the masters were recovered without this one. Errors: `Conflict` if they were.
pub(super) fn check_with_workers(master: &Master, caller: &Caller) -> Result<()> {
    let directory = master.directory();
    let own = directory.incarnation.max(1);
    for (_, answer) in ask_all::<ClusterView>(&workers(&directory, |_| true), "/cluster", caller, WORD) {
        let Ok(view) = answer else { continue };
        if view.cluster == directory.cluster && view.rank().0 > own {
            return Err(superseded(own, view.rank().0));
        }
    }
    Ok(())
}

/// Shows the view to workers that are silent: they may know the address of no master that lives. Errors: `Conflict` if
/// one of them follows newer masters.
pub(super) fn tell_silent(master: &Master, caller: &Caller) -> Result<()> {
    let (directory, alive) = (master.directory(), master.alive());
    let (own, view) = (directory.incarnation.max(1), master.view());
    let silent = workers(&directory, |index| !alive.contains(&index));
    let tell = |address: &str| caller.post::<_, RecoveredReply>(address, "/internal/recovered", &view, WORD);
    for (address, answer) in at_once(&silent, tell) {
        match answer {
            Ok(reply) if reply.incarnation > own => return Err(superseded(own, reply.incarnation)),
            Ok(_) => log::info!("the worker at {address} knows the recovered masters"),
            Err(error) => log::debug!("{address}: {error}"),
        }
    }
    Ok(())
}

/// Refuses a worker that follows masters of a higher incarnation, and ends this master: it was lost.
pub(super) fn check_present(site: &Site, master: &Master, incarnation: u64) -> Result<()> {
    let own = master.directory().incarnation.max(1);
    if incarnation <= own {
        return Ok(());
    }
    let error = superseded(own, incarnation);
    let answer = Error::new(Kind::Moved, error.detail());
    // The main thread may be gone already; then nobody needs to be told.
    let _ = site.events.send(Event::Fatal(error));
    Err(answer)
}

fn superseded(own: u64, present: u64) -> Error {
    Error::new(
        Kind::Conflict,
        format!(
            "the masters were recovered without this one: the workers follow incarnation {present}, this is {own}"
        ),
    )
    .hint("its folder may not come back; with an empty --data and --join it becomes one of the masters again")
}
