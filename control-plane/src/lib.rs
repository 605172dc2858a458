//! The control plane of Pillion.

mod api;
mod compile;
mod index;
mod intake;
mod naming;
mod object;
mod problem;
mod source;
mod validate;
mod yaml;
