//! Where objects come from.
//!
//! A source says what is in force by [`Update`]s: the changes since the last one, and everything it has to complain
//! about. It never takes back something good because something bad came in its place.

pub(crate) mod dir;
pub(crate) mod files;

use tokio::time::Instant;

use crate::{object::Event, problem::Problem};

/// One step of a source.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// What is new, different or gone.
    pub(crate) events: Vec<Event>,
    /// Every problem of the source as it is now, except those noted on objects in force.
    pub(crate) problems: Vec<Problem>,
    /// When the source noticed that something had changed; absent where nobody waited for that.
    pub(crate) noticed: Option<Instant>,
}
