//! Large answers, held in pieces: a reader that does not read costs its share of a budget and nothing else. The
//! HTTP layer copies what it is given into its write buffer, so an answer is given to it piece by piece; what does
//! not fit into the budget is refused with 503.

use super::body::{Budget, Lease};
use super::error;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Answers up to this length are given away whole.
const SMALL: u64 = 64 << 10;
/// The length of a piece.
const PIECE: usize = 64 << 10;

/// In the extensions of an answer: how many bytes its body keeps in memory, where these are not as many as it sends.
pub(crate) struct Kept(pub(crate) u64);

/// Bytes in memory that are still to be sent, one slice after the other.
struct Slices {
    slices: VecDeque<Bytes>,
    left: u64,
}

impl MessageBody for Slices {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        while self.slices.front().is_some_and(Bytes::is_empty) {
            self.slices.pop_front();
        }
        let Some(slice) = self.slices.front_mut() else { return Poll::Ready(None) };
        let piece = slice.split_to(PIECE.min(slice.len()));
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(piece)))
    }
}

/// A body with its share of the budget.
struct Held {
    body: BoxBody,
    _lease: Lease,
}

impl MessageBody for Held {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn Error>>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// A body of slices, which are not copied unless they are short.
pub(crate) fn body(mut slices: Vec<Bytes>) -> BoxBody {
    let left: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    match slices.pop() {
        Some(only) if slices.is_empty() => BoxBody::new(only),
        Some(last) if left <= SMALL => {
            slices.push(last);
            BoxBody::new(slices.concat())
        }
        last => BoxBody::new(Slices { slices: slices.into_iter().chain(last).collect(), left }),
    }
}

/// Puts a large answer that is whole in memory under the budget. Answers 503 if there is no room for it.
pub(crate) fn hold(mut response: HttpResponse, budget: &Arc<Budget>) -> HttpResponse {
    let BodySize::Sized(size) = response.body().size() else { return response };
    if size <= SMALL {
        return response;
    }
    let kept = response.extensions_mut().remove::<Kept>();
    let (head, body) = response.into_parts();
    let body = match body.try_into_bytes() {
        Ok(bytes) => BoxBody::new(Slices { left: size, slices: VecDeque::from([bytes]) }),
        Err(body) if kept.is_some() => body,
        // A stream is bounded by whoever feeds it.
        Err(body) => return head.set_body(body),
    };
    let share = kept.map_or(size, |kept| kept.0);
    let mut lease = budget.lease();
    match lease.grow(usize::try_from(share).unwrap_or(usize::MAX / 2)) {
        Ok(()) => head.set_body(BoxBody::new(Held { body, _lease: lease })),
        Err(full) => error::respond(&full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::{SizedStream, to_bytes};
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

    #[actix_web::test]
    async fn slices_come_in_their_order_and_cost_what_they_keep_in_memory() {
        let value = Bytes::from(vec![7; 1 << 20]);
        for cut in [10, 40_000, 200_000] {
            let slices = vec![
                Bytes::from_static(b"head"),
                value.slice(..cut),
                Bytes::new(),
                value.slice(cut..2 * cut),
            ];
            let whole = slices.concat();
            let budget = Arc::new(Budget::default());
            let mut response = HttpResponse::with_body(StatusCode::OK, body(slices));
            response.extensions_mut().insert(Kept(1 << 20));
            let response = hold(response, &budget);
            assert_eq!(response.body().size(), BodySize::Sized(whole.len() as u64));
            assert_eq!(budget.held(), if cut == 10 { 0 } else { 1 << 20 });
            assert_eq!(to_bytes(response.into_body()).await.unwrap(), whole);
            assert_eq!(budget.held(), 0);
        }
        assert_eq!(body(Vec::new()).size(), BodySize::Sized(0));
    }

    #[test]
    fn streams_cost_nothing_however_long_they_are() {
        let budget = Arc::new(Budget::default());
        let stream = SizedStream::new(1 << 40, crate::server::respond::nothing());
        let response = hold(HttpResponse::with_body(StatusCode::OK, BoxBody::new(stream)), &budget);
        assert_eq!((response.status(), response.body().size()), (StatusCode::OK, BodySize::Sized(1 << 40)));
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
