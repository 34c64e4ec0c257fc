//! `catstore list [PREFIX]`: lists keys in byte order, page after page.

use super::options::ClientArgs;
use super::{output, parse, report, text};
use crate::client::{ListOptions, Pages};
use crate::cluster::view::{JsonBytes, ListPage, ListedKey};
use crate::error::{Error, Kind, Result};
use std::ffi::OsString;

/// Keys that are fetched at once.
const PAGE: usize = 1000;

/// Arguments of `catstore list`.
///
/// On a terminal: a table. Elsewhere: key, size and version, separated by tabs. In both, backslashes, control
/// characters and bytes that are not UTF-8 stand as `\\`, `\n`, `\x00`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only keys that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: OsString,
    /// At most so many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only keys behind this one
    #[arg(long, value_name = "KEY")]
    after: Option<OsString>,
    /// Nothing but the keys, one a line
    #[arg(long, conflicts_with = "json")]
    keys_only: bool,
    /// One JSON document; a key that is not UTF-8 stands as {"base64": …}
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Lists the keys.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let options = ListOptions {
            prefix: parse::bytes(&self.prefix).to_vec(),
            after: self.after.as_deref().map(|key| parse::bytes(key).to_vec()),
            limit: Some(self.limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE).min(PAGE))),
            values: false,
        };
        let pages = Limited { pages: client.pages(options), left: self.limit };
        if self.json { json(pages) } else { lines(pages, self.keys_only) }
    }
}

/// Pages until a number of keys is reached.
struct Limited<'a> {
    pages: Pages<'a>,
    left: Option<u64>,
}

impl Iterator for Limited<'_> {
    type Item = Result<ListPage>;

    fn next(&mut self) -> Option<Result<ListPage>> {
        if self.left == Some(0) {
            return None;
        }
        let mut page = self.pages.next()?;
        if let (Ok(page), Some(left)) = (&mut page, &mut self.left) {
            cut(page, left);
        }
        Some(page)
    }
}

/// Cuts a page to what is left of the limit, and keeps the token for what follows right.
fn cut(page: &mut ListPage, left: &mut u64) {
    let keep = usize::try_from(*left).unwrap_or(usize::MAX);
    if page.keys.len() > keep {
        page.keys.truncate(keep);
        page.after = page.keys.last().map(|listed| listed.key.clone());
    }
    *left -= page.keys.len() as u64;
}

fn lines(pages: Limited<'_>, keys_only: bool) -> Result<()> {
    let terminal = output::is_terminal();
    for page in pages {
        let keys = page?.keys;
        if keys.is_empty() {
            continue;
        }
        let text = match (keys_only, terminal) {
            (true, _) => keys.iter().map(|listed| text::escape(&listed.key.0) + "\n").collect(),
            (false, true) => table(&keys),
            (false, false) => keys.iter().map(line).collect::<String>(),
        };
        output::write(text.as_bytes())?;
    }
    Ok(())
}

fn line(listed: &ListedKey) -> String {
    format!("{}\t{}\t{}\n", text::escape(&listed.key.0), listed.size, listed.version)
}

fn table(keys: &[ListedKey]) -> String {
    let row = |listed: &ListedKey| {
        vec![
            text::escape(&listed.key.0),
            text::bytes(listed.size),
            listed.version.to_string(),
            text::escape(listed.content_type.as_bytes()),
        ]
    };
    text::table(&["KEY", "SIZE", "VERSION", "TYPE"], &[1, 2], &keys.iter().map(row).collect::<Vec<_>>())
}

/// Writes one document as the pages come in, so that a long list needs no memory. An error in the middle becomes its
/// member `problem`.
fn json(pages: Limited<'_>) -> Result<()> {
    let mut first = true;
    let mut after: Option<JsonBytes> = None;
    for page in pages {
        let page = match page {
            Ok(page) => page,
            // Nothing is out yet: the problem document stands alone, and main writes it.
            Err(error) if first => return Err(error),
            Err(error) => {
                output::write(format!("],\"problem\":{}}}\n", encode(&report::problem(&error))?).as_bytes())?;
                return Err(report::told("the list broke off", error));
            }
        };
        let mut text = String::new();
        for listed in &page.keys {
            text.push_str(if first { "{\"keys\":[\n" } else { ",\n" });
            text.push_str(&encode(listed)?);
            first = false;
        }
        after = page.after;
        output::write(text.as_bytes())?;
    }
    let start = if first { "{\"keys\":[" } else { "" };
    let end = match after {
        Some(after) => format!("{start}],\"after\":{}}}\n", encode(&after)?),
        None => format!("{start}]}}\n"),
    };
    output::write(end.as_bytes())
}

fn encode(document: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(document)
        .map_err(|error| Error::new(Kind::System, "the list cannot be written as JSON").cause(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(key: &[u8]) -> ListedKey {
        let key = JsonBytes(key.to_vec());
        ListedKey { key, version: 7, size: 5, modified: 0, content_type: "a/b".into(), value: None }
    }

    #[test]
    fn a_cut_page_names_its_last_key() {
        let mut page = ListPage { keys: vec![listed(b"a"), listed(b"b")], after: None };
        let mut left = 1;
        cut(&mut page, &mut left);
        assert_eq!((page.keys.len(), page.after, left), (1, Some(JsonBytes(b"a".to_vec())), 0));
        let mut page = ListPage { keys: vec![listed(b"a")], after: None };
        let mut left = 3;
        cut(&mut page, &mut left);
        assert_eq!((page.keys.len(), page.after, left), (1, None, 2));
    }

    #[test]
    fn lines_and_tables() {
        assert_eq!(line(&listed(b"a\tb")), "a\\tb\t5\t7\n");
        assert_eq!(table(&[listed(b"a")]), "KEY     SIZE  VERSION  TYPE\na    5 bytes        7  a/b\n");
    }
}
