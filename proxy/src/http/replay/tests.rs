use std::collections::VecDeque;

use futures_util::FutureExt;
use http_body_util::BodyExt as _;

use super::*;

/// A body that comes in pieces, whose end may be announced.
struct Pieces(VecDeque<Frame<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn request(pieces: &[usize], trailers: bool) -> Request<Body> {
    let mut frames: VecDeque<_> =
        pieces.iter().map(|size| Frame::data(Bytes::from(vec![b'x'; *size]))).collect();
    if trailers {
        frames.push_back(Frame::trailers(HeaderMap::from_iter([(
            http::header::ETAG,
            http::HeaderValue::from_static("1"),
        )])));
    }
    let mut request = Request::new(Body::boxed(Pieces(frames)));
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("a"));
    request
}

fn read(body: Body) -> (usize, bool) {
    let collected = body.collect().now_or_never().expect("nothing waits").expect("nothing fails");
    let trailers = collected.trailers().is_some();
    (collected.to_bytes().len(), trailers)
}

#[test]
fn every_try_sends_the_same() {
    let mut outgoing = Outgoing::repeatable(request(&[10, 20], true));
    for _ in 0..3 {
        let again = outgoing.take().expect("it was kept");
        assert_eq!(again.headers()[http::header::HOST], "a");
        assert_eq!(read(again.into_body()), (30, true));
        assert!(outgoing.is_complete() && outgoing.is_repeatable());
    }
}

#[test]
fn a_try_goes_on_where_the_last_one_broke_off() {
    let mut outgoing = Outgoing::repeatable(request(&[10, 20], false));
    let mut first = outgoing.take().unwrap().into_body();
    first.frame().now_or_never().unwrap().unwrap().unwrap();
    assert!(!outgoing.is_complete());
    let second = outgoing.take().unwrap().into_body();
    assert!(
        matches!(first.frame().now_or_never(), Some(Some(Err(BodyError::Unwanted)))),
        "it is over for it"
    );
    assert_eq!(read(second), (30, false));
}

#[test]
fn a_body_beyond_the_limit_is_passed_on_once() {
    let mut outgoing = Outgoing::repeatable(request(&[MAX_REPLAY, 1], false));
    assert_eq!(read(outgoing.take().unwrap().into_body()), (MAX_REPLAY + 1, false));
    assert!(!outgoing.is_repeatable());
    assert!(outgoing.take().is_none());
    let announced = Request::new(Body::full(vec![0; MAX_REPLAY + 1]));
    let mut outgoing = Outgoing::repeatable(announced);
    assert!(outgoing.take().is_some() && outgoing.take().is_none());
}

#[test]
fn what_is_settled_is_read_to_its_end_and_not_kept() {
    for tries in 1..3 {
        let mut outgoing = Outgoing::repeatable(request(&[10, 20], true));
        let mut body = outgoing.take().unwrap().into_body();
        body.frame().now_or_never().unwrap().unwrap().unwrap();
        let mut left = 20;
        if tries == 2 {
            body = outgoing.take().unwrap().into_body();
            left = 30;
        }
        outgoing.settle();
        assert!(outgoing.take().is_none());
        assert_eq!(read(body), (left, true));
    }
}

#[test]
fn what_was_not_sent_is_put_back() {
    let mut outgoing = Outgoing::once(request(&[1], false));
    let untouched = outgoing.take().unwrap();
    assert!(outgoing.is_taken());
    assert!(!outgoing.is_repeatable());
    outgoing.put_back(untouched);
    assert!(!outgoing.is_taken());
    assert_eq!(read(outgoing.take().unwrap().into_body()), (1, false));
}

#[test]
fn what_the_next_try_is_told_holds_for_all_after_it() {
    let mut outgoing = Outgoing::repeatable(request(&[10], false));
    let untouched = outgoing.take().unwrap();
    assert!(outgoing.is_taken());
    outgoing.put_back(untouched);
    outgoing.headers_mut().unwrap().insert(http::header::AGE, http::HeaderValue::from_static("2"));
    for _ in 0..2 {
        let next = outgoing.take().unwrap();
        assert_eq!(next.headers()[http::header::AGE], "2");
        assert_eq!(read(next.into_body()), (10, false));
    }
}

#[test]
fn trailers_are_kept_in_a_body_whose_length_is_known() {
    let mut outgoing = Outgoing::repeatable(request(&[10, 20], true));
    let exact = |body: &Body| http_body::Body::size_hint(body).exact();
    let first = outgoing.take().unwrap().into_body();
    assert_eq!((exact(&first), read(first)), (None, (30, true)));
    let second = outgoing.take().unwrap().into_body();
    assert_eq!((exact(&second), read(second)), (None, (30, true)));
}

proptest::proptest! {
    #[test]
    fn no_byte_is_lost_or_doubled(
        pieces in proptest::collection::vec(0..2000usize, 0..20),
        stops in proptest::collection::vec(0..20usize, 0..4),
        trailers: bool,
    ) {
        let total: usize = pieces.iter().sum();
        let mut outgoing = Outgoing::repeatable(request(&pieces, trailers));
        for stop in stops {
            let mut body = outgoing.take().unwrap().into_body();
            for _ in 0..stop {
                body.frame().now_or_never().unwrap();
            }
        }
        proptest::prop_assert_eq!(read(outgoing.take().unwrap().into_body()), (total, trailers));
    }
}
