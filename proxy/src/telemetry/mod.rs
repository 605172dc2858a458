//! What operators see: metrics, the access log, the log of the proxy itself.
//!
//! On the request path a metric is an addition to an atomic whose place was found when its cluster was made, and a log
//! line a few hundred bytes put into a ring. Scraping, writing and sending happen elsewhere, so that a scrape, a slow disk
//! or a full one never delays a request.

pub mod access;
pub mod access_log;
pub mod control;
pub mod counter;
pub mod detection;
mod doorbell;
mod exposition;
pub mod figures;
pub mod handshakes;
pub mod histogram;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod otlp;
mod process;
pub mod record;
pub mod requests;
pub mod routes;
pub mod series;
pub mod sinks;
pub mod trace;
pub mod upstreams;
pub mod workers;

pub use access_log::AccessLog;
pub use journal::Journal;
pub use metrics::Metrics;
pub use record::Record;
pub use requests::{Outcome, RequestStats, TcpStats};
pub use routes::RouteStats;
pub use sinks::Sinks;
pub use upstreams::ClusterGauges;
