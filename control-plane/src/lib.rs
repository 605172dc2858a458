#![doc = include_str!("../ARCHITECTURE.md")]

mod admin;
mod api;
mod app;
mod check;
mod compile;
mod config;
mod crds;
mod index;
mod intake;
mod metrics;
mod naming;
mod object;
mod problem;
mod serve;
mod source;
mod task;
mod validate;
mod yaml;

pub use app::run;
pub use check::{Checked, check_files};
pub use config::{Config, Outbound, Source};
pub use crds::crds;
pub use problem::{Problem, Severity};
pub use serve::{
    BreakerState, EndpointState, ProxyStatus, Refusal, StatusReport, Unhealthy, UnhealthyBreaker,
    UnhealthyEndpoint,
};
