//! Who is told of finished requests.
//!
//! Each sink says whether it wants a record before one is copied: what nobody wants costs nothing more. Handing over is a
//! push onto a bounded lock-free queue; what a sink cannot take is dropped and counted there.

use std::sync::Arc;

use super::{access_log::AccessLog, journal::Journal, record::Record, trace::Tracer};

/// Everybody who is told; clones tell the same.
#[derive(Debug, Clone)]
pub struct Sinks {
    /// The access log.
    pub access_log: AccessLog,
    /// What is remembered to explain requests.
    pub journal: Journal,
    /// What makes spans.
    pub tracer: Tracer,
}

impl Sinks {
    /// Nobody.
    pub fn none() -> Self {
        Self { access_log: AccessLog::disabled(), journal: Journal::none(), tracer: Tracer::none() }
    }

    /// Tells of a finished request. What is left of the record can be used again.
    pub fn take(&self, record: &mut Record) {
        let (logged, interest) = (self.access_log.wants(record), self.journal.wants(record));
        let traced = self.tracer.wants(record);
        if !(logged || traced || interest.any()) {
            return;
        }
        // A refusal nobody wants to hear of is not put into words.
        if let Some(error) = record.error.take().filter(|_| record.cause.is_none()) {
            record.cause = Some(error.in_full().into());
        }
        let record = Arc::new(std::mem::take(record));
        if logged {
            self.access_log.push(Arc::clone(&record));
        }
        if interest.any() {
            self.journal.push(Arc::clone(&record), interest);
        }
        if traced {
            self.tracer.push(record);
        }
    }
}
