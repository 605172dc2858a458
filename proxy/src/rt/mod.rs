//! What everything stands on: supervised tasks, clock, randomness, drain.
//!
//! Nothing here knows about traffic. The modules exist so that each raw primitive (spawning, the wall clock, random
//! seeds) has one door, and the lints can close all others.

pub mod clock;
pub mod drain;
pub mod pulse;
pub mod rng;
pub mod task;
