//! What benchmarks do to docs/benchmarks.md: a section is replaced whole, and nothing around it is touched.

#[allow(dead_code)]
#[path = "../benches/shared/document.rs"]
mod document;

use document::replace;

const TEXT: &str = "# Title\n\nby hand\n\n<!-- begin http: written by `make bench` -->\n\nold\n\n<!-- end http -->\n\nmore\n";

#[test]
fn a_section_is_replaced_and_what_is_around_it_stays() {
    let new = replace(TEXT, "http", "\n| new |\n\n").expect("a section");
    assert_eq!(new, TEXT.replace("old", "| new |"));
    assert_eq!(replace(&new, "http", "| new |").expect("a section"), new, "the second time changes nothing");
}

#[test]
fn an_empty_section_can_be_filled() {
    let empty = TEXT.replace("\nold\n\n", "");
    assert_eq!(replace(&empty, "http", "old").expect("a section"), TEXT);
}

#[test]
fn without_its_lines_it_says_what_to_do() {
    let error = replace(TEXT, "curves", "x").expect_err("no such section");
    assert!(error.contains("put the lines `<!-- begin curves: written by `make bench` -->` and"), "{error}");
    let half = TEXT.replace("<!-- end http -->\n", "");
    assert!(replace(&half, "http", "x").is_err(), "half a section");
    let twice = format!("{TEXT}{TEXT}");
    assert!(replace(&twice, "http", "x").expect_err("two sections").contains("remove one"));
}

/// The document in this tree has every section that a benchmark writes.
#[test]
fn the_document_has_the_sections_that_are_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks.md");
    let text = std::fs::read_to_string(path).expect("the document");
    for name in ["http", "curves", "limits", "endurance", "groups", "clone", "growth"] {
        replace(&text, name, "x").unwrap_or_else(|error| panic!("{error}"));
    }
}
