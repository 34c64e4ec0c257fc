//! What a member that is alone is opened with.

use catstore::error::{Error, Kind, Result};
use catstore::replica::Sizes;
use catstore::replica::copies::SnapshotName;
use catstore::replica::handle::Options;
use catstore::replica::transport::Wire;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A wire that leads nowhere: these members are alone.
struct Nowhere;

impl Wire for Nowhere {
    fn deliver(&self, to: u64, _parcel: &[u8]) -> Result<()> {
        Err(Error::new(Kind::Unreachable, format!("there is no member {to}")))
    }

    fn pull(&self, from: u64, _name: SnapshotName, _after: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(Error::new(Kind::Unreachable, format!("there is no member {from}")))
    }

    fn ask(&self, _to: u64, _envelope: &[u8]) -> Result<Vec<u8>> {
        unreachable!("a lone member asks nobody")
    }
}

pub fn options() -> Options {
    Options {
        sizes: Sizes { cache: 1 << 20 },
        wire: Arc::new(Nowhere),
        quorum_reads: false,
        reserve: 0,
        keep: Duration::from_secs(3600),
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}
