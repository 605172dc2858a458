//! Who is told of finished requests.
//!
//! Each sink says whether it wants a record: what nobody wants costs nothing more. The line of the access log is written at
//! once; the others get the record itself, by a push onto a bounded lock-free queue. What a sink cannot take is dropped and
//! counted there.

use std::sync::Arc;

use super::{
    access_log::{AccessLog, Pen},
    journal::Journal,
    record::Record,
    trace::Tracer,
};

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

    /// Tells of a finished request, with the pen of its worker. What is left of the record can be used again.
    pub fn take(&self, record: &mut Record, pen: &Pen) {
        let (logged, interest) = (self.access_log.wants(record), self.journal.wants(record));
        let traced = self.tracer.wants(record);
        if !(logged || traced || interest.any()) {
            return;
        }
        // A refusal nobody wants to hear of is not put into words.
        if let Some(error) = record.error.take().filter(|_| record.cause.is_none()) {
            record.cause = Some(error.in_full().into());
        }
        if logged {
            pen.write(record);
        }
        let exported = logged && self.access_log.is_exported();
        if !(exported || traced || interest.any()) {
            return;
        }
        let record = Arc::new(record.detached());
        if exported {
            self.access_log.export(Arc::clone(&record));
        }
        if interest.any() {
            self.journal.push(Arc::clone(&record), interest);
        }
        if traced {
            self.tracer.push(record);
        }
    }
}
