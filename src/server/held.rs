//! Large answers, held in pieces: a reader that does not read costs its share of a budget and nothing else. The
//! HTTP layer copies what it is given into its write buffer, so an answer is given to it piece by piece; what does
//! not fit into the budget is refused with 503.

use super::body::{Budget, Lease};
use super::error;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Answers up to this length are given away whole.
const SMALL: u64 = 64 << 10;
/// The length of a piece.
const PIECE: usize = 64 << 10;

/// An answer's bytes that are still to be sent, with their share of the budget.
struct Held {
    left: Bytes,
    _lease: Lease,
}

impl MessageBody for Held {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = PIECE.min(self.left.len());
        Poll::Ready(Some(Ok(self.left.split_to(piece))))
    }
}

/// Puts a large answer that is whole in memory under the budget. Answers 503 if there is no room for it.
pub(crate) fn hold(response: HttpResponse, budget: &Arc<Budget>) -> HttpResponse {
    let BodySize::Sized(size) = response.body().size() else { return response };
    if size <= SMALL {
        return response;
    }
    let mut lease = budget.lease();
    if let Err(full) = lease.grow(usize::try_from(size).unwrap_or(usize::MAX / 2)) {
        return error::respond(&full);
    }
    response.map_body(|_, body| match body.try_into_bytes() {
        Ok(left) => BoxBody::new(Held { left, _lease: lease }),
        // A stream is bounded by whoever feeds it.
        Err(body) => body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;

    fn answer(size: usize) -> HttpResponse {
        HttpResponse::with_body(StatusCode::OK, BoxBody::new(Bytes::from(vec![7; size])))
    }

    #[actix_web::test]
    async fn a_large_answer_comes_in_pieces_and_gives_its_share_back() {
        let budget = Arc::new(Budget::default());
        let response = hold(answer((SMALL as usize) * 3 + 1), &budget);
        assert_eq!(budget.held(), (SMALL as usize) * 3 + 1);
        let mut body = Box::pin(response.into_body());
        let mut pieces = Vec::new();
        while let Some(piece) = std::future::poll_fn(|context| body.as_mut().poll_next(context)).await {
            pieces.push(piece.unwrap().len());
        }
        assert_eq!(pieces, [PIECE, PIECE, PIECE, 1]);
        drop(body);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_small_answers_are_free() {
        let budget = Arc::new(Budget::default());
        let held: Vec<_> = (0..100)
            .map(|_| hold(answer(8 << 20), &budget))
            .take_while(|response| response.status() == StatusCode::OK)
            .collect();
        assert!((1..100).contains(&held.len()));
        assert_eq!(hold(answer(8 << 20), &budget).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(hold(answer(100), &budget).status(), StatusCode::OK);
        drop(held);
        assert_eq!(budget.held(), 0);
    }
}
