//! A request to a collector, encoded as its items come.
//!
//! Requests for spans and for log records are the same message but for what the items are: `resource_spans` and
//! `resource_logs` are field 1 of the request, the resource is field 1 of these and `scope_spans` or `scope_logs` field 2,
//! the scope is field 1 of those and the items are field 2. Nothing but bytes is held, and nothing is measured twice.

use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::{Message, encode_length_delimiter};

use super::{outbox::Batch, resource::scope};

/// Items of one scope that wait to be a request.
#[derive(Debug)]
pub struct Bundle {
    resource: Vec<u8>,
    scope: Vec<u8>,
    items: Vec<u8>,
    n_items: usize,
}

impl Bundle {
    /// An empty one of what this resource tells.
    pub fn new(resource: &Resource) -> Self {
        Self {
            resource: field(1, &resource.encode_to_vec()),
            scope: field(1, &scope().encode_to_vec()),
            items: Vec::new(),
            n_items: 0,
        }
    }

    /// Encodes an item.
    pub fn add(&mut self, item: &impl Message) {
        self.items.push(tag(2));
        // A vector has room for everything.
        let _infallible = item.encode_length_delimited(&mut self.items);
        self.n_items += 1;
    }

    /// How many items there are, and how many bytes they have.
    pub fn size(&self) -> (usize, usize) {
        (self.n_items, self.items.len())
    }

    /// A request of all there is, after which there is nothing: an idle exporter keeps no memory.
    pub fn finish(&mut self) -> Option<Batch> {
        let items = u64::try_from(std::mem::take(&mut self.n_items)).ok().filter(|items| *items > 0)?;
        let of_scope = [&*self.scope, &*std::mem::take(&mut self.items)].concat();
        let of_resource = [&*self.resource, &*field(2, &of_scope)].concat();
        Some(Batch { body: field(1, &of_resource).into(), items })
    }
}

/// A field that holds a message.
fn field(number: u8, message: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(message.len() + 11);
    field.push(tag(number));
    // A vector has room for everything.
    let _infallible = encode_length_delimiter(message.len(), &mut field);
    field.extend_from_slice(message);
    field
}

/// What announces a field below 16 that has a length
/// (<https://protobuf.dev/programming-guides/encoding/#structure>).
const fn tag(number: u8) -> u8 {
    number << 3 | 2
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };

    use super::*;
    use crate::telemetry::otlp::attribute::text;

    fn resource() -> Resource {
        Resource { attributes: vec![text("service.name", "shop")], ..Resource::default() }
    }

    #[test]
    fn spans_are_a_request_for_spans() {
        let spans: Vec<_> = (0..300).map(|n| Span { name: format!("span {n}"), ..Span::default() }).collect();
        let mut bundle = Bundle::new(&resource());
        assert!(bundle.finish().is_none());
        for _ in 0..2 {
            spans.iter().for_each(|span| bundle.add(span));
            assert_eq!(bundle.size().0, 300);
            let batch = bundle.finish().unwrap();
            assert_eq!((batch.items, bundle.size()), (300, (0, 0)));
            let scope_spans =
                ScopeSpans { scope: Some(scope()), spans: spans.clone(), ..ScopeSpans::default() };
            let resource_spans = ResourceSpans {
                resource: Some(resource()),
                scope_spans: vec![scope_spans],
                ..ResourceSpans::default()
            };
            let expected = ExportTraceServiceRequest { resource_spans: vec![resource_spans] };
            assert_eq!(batch.body, expected.encode_to_vec());
        }
    }

    #[test]
    fn log_records_are_a_request_for_logs() {
        let record = LogRecord { severity_text: "INFO".to_owned(), ..LogRecord::default() };
        let mut bundle = Bundle::new(&resource());
        bundle.add(&record);
        let scope_logs =
            ScopeLogs { scope: Some(scope()), log_records: vec![record], ..ScopeLogs::default() };
        let resource_logs = ResourceLogs {
            resource: Some(resource()),
            scope_logs: vec![scope_logs],
            ..ResourceLogs::default()
        };
        let expected = ExportLogsServiceRequest { resource_logs: vec![resource_logs] };
        assert_eq!(bundle.finish().unwrap().body, expected.encode_to_vec());
    }
}
