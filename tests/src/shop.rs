//! The sample services: a small shop whose API front aggregates four other services.
//!
//! All roles serve the same set of test endpoints ([`App`]), so that the end-to-end tests and the
//! demo can send every kind of traffic through the mesh; only the front ([`Front`]) makes calls of
//! its own, each through its sidecar. The binary `shop` runs one role per process.

mod app;
mod faults;
mod front;
mod line;
mod probe;
mod serve;

pub use app::{App, Identity};
pub use faults::{Abandoned, Failure, Faults};
pub use front::Front;
pub use line::Unread;
pub use probe::{ID, Seen, Stats};
pub use serve::{HEADER_LIMIT, Service, serve};
