//! Harness of the end-to-end tests, sample services and demo of Pillion.
//!
//! Everything here drives the real binaries over loopback: [`Mesh`] starts a control plane, sidecars
//! and services; [`Client`], [`Wire`] and [`Load`] send traffic; [`eventually`] waits, with a bound,
//! for a state to be reached. The tests themselves are in `tests/tests`, one file per feature.

pub mod access_log;
pub mod address;
pub mod black_hole;
pub mod body;
pub mod client;
pub mod collector;
pub mod control_plane;
pub mod dial;
pub mod frames;
pub mod guarded;
pub mod issuer;
pub mod keys;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod netns;
pub mod policy;
pub mod process;
pub mod refusal;
pub mod relay;
pub mod shop;
pub mod sidecar;
pub mod task;
pub mod wait;
pub mod wire;
pub mod witness;

pub use access_log::AccessLog;
pub use client::{Client, Reply};
pub use collector::Collector;
pub use control_plane::ControlPlane;
pub use guarded::Guarded;
pub use issuer::Issuer;
pub use keys::Keys;
pub use load::{Load, Report, burst};
pub use mesh::{Instance, Mesh};
pub use metrics::Metrics;
pub use policy::Policy;
pub use process::Process;
pub use relay::Relay;
pub use shop::Failure;
pub use sidecar::Sidecar;
pub use wait::{eventually, within};
pub use wire::Wire;

/// Whether tests are to show what is promised at its full size, which takes its time: `PILLION_TEST_FULL` is set.
pub fn is_full_size() -> bool {
    std::env::var_os("PILLION_TEST_FULL").is_some()
}
