//! Bytes on sockets, before they mean anything: options, detection, rewinding, copying.

pub mod copy;
pub mod detect;
pub mod idle;
pub mod rewind;
pub mod socket;
pub mod wire;
