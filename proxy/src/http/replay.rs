//! A request that may have to be sent more than once.
//!
//! A request whose head was kept is made again for every try, as long as its body has not outgrown the replay buffer;
//! any other is put back as long as nothing of it has been written. What has been read of the body is shared by reference
//! among the tries; the rest is read on by the latest try alone, so an earlier one that is still being wound up can
//! neither steal from it nor send twice.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, header::UPGRADE, request::Parts};
use http_body::{Body as _, Frame, SizeHint};

use super::expect::Interim;
use crate::body::{Body, BodyError};

/// The most of a body that is kept for another try (Linkerd's figure). A longer one is sent once.
pub const MAX_REPLAY: usize = 64 << 10;

/// A request on its way out.
#[derive(Debug)]
pub struct Outgoing {
    stock: Stock,
    /// Whether the latest try has taken it.
    is_taken: bool,
    /// Not in the head, whose copies would copy it.
    interim: Option<Interim>,
}

/// What there is for the next try.
#[derive(Debug)]
enum Stock {
    /// The request itself, which no try has taken or which has come back untouched.
    Ready(Request<Body>),
    /// A request made anew.
    Spare(Spare),
    /// There is no other try.
    Gone,
}

/// What a request is made from again.
#[derive(Debug)]
struct Spare {
    head: Parts,
    /// Absent where the request has no body.
    body: Option<Rc<RefCell<Kept>>>,
}

/// A body and what has been read of it.
#[derive(Debug)]
struct Kept {
    source: Body,
    /// What was read, while it is within the limit.
    read: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    is_complete: bool,
    /// More was read than may be kept: there can be no further try.
    is_over: bool,
    /// Which try may read on.
    latest: u32,
}

/// The body of one try.
struct Replay {
    kept: Rc<RefCell<Kept>>,
    number: u32,
    next: usize,
    has_ended: bool,
}

impl Outgoing {
    /// A request that is sent once, unless it comes back untouched.
    pub fn once(request: Request<Body>) -> Self {
        Self { stock: Stock::Ready(request), is_taken: false, interim: None }
    }

    /// A request that is kept for further tries, if its body allows that.
    pub fn repeatable(request: Request<Body>) -> Self {
        let size = request.body().size_hint();
        if size.lower() > MAX_REPLAY as u64 {
            return Self::once(request);
        }
        let (head, source) = request.into_parts();
        let body = (!source.is_end_stream()).then(|| {
            Rc::new(RefCell::new(Kept {
                source,
                read: Vec::new(),
                bytes: 0,
                trailers: None,
                is_complete: false,
                is_over: false,
                latest: 0,
            }))
        });
        Self { stock: Stock::Spare(Spare { head, body }), is_taken: false, interim: None }
    }

    /// Says where interim responses to each try go.
    pub fn tell_interim(&mut self, interim: Option<Interim>) {
        self.interim = interim;
    }

    /// Where interim responses go.
    pub fn interim(&self) -> Option<&Interim> {
        self.interim.as_ref()
    }

    /// The request for the next try; `None` when it cannot be sent again.
    pub fn take(&mut self) -> Option<Request<Body>> {
        self.is_taken = true;
        if let Stock::Spare(spare) = &self.stock {
            return spare.again();
        }
        match std::mem::replace(&mut self.stock, Stock::Gone) {
            Stock::Ready(request) => Some(request),
            Stock::Spare(_) | Stock::Gone => None,
        }
    }

    /// Takes back a request of which nothing was sent. One that can be made again is: what its head is told for the
    /// next try must hold for all that are made after it.
    pub fn put_back(&mut self, request: Request<Body>) {
        self.is_taken = false;
        if !matches!(self.stock, Stock::Spare(_)) {
            self.stock = Stock::Ready(request);
        }
    }

    /// A try begins.
    pub fn begin(&mut self) {
        self.is_taken = false;
    }

    /// Whether the try that began last has taken the request, so that some of it may have been sent.
    pub fn is_taken(&self) -> bool {
        self.is_taken
    }

    /// Whether it wants to change the protocol of its connection, which takes one of its own.
    pub fn changes_protocol(&self) -> bool {
        let headers = match &self.stock {
            Stock::Ready(request) => request.headers(),
            Stock::Spare(spare) => &spare.head.headers,
            Stock::Gone => return false,
        };
        headers.contains_key(UPGRADE)
    }

    /// Whether there can be another try.
    pub fn is_repeatable(&self) -> bool {
        match &self.stock {
            Stock::Ready(_) => true,
            Stock::Spare(spare) => spare.body.as_ref().is_none_or(|kept| !kept.borrow().is_over),
            Stock::Gone => false,
        }
    }

    /// Whether all of the body has been read, so that what was kept is the whole request.
    pub fn is_complete(&self) -> bool {
        self.spare().is_some_and(|spare| spare.body.as_ref().is_none_or(|kept| kept.borrow().is_complete))
    }

    /// Whether there is no body to be lost.
    pub fn is_bodyless(&self) -> bool {
        self.spare().is_some_and(|spare| spare.body.is_none())
    }

    /// There will be no further try: nothing more is kept of the body.
    pub fn settle(&mut self) {
        let Stock::Spare(spare) = &mut self.stock else { return };
        let kept = spare.body.take();
        self.stock = Stock::Gone;
        let Some(kept) = kept else { return };
        let mut kept = kept.borrow_mut();
        kept.is_over = true;
        if kept.latest <= 1 {
            // The only try has read all that was kept.
            kept.read = Vec::new();
        }
    }

    /// The head of the next try, where it is at hand.
    pub fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        match &mut self.stock {
            Stock::Ready(request) => Some(request.headers_mut()),
            Stock::Spare(spare) => Some(&mut spare.head.headers),
            Stock::Gone => None,
        }
    }

    fn spare(&self) -> Option<&Spare> {
        match &self.stock {
            Stock::Spare(spare) => Some(spare),
            Stock::Ready(_) | Stock::Gone => None,
        }
    }
}

impl Spare {
    fn again(&self) -> Option<Request<Body>> {
        let body = match &self.body {
            None => Body::Empty,
            Some(kept) => {
                let mut state = kept.borrow_mut();
                if state.is_over {
                    return None;
                }
                state.latest += 1;
                let replay =
                    Replay { kept: Rc::clone(kept), number: state.latest, next: 0, has_ended: false };
                drop(state);
                Body::boxed(replay)
            }
        };
        Some(Request::from_parts(self.head.clone(), body))
    }
}

impl Kept {
    /// Keeps what the latest try has read.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            if self.is_over {
                // Nobody will ask for it.
            } else if self.bytes > MAX_REPLAY {
                self.is_over = true;
                self.read = Vec::new();
            } else {
                self.read.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.is_complete = true;
        }
        self.is_complete |= self.source.is_end_stream();
    }
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut kept = this.kept.borrow_mut();
        if kept.latest != this.number {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        if this.has_ended {
            return Poll::Ready(None);
        }
        if let Some(data) = kept.read.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if kept.is_complete {
            this.has_ended = true;
            return Poll::Ready(kept.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = ready!(Pin::new(&mut kept.source).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                kept.keep(frame);
                this.next = kept.read.len();
                this.has_ended = frame.is_trailers();
            }
            Some(Err(_)) => kept.is_over = true,
            None => kept.is_complete = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        self.has_ended || (kept.is_complete && kept.trailers.is_none() && self.next >= kept.read.len())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let replayed: u64 = kept.read.iter().skip(self.next).map(|data| data.len() as u64).sum();
        // A length would leave HTTP/1 no room for trailers.
        if kept.is_complete && kept.trailers.is_none() {
            return SizeHint::with_exact(replayed);
        }
        let rest = kept.source.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + replayed);
        }
        hint.set_lower(rest.lower() + replayed);
        hint
    }
}

#[cfg(test)]
mod tests;
