//! CRC-32C, which LevelDB's tables and logs carry: by the processor's own instruction where it has one.

const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// The CRC-32C of the parts, one behind the other.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the instructions that the function is compiled to.
        return !parts.iter().fold(!0, |state, part| unsafe { extend(state, part) });
    }
    portable(parts)
}

fn portable(parts: &[&[u8]]) -> u32 {
    let mut digest = CRC.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// The state of a checksum, its complement, behind `bytes`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn extend(state: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks::<8>();
    let words =
        words.iter().fold(u64::from(state), |state, word| _mm_crc32_u64(state, u64::from_le_bytes(*word)));
    rest.iter().fold(words as u32, |state, byte| _mm_crc32_u8(state, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_checksums() {
        // RFC 3720, B.4.
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, sum) in
            [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&ascending, 0x46dd_794e)]
        {
            assert_eq!((checksum(&[bytes]), portable(&[bytes])), (sum, sum));
        }
        assert_eq!(checksum(&[]), 0);
    }

    proptest! {
        #[test]
        fn the_instruction_and_the_table_agree(one: Vec<u8>, other: Vec<u8>) {
            prop_assert_eq!(checksum(&[&one, &other]), portable(&[&one, &other]));
            prop_assert_eq!(checksum(&[&one, &other]), checksum(&[&[one, other].concat()]));
        }
    }
}
