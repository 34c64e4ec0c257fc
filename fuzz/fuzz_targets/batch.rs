//! The parser of `POST /batch`: any bytes from the network.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = catstore::server::batch::parse(bytes);
});
