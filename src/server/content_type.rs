//! Content types: which ones a record may carry, and what a file's name suggests.
//! A stored content type comes back as a header, so it must be one: visible ASCII, one line, not too long.

use crate::error::{Error, Kind, Result};
use std::path::Path;

/// The longest content type that is kept.
const LONGEST: usize = 255;

/// What is answered for a record that has none.
pub const UNKNOWN: &str = "application/octet-stream";
/// What a value typed into a path gets when it is text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Checks a content type that a client gave. Errors with [`Kind::BadRequest`].
pub fn check(text: &str) -> Result<String> {
    let text = text.trim();
    if text.len() > LONGEST || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::new(Kind::BadRequest, "the content type is not one that can be sent back")
            .hint(format!("use at most {LONGEST} visible ASCII characters")));
    }
    Ok(text.to_owned())
}

/// The content type that the extension of `path` suggests; empty if it suggests none.
pub fn of_path(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "txt" | "md" | "log" => TEXT,
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_headers() {
        assert_eq!(check(" text/plain ").unwrap(), "text/plain");
        assert_eq!(check("").unwrap(), "");
        for bad in ["a\r\nSet-Cookie: x", "caf\u{e9}", "\u{0}"] {
            assert_eq!(check(bad).unwrap_err().kind(), Kind::BadRequest);
        }
        assert!(check(&"a".repeat(256)).is_err());
    }

    #[test]
    fn names_suggest_content_types() {
        assert_eq!(of_path(Path::new("a/cat.JPG")), "image/jpeg");
        assert_eq!(of_path(Path::new("cat")), "");
    }
}
