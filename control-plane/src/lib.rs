#![doc = include_str!("../ARCHITECTURE.md")]

mod admin;
mod api;
mod app;
mod ca;
mod check;
mod clock;
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
mod token;
mod validate;
mod yaml;

pub use app::run;
pub use ca::{Phase, create_certificate, request_root, rotation};
pub use check::{Checked, check_files};
pub use config::{Config, Outbound, Source, lifetime};
pub use crds::crds;
pub use problem::{Problem, Severity};
pub use serve::{
    AuthorityStatus, BreakerState, CertificateStatus, EndpointState, ProxyStatus, Refusal, Role,
    StatusReport, Unhealthy, UnhealthyBreaker, UnhealthyEndpoint,
};
pub use token::create_token;
