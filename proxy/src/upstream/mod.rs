//! Destinations as they live: endpoints, load, limits and connections of every cluster that policy names.
//!
//! [`cluster::Upstream`] joins the policy of a cluster with its living state; the [`Registry`] keeps that state while
//! policy and endpoints change around it. Counters are process-wide atomics; connections belong to one worker and are
//! kept in its [`pool::Pools`].

pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod cluster;
pub mod endpoint;
pub mod guards;
pub mod lb;
pub mod outcome;
mod outlier;
pub mod pool;
pub mod protection;
pub mod registry;
pub mod set;
pub mod transport;

pub use cluster::Upstream;
pub use guards::Guards;
pub use registry::Registry;
