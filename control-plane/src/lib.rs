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
mod trace;
mod validate;
mod yaml;

pub use app::run;
pub use ca::{Phase, WaitFor, admin_token, create_certificate, read_token, request_root, rotation};
pub use check::{Checked, check_files};
pub use config::{Config, Outbound, Source, lifetime};
pub use crds::crds;
pub use problem::{Problem, Severity};
pub use serve::{
    AuthorityStatus, Blamed, BreakerState, Causes, CertificateStatus, Counts, EndpointState, Explanation,
    Line, ProxyFigures, ProxyStatus, Refusal, Role, Silence, StatusReport, Told, Unhealthy, UnhealthyBreaker,
    UnhealthyEndpoint,
};
pub use token::create_token;
