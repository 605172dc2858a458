//! Who is inside: inbound connections and what is under way on them, so far as a new policy may end it.
//!
//! A caller is let in by the policy of the moment. When that changes, [`Guests::review`] holds everybody who is inside
//! against the new one: a connection that would be denied whatever was asked on it is broken off, and so is a request
//! that would be denied now; a connection in plain text is, at a port that takes no more of it. Every request is kept in
//! sight, also where there is no policy yet, but only by what costs nothing to keep: method, target, host and token. What
//! its header fields said is not kept, so that no request is broken off for those.
//!
//! All this belongs to one worker. Whoever is to be told waits for it in its own task; nothing is spawned or locked.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{HeaderValue, Method, Uri};
use pillion_policy::authorization::{Asked, Authorization, Request, Subject, Token, Verdict};

use crate::tls::Secured;

/// The connections of a worker that came in.
#[derive(Debug, Default)]
pub struct Guests(RefCell<Vec<Weak<Guest>>>);

/// A connection that came in.
#[derive(Debug)]
pub struct Guest {
    source: IpAddr,
    destination: SocketAddr,
    secured: Option<Secured>,
    end: End,
    stays: RefCell<Stays>,
}

/// The requests under way on a connection. Places are used again, so that a request costs no allocation once the
/// connection has carried as many at the same time before.
#[derive(Debug, Default)]
struct Stays {
    places: Vec<Option<Inside>>,
    /// Which of them are free.
    free: Vec<usize>,
}

/// What is known of a request.
#[derive(Debug)]
pub struct Visit {
    /// Its method.
    pub method: Method,
    /// Its target, with a normalized path.
    pub uri: Uri,
    /// Whom it is for.
    pub authority: Option<HeaderValue>,
    /// What its token has proved.
    pub token: Option<Arc<Token>>,
}

/// A request under way.
#[derive(Debug)]
struct Inside {
    visit: Visit,
    end: End,
}

/// Keeps a request in the sight of policy while it lasts.
#[derive(Debug)]
pub struct Stay {
    guest: Rc<Guest>,
    place: usize,
}

/// Whether something was broken off, and the one task that waits for that.
#[derive(Debug, Default)]
struct End {
    has_come: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

/// How much a review has broken off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BrokenOff {
    /// Connections, with everything on them.
    pub connections: u64,
    /// Single requests on connections that stay.
    pub requests: u64,
}

impl Guests {
    /// Lets a connection in, from `source` to the workload at `destination`.
    pub fn enter(&self, source: IpAddr, destination: SocketAddr, secured: Option<Secured>) -> Rc<Guest> {
        let guest =
            Rc::new(Guest { source, destination, secured, end: End::default(), stays: RefCell::default() });
        let mut all = self.0.borrow_mut();
        if all.len() == all.capacity() {
            // Those who have left make room first, so that there are never more than twice those inside.
            all.retain(|guest| guest.strong_count() > 0);
            let inside = all.len();
            all.reserve(inside.max(16));
        }
        all.push(Rc::downgrade(&guest));
        guest
    }

    /// Holds everybody inside against a policy, and breaks off what it would not let in. `is_strict` says of a port
    /// whether it takes nothing in plain text.
    pub fn review(&self, authorization: &Authorization, is_strict: impl Fn(u16) -> bool) -> BrokenOff {
        let guests: Vec<Rc<Guest>> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        let mut broken_off = BrokenOff::default();
        for guest in guests.iter().filter(|guest| !guest.is_broken_off()) {
            let is_exposed = guest.secured.is_none() && is_strict(guest.destination.port());
            if is_exposed || guest.is_denied(authorization, Asked::Anything) {
                guest.break_off();
                broken_off.connections += 1;
            } else {
                broken_off.requests += guest.review(authorization);
            }
        }
        broken_off
    }
}

impl Guest {
    /// What policies are asked about it.
    pub fn subject<'a>(&'a self, asked: Asked<'a>) -> Subject<'a> {
        Subject {
            peer: self.secured.as_ref().map(|secured| &*secured.peer),
            source: self.source,
            destination: self.destination,
            sni: self.secured.as_ref().and_then(|secured| secured.sni.as_deref()),
            asked,
        }
    }

    /// Keeps a request in sight until the stay is dropped. On a connection that is broken off it is broken off at once.
    pub fn stay(self: &Rc<Self>, visit: Visit) -> Stay {
        let end = End { has_come: Cell::new(self.is_broken_off()), waiting: RefCell::default() };
        let place = self.stays.borrow_mut().enter(Inside { visit, end });
        Stay { guest: Rc::clone(self), place }
    }

    /// Resolves when the connection is to be broken off.
    pub async fn broken_off(&self) {
        poll_fn(|cx| self.end.poll(cx)).await;
    }

    fn is_broken_off(&self) -> bool {
        self.end.has_come.get()
    }

    fn is_denied(&self, authorization: &Authorization, asked: Asked<'_>) -> bool {
        authorization.decide(&self.subject(asked)) != Verdict::Allowed
    }

    fn poll_stay(&self, place: usize, cx: &mut Context<'_>) -> Poll<()> {
        self.stays.borrow().at(place).map_or(Poll::Pending, |inside| inside.end.poll(cx))
    }

    fn break_off(&self) {
        for inside in self.stays.borrow().all() {
            inside.end.come();
        }
        self.end.come();
    }

    /// Breaks off the requests that would be denied now; says how many.
    fn review(&self, authorization: &Authorization) -> u64 {
        let stays = self.stays.borrow();
        let denied = stays.all().filter(|inside| {
            let visit = &inside.visit;
            let request = Request {
                method: visit.method.as_str(),
                authority: visit.authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
                path: visit.uri.path(),
                headers: None,
                token: visit.token.as_deref(),
            };
            !inside.end.has_come.get() && self.is_denied(authorization, Asked::Request(request))
        });
        denied.map(|inside| inside.end.come()).count() as u64
    }
}

impl Stays {
    fn enter(&mut self, inside: Inside) -> usize {
        let free = self.free.pop();
        match free.and_then(|at| Some((at, self.places.get_mut(at)?))) {
            Some((at, place)) => {
                *place = Some(inside);
                at
            }
            None => {
                self.places.push(Some(inside));
                self.places.len() - 1
            }
        }
    }

    fn leave(&mut self, at: usize) -> Option<Inside> {
        let gone = self.places.get_mut(at).and_then(Option::take)?;
        self.free.push(at);
        Some(gone)
    }

    fn at(&self, at: usize) -> Option<&Inside> {
        self.places.get(at).and_then(Option::as_ref)
    }

    fn all(&self) -> impl Iterator<Item = &Inside> {
        self.places.iter().flatten()
    }
}

impl Stay {
    /// Whether the request has been broken off.
    pub fn is_broken_off(&self) -> bool {
        self.guest.stays.borrow().at(self.place).is_some_and(|inside| inside.end.has_come.get())
    }

    /// Ready when the request is to be broken off. The last task that asked is woken then.
    pub fn poll_broken_off(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.guest.poll_stay(self.place, cx)
    }

    /// Resolves when the request is to be broken off. Not to be kept longer than the stay.
    pub fn broken_off(&self) -> impl Future<Output = ()> + use<> {
        let (guest, place) = (Rc::clone(&self.guest), self.place);
        poll_fn(move |cx| guest.poll_stay(place, cx))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // Taken out first and dropped when nothing is borrowed any more.
        let _gone = self.guest.stays.borrow_mut().leave(self.place);
    }
}

impl End {
    fn come(&self) {
        self.has_come.set(true);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_come.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
