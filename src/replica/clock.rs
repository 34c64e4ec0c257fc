//! The clocks of a running replica. Simulations bring their own.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of a clock that never goes back and goes on while the machine sleeps (`CLOCK_BOOTTIME`): promises and
/// leases are counted in it.
pub fn now_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The time of day in milliseconds since 1970: what entries carry for times to live.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
