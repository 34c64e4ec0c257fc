//! Lists, page after page.

use super::{Client, ListOptions};
use crate::cluster::view::ListPage;
use crate::error::Result;

/// The pages of a list, in order; ends after the last page or the first error.
pub struct Pages<'a> {
    client: &'a Client,
    options: Option<ListOptions>,
}

impl Client {
    /// The pages of a list, each fetched when it is asked for.
    pub fn pages(&self, options: ListOptions) -> Pages<'_> {
        Pages { client: self, options: Some(options) }
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<ListPage>;

    fn next(&mut self) -> Option<Result<ListPage>> {
        let options = self.options.take()?;
        let page = self.client.list(&options);
        if let Ok(ListPage { after: Some(after), .. }) = &page
            // A node that names the same place again would keep us here forever.
            && options.after.as_ref().is_none_or(|before| *before < after.0)
        {
            self.options = Some(ListOptions { after: Some(after.0.clone()), ..options });
        }
        Some(page)
    }
}
