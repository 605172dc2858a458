//! The policy model of Pillion: what a proxy can be told to do, as plain values.
//!
//! A value that exists is valid: constructors refuse what the data plane could not carry out, and say where and why
//! ([`Invalid`]). The control plane builds these values from the objects users write, `pillion-xds` carries them,
//! and the proxy enforces them, so all three share one vocabulary and one set of rules.
//!
//! The crate does no I/O and knows no clock. Durations and numbers are integers, so every value is `Eq` and `Hash`:
//! equality of policy decides what is pushed and what living state may be kept.

pub mod authentication;
pub mod authorization;
mod body_text;
pub mod cluster;
pub mod endpoint;
pub mod header;
pub mod identity;
pub mod invalid;
pub mod matching;
pub mod mesh;
pub mod name;
pub mod pattern;
pub mod ratio;
pub mod resilience;
pub mod resource;
pub mod retry;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workload;

pub use invalid::{Invalid, Problems};
pub use resource::{Resource, ResourceKind};
pub use snapshot::Snapshot;
