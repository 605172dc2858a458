//! One HTTP exchange, from the request head to the end of the response.
//!
//! Read [`exchange`] first: it walks through the steps in order. Every step is a small function in a module of its
//! own: [`head`] and [`headers`] bring the request into one form, [`route`] finds the rule, [`rewrite`], [`cors`] and
//! [`hash`] decide, [`attempt`] tries an endpoint, [`respond`] explains what the proxy says itself, and [`finish`]
//! watches the response to its end.

pub mod attempt;
pub mod authz;
pub mod classify;
pub mod cors;
pub mod deadline;
pub mod downstream;
pub mod exchange;
pub mod expect;
pub mod fault;
pub mod finish;
pub mod hash;
pub mod head;
pub mod headers;
pub mod limits;
pub mod mirror;
pub mod replay;
pub mod reply;
pub mod respond;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod serve;
pub(crate) mod tokens;
pub mod tries;
pub mod upgrade;
