//! How policy reaches the request path.
//!
//! One task owns all of policy. [`ads`] carries messages between the control plane and the sans-io session of
//! `pillion-xds`; [`state`] turns what the session says into the next view and publishes it; [`store`] reads and
//! writes resources as files; [`report`] decides what the control plane is told in return, and [`observe`] what it may
//! ask about traffic. Requests never come here: they ask for unknown hosts through a bounded channel and are woken by
//! the next view.
//!
//! Another task keeps the own certificate fresh ([`identity`]). Both reach the control plane by [`access`]. A third,
//! [`telemetry`], tells those who tell of traffic what policy wants of them.

pub mod access;
pub mod ads;
pub mod identity;
pub mod jwks;
pub mod observe;
pub mod report;
pub mod state;
pub mod store;
pub mod telemetry;
