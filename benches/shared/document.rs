//! Sections of docs/benchmarks.md that benchmarks write themselves.
//!
//! A section lies between two lines, which stay; what people wrote stands around them. Figures are always printed; they go
//! into the document only if `CATSTORE_BENCH_WRITE` is 1, as `make bench` says, so that a trial leaves it alone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Says that the document is to be written.
const WRITE: &str = "CATSTORE_BENCH_WRITE";

/// `text` with `markdown` as its section `name`. Errors, with what to do, if the section is not there once and whole.
pub fn replace(text: &str, name: &str, markdown: &str) -> Result<String, String> {
    let (begin, end) =
        (format!("<!-- begin {name}: written by `make bench` -->"), format!("<!-- end {name} -->"));
    let parts: Option<(&str, &str)> = text
        .split_once(&format!("{begin}\n"))
        .and_then(|(before, rest)| Some((before, rest.split_once(&format!("{end}\n"))?.1)));
    match parts {
        Some((before, after)) if !after.contains(&begin) => {
            Ok(format!("{before}{begin}\n\n{}\n\n{end}\n{after}", markdown.trim()))
        }
        Some(_) => Err(format!("there are two lines `{begin}`: remove one of the two sections")),
        None => {
            Err(format!("there is no section {name}: put the lines `{begin}` and `{end}` where it belongs"))
        }
    }
}

/// Prints a section, and puts it into the document if that is wanted.
pub fn publish(name: &str, markdown: &str) -> io::Result<()> {
    println!("\n{}\n", markdown.trim());
    if !wanted() {
        return Ok(());
    }
    let path = documents().join("benchmarks.md");
    let about = |error: String| io::Error::other(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| about(error.to_string()))?;
    write(&path, &replace(&text, name, markdown).map_err(about)?)?;
    eprintln!("bench: wrote section {name} of {}", path.display());
    Ok(())
}

/// Keeps a plot: beside the document if that is written, or else below `target/tmp`, to be looked at.
pub fn keep_plot(name: &str, svg: &str) -> io::Result<()> {
    let folder = match wanted() {
        true => documents().join("benchmarks"),
        false => Path::new(env!("CARGO_TARGET_TMPDIR")).join("plots"),
    };
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.svg"));
    write(&path, svg)?;
    eprintln!("bench: drew {}", path.display());
    Ok(())
}

fn wanted() -> bool {
    std::env::var(WRITE).is_ok_and(|text| text == "1")
}

fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Beside it, then renamed: nobody finds half of it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = std::fs::File::create_new(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}
