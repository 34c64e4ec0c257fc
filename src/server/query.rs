//! The query of a request, strict: each parameter is known to the path, stands once and is well formed.
//! `+` stands for itself: keys travel here, and a form's rules would change them.

use super::percent;
use crate::error::{Error, Kind, Result};

/// The parameters of one request, in the order in which they were written.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Splits and decodes `raw`. Errors with [`Kind::BadRequest`] for a parameter that is not `allowed`, that stands
    /// twice, or that has no value.
    pub fn parse(raw: Option<&str>, allowed: &[&str]) -> Result<Query> {
        let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
        for part in raw.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| refused(part, "has no value", allowed))?;
            if !allowed.contains(&name) {
                return Err(refused(name, "is not known here", allowed));
            }
            if pairs.iter().any(|(known, _)| known == name) {
                return Err(refused(name, "stands twice", allowed));
            }
            pairs.push((name.to_owned(), percent::decode(value.as_bytes())?));
        }
        Ok(Query(pairs))
    }

    /// The bytes of a parameter.
    pub fn bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        let position = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(position).1)
    }

    /// The text of a parameter. Errors with [`Kind::BadRequest`] if it is not UTF-8.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.bytes(name)
            .map(String::from_utf8)
            .transpose()
            .map_err(|_| Error::new(Kind::BadRequest, format!("the parameter `{name}` is not UTF-8")))
    }

    /// The one of `words` that a parameter names, as its position.
    pub fn word(&mut self, name: &str, words: &[&str]) -> Result<Option<usize>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match words.iter().position(|word| *word == text) {
            Some(position) => Ok(Some(position)),
            None => Err(Error::new(Kind::BadRequest, format!("`{name}` has an unknown value"))
                .hint(format!("{name} is one of: {}", words.join(", ")))),
        }
    }
}

fn refused(name: &str, problem: &str, allowed: &[&str]) -> Error {
    let shown: String = name.chars().take(40).collect();
    let error = Error::new(Kind::BadRequest, format!("the parameter `{}` {problem}", shown.escape_debug()));
    match allowed {
        [] => error.hint("this path takes no parameters; write a ? of a key or value as %3F"),
        allowed => error.hint(format!("this path takes: {}", allowed.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_strict() {
        let mut query = Query::parse(Some("prefix=a%2Fb&limit=5&"), &["prefix", "limit"]).unwrap();
        assert_eq!(query.bytes("prefix").unwrap(), b"a/b");
        assert_eq!(query.text("limit").unwrap().unwrap(), "5");
        assert_eq!(query.bytes("prefix"), None);
        for bad in ["limits=5", "limit=1&limit=2", "limit", "limit=%4", "=5"] {
            assert_eq!(Query::parse(Some(bad), &["limit"]).unwrap_err().kind(), Kind::BadRequest, "{bad}");
        }
        let mut query = Query::parse(Some("values=maybe"), &["values"]).unwrap();
        assert!(query.word("values", &["false", "true"]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_queries_never_panic(text: String) {
            let _ = Query::parse(Some(&text), &["prefix", "after"]);
        }
    }
}
