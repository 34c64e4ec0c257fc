//! The `Range` header (RFC 9110, section 14): one range of bytes. What is not understood is ignored, as the RFC
//! asks, and several ranges are answered with the whole value. A range outside the value is unsatisfiable.

/// What a `Range` header asks of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The whole value.
    Whole,
    /// The bytes from the first to the second position, both included.
    Part(u64, u64),
    /// Bytes that the value does not have.
    Unsatisfiable,
}

/// Reads `header` for a value of `size` bytes.
pub fn parse(header: &[u8], size: u64) -> Asked {
    let Some(spec) = std::str::from_utf8(header).ok().and_then(|text| text.trim().strip_prefix("bytes="))
    else {
        return Asked::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Asked::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Asked::Whole,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => {
            Asked::Unsatisfiable
        }
        (Some(first), Some(last)) => Asked::Part(first, last.min(size - 1)),
        (Some(first), None) if last.is_empty() => Asked::Part(first, size - 1),
        (None, Some(suffix)) if first.is_empty() => match suffix.min(size) {
            0 => Asked::Unsatisfiable,
            suffix => Asked::Part(size - suffix, size - 1),
        },
        _ => Asked::Whole,
    }
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_range() {
        let table: [(&str, Asked); 14] = [
            ("bytes=0-4", Asked::Part(0, 4)),
            ("bytes=5-", Asked::Part(5, 9)),
            ("bytes=-3", Asked::Part(7, 9)),
            ("bytes=-30", Asked::Part(0, 9)),
            ("bytes=9-99999999999999999999999", Asked::Part(9, 9)),
            ("bytes=10-", Asked::Unsatisfiable),
            ("bytes=10-12", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=4-2", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
        ];
        for (header, asked) in table {
            assert_eq!(parse(header.as_bytes(), 10), asked, "{header}");
        }
        assert_eq!(parse(b"bytes=0-", 0), Asked::Unsatisfiable);
        assert_eq!(parse(b"bytes=-1", 0), Asked::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(header: Vec<u8>, size: u64) {
            if let Asked::Part(first, last) = parse(&header, size) {
                prop_assert!(first <= last && last < size);
            }
        }

        #[test]
        fn a_plausible_part_lies_inside(text in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Asked::Part(first, last) = parse(text.as_bytes(), size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
