//! The fields of a head that say where its request stands in a trace, found in one pass: most heads have few fields and none
//! of these, and looking for each by name would cost more than all else that is done for a trace.

use http::{HeaderMap, HeaderValue};

use super::{b3, census};

/// W3C's field for trace and span.
pub(super) const TRACEPARENT: &str = "traceparent";
/// W3C's field for what vendors add.
pub(super) const TRACESTATE: &str = "tracestate";

/// Of each field its first value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    pub(super) traceparent: Option<&'a [u8]>,
    /// There is more than one `traceparent`, so none counts.
    pub(super) is_ambiguous: bool,
    pub(super) tracestate: Option<&'a [u8]>,
    pub(super) b3: Option<&'a [u8]>,
    pub(super) b3_trace: Option<&'a [u8]>,
    pub(super) b3_span: Option<&'a [u8]>,
    pub(super) b3_sampled: Option<&'a [u8]>,
    pub(super) b3_flags: Option<&'a [u8]>,
    pub(super) grpc: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Those of a head.
    pub(super) fn of(headers: &'a HeaderMap<HeaderValue>) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            let field = match name.as_str() {
                TRACEPARENT => {
                    fields.is_ambiguous = fields.traceparent.is_some();
                    &mut fields.traceparent
                }
                TRACESTATE => &mut fields.tracestate,
                b3::SINGLE => &mut fields.b3,
                b3::TRACE => &mut fields.b3_trace,
                b3::SPAN => &mut fields.b3_span,
                b3::SAMPLED => &mut fields.b3_sampled,
                b3::FLAGS => &mut fields.b3_flags,
                census::NAME => &mut fields.grpc,
                _ => continue,
            };
            field.get_or_insert(value.as_bytes());
        }
        fields
    }
}
