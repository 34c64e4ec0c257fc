//! Ranges that overlap or touch become one, so that nobody can ask for the same bytes many times in one request
//! (RFC 9110, sections 14.2 and 17.15).

use super::Span;

/// Joins what overlaps or touches. Each joined span stands where the first of those that it is made of stood.
pub(super) fn join(spans: Vec<Span>) -> Vec<Span> {
    let mut places: Vec<(usize, Span)> = spans.into_iter().enumerate().collect();
    places.sort_unstable_by_key(|(_, span)| span.from);
    let mut joined: Vec<(usize, Span)> = Vec::new();
    for (place, span) in places {
        match joined.last_mut() {
            Some((first, before)) if span.from <= before.end => {
                *first = place.min(*first);
                before.end = span.end.max(before.end);
            }
            _ => joined.push((place, span)),
        }
    }
    joined.sort_unstable_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, span)| span).collect()
}
