//! Words of the command line that are more than text: sizes, times, keys.

use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// So much of a value is looked at to guess its content type.
pub const GLANCE: usize = 4096;

/// A size in bytes: `1000`, `64MiB`, `8m`, `10MB`. One letter, or a letter with `iB`, counts in 1024; with `B` in 1000.
pub fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("{unit:?} is not a unit of size; write 1000, 64MiB or 8m")),
    };
    let number: usize =
        number.parse().map_err(|_| "write a whole number of bytes: 1000, 64MiB, 8m".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that many bytes cannot be counted".to_owned())
}

/// A time: `60s`, `500ms`, `5m`, `2h`, `1d`, or plain seconds.
pub fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(format!("{unit:?} is not a unit of time; write 60s, 500ms, 5m, 2h or 1d")),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number: 60s, 500ms, 5m, 2h, 1d".to_owned())?;
    match number.checked_mul(milliseconds) {
        Some(0) => Err("the time must be longer than nothing".to_owned()),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        None => Err("that time is too long".to_owned()),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// The bytes of a word: keys and values need not be UTF-8.
pub fn bytes(word: &OsStr) -> &[u8] {
    word.as_bytes()
}

/// An index of a worker or group that may come from an empty environment variable.
pub fn index(text: &str) -> Result<Option<u32>> {
    match text.trim() {
        "" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| {
            Error::new(Kind::Usage, format!("{digits:?} is not an index of a worker"))
                .hint("write a number: 0, 1, 2 …")
        }),
    }
}

/// The content type of a value that was typed or piped, by its first bytes: text if it can be. [`GLANCE`]
/// bytes may end within a character.
pub fn content_type_of_value(value: &[u8]) -> &'static str {
    let cut = match std::str::from_utf8(value) {
        Err(error) if value.len() >= GLANCE && error.error_len().is_none() => error.valid_up_to(),
        _ => value.len(),
    };
    if super::text::is_text(&value[..cut]) { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}

/// The content type of a file, by its extension; else by its contents.
pub fn content_type_of_file(path: &Path, contents: &[u8]) -> &'static str {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "json" => "application/json",
        "xml" => "application/xml",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        _ => content_type_of_value(contents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1000", 1000),
            ("64MiB", 64 << 20),
            ("8m", 8 << 20),
            ("8 M", 8 << 20),
            ("10kB", 10_000),
            ("1GiB", 1 << 30),
            ("0", 0),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-1", "1.5m", "1x", "99999999999999999999", "99999999999999999g", "1 m m"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in
            [("60s", 60_000), ("60", 60_000), ("500ms", 500), ("5m", 300_000), ("2h", 7_200_000)]
        {
            assert_eq!(time(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "s", "-1s", "0", "0ms", "1w", "99999999999999999999s", "999999999999999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn indices_and_content_types() {
        assert_eq!(index("").ok(), Some(None));
        assert_eq!(index(" 3 ").ok(), Some(Some(3)));
        assert!(index("-1").is_err());
        assert_eq!(content_type_of_file(Path::new("Cat.JPG"), b"x"), "image/jpeg");
        assert_eq!(content_type_of_file(Path::new("cat"), b"x"), "text/plain; charset=utf-8");
        assert_eq!(content_type_of_file(Path::new("cat"), b"\xff"), "application/octet-stream");
        assert_eq!(content_type_of_value("é".repeat(GLANCE).as_bytes()), "text/plain; charset=utf-8");
        let cut = format!("x{}", "é".repeat(GLANCE / 2));
        assert_eq!(content_type_of_value(&cut.as_bytes()[..GLANCE]), "text/plain; charset=utf-8");
        assert_eq!(content_type_of_value(&cut.as_bytes()[..10]), "application/octet-stream");
    }

    proptest! {
        #[test]
        fn nothing_panics(text: String) {
            let _ = (size(&text), time(&text), index(&text));
        }
    }
}
