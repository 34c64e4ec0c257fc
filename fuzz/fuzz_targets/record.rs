//! The decoder of records: any bytes from the disk.
#![no_main]

use catstore::store::record::{Record, checksum, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::decode(bytes.to_vec()) {
        // A record that is let through is whole, and is written again as the same bytes.
        assert_eq!(checksum(record.value()), record.meta.checksum);
        assert_eq!(record.meta.size, record.value().len() as u64);
        assert_eq!(encode(&record.meta, record.value()), bytes);
    }
});
