//! The percent-decoder of paths: any bytes from the network.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = catstore::server::percent::decode(bytes) {
        // Three bytes at most become one, and nothing is made up.
        assert!(decoded.len() <= bytes.len());
        assert!(bytes.len() <= decoded.len() * 3);
        if !bytes.contains(&b'%') {
            assert_eq!(&decoded[..], bytes);
        }
    }
});
