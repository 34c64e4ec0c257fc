//! Signals that end a command which goes on until Ctrl-C.

use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that SIGINT, SIGTERM and SIGHUP raise; a second signal ends the process at once.
pub fn watch() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let wrong = |error| Error::new(Kind::System, "signals cannot be watched").cause(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
    let raised = Arc::new(AtomicBool::new(false));
    let flag = raised.clone();
    let mut signals = {
        let _inside = runtime.enter();
        let watch = |kind| signal(kind).map_err(wrong);
        (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?)
    };
    let watcher = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = signals.0.recv() => {}
                    _ = signals.1.recv() => {}
                    _ = signals.2.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    // Nodes that this process started see their pipes close.
                    std::process::exit(130);
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watcher).map_err(wrong)?;
    Ok(raised)
}
