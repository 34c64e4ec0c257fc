//! The time to live of a key as people write it: `60s`, `5m`, `2h`, `1d`, `500ms`, or a plain number of seconds.
//! The result is in milliseconds. Zero, fractions and more than 100 years are refused: a key that never lives or
//! a clock that overflows is nobody's intention.

use crate::error::{Error, Kind, Result};

/// The longest time to live: 100 years of 365 days, in milliseconds.
pub const LONGEST: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Milliseconds of a time to live. Errors with [`Kind::BadRequest`].
pub fn parse(text: &str) -> Result<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return Err(refused(text)),
    };
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match milliseconds {
        Some(milliseconds) if (1..=LONGEST).contains(&milliseconds) => Ok(milliseconds),
        _ => Err(refused(text)),
    }
}

fn refused(text: &str) -> Error {
    let shown: String = text.chars().take(40).collect();
    Error::new(Kind::BadRequest, format!("`{}` is not a time to live", shown.escape_debug()))
        .hint("write 500ms, 60s, 5m, 2h or 1d; at least 1ms and at most 36500d")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("60", 60_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text).unwrap(), milliseconds, "{text}");
        }
        for bad in [
            "",
            "0",
            "0s",
            "s",
            "-1",
            "1.5s",
            "1 s",
            "99999999999999999999",
            "18446744073709551615d",
            "36501d",
            "1w",
            "１s",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), Kind::BadRequest, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            if let Ok(milliseconds) = parse(&text) {
                prop_assert!((1..=LONGEST).contains(&milliseconds));
            }
        }
    }
}
