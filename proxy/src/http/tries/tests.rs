use super::*;

/// Frames that are all there.
struct Ready(VecDeque<Result<Frame<Bytes>, BodyError>>);

impl http_body::Body for Ready {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn data() -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(b"data")))
}

fn trailers() -> Result<Frame<Bytes>, BodyError> {
    let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("14"));
    Ok(Frame::trailers(HeaderMap::from_iter([status])))
}

fn frames(mut body: Body) -> (usize, bool) {
    let mut count = 0;
    loop {
        match body.frame().now_or_never() {
            Some(Some(Ok(_))) => count += 1,
            Some(Some(Err(_))) => return (count, false),
            Some(None) => return (count, true),
            None => panic!("nothing waits"),
        }
    }
}

#[test]
fn what_is_looked_at_is_still_read() {
    for (what, status, left) in [
        (vec![], None, (0, true)),
        (vec![trailers()], Some(14), (1, true)),
        (vec![data(), trailers()], Some(14), (2, true)),
        (vec![data(), data(), trailers()], None, (3, true)),
        (vec![data(), Err(BodyError::Unwanted)], None, (1, false)),
        (vec![Err(BodyError::Unwanted)], None, (0, false)),
    ] {
        let described = format!("{what:?}");
        let mut body = Body::boxed(Ready(what.into()));
        assert_eq!(Peeked::look(&mut body), status, "{described}");
        assert_eq!(frames(body), left, "{described}");
    }
}
