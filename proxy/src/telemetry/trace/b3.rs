//! B3, Zipkin's propagation (<https://github.com/openzipkin/b3-propagation>): one field `b3`, or several `x-b3-*`.
//!
//! Trace ids have 64 or 128 bits and keep their length on the way. Both forms can come with a decision alone, and with
//! ids and none: then the decision is made here.

use super::{fields::Fields, hex};

/// Trace, span and state in one field.
pub(super) const SINGLE: &str = "b3";
/// The trace, where each has a field.
pub(super) const TRACE: &str = "x-b3-traceid";
/// The span.
pub(super) const SPAN: &str = "x-b3-spanid";
/// The span above it, which is not handed on: it would be that of another hop.
pub(super) const PARENT: &str = "x-b3-parentspanid";
/// The decision.
pub(super) const SAMPLED: &str = "x-b3-sampled";
/// `1` wants the trace recorded whatever anybody thinks.
pub(super) const FLAGS: &str = "x-b3-flags";

/// Longest value this module writes: 128 bits of trace, 64 of span, a state.
pub(super) const LONGEST: usize = 32 + 1 + 16 + 2;

/// What a caller says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Its trace and span.
    pub(super) ids: Option<([u8; 16], [u8; 8])>,
    /// Whether the trace is recorded, if that is decided.
    pub(super) sampled: Option<bool>,
}

/// Reads the form of one field: `{trace}-{span}[-{state}[-{parent}]]`, or a state alone.
pub(super) fn single(value: &[u8]) -> Option<Said> {
    let mut fields = value.split(|byte| *byte == b'-');
    let first = fields.next()?;
    let Some(span) = fields.next() else {
        return Some(Said { ids: None, sampled: Some(state(first)?) });
    };
    let ids = Some((trace_id(first)?, hex::id(span)?));
    let sampled = fields.next().map(|text| state(text).ok_or(())).transpose().ok()?;
    if let Some(parent) = fields.next() {
        hex::read::<8>(parent)?;
    }
    fields.next().is_none().then_some(Said { ids, sampled })
}

/// Reads the form of several fields.
pub(super) fn multi(fields: &Fields<'_>) -> Option<Said> {
    let sampled = match (fields.b3_flags, fields.b3_sampled) {
        (Some(b"1"), _) => Some(true),
        // Old libraries write words.
        (_, Some(b"true")) => Some(true),
        (_, Some(b"false")) => Some(false),
        (_, said) => said.and_then(state),
    };
    let ids = match (fields.b3_trace, fields.b3_span) {
        (Some(trace), Some(span)) => Some((trace_id(trace)?, hex::id(span)?)),
        _ => None,
    };
    (ids.is_some() || sampled.is_some()).then_some(Said { ids, sampled })
}

/// 128 bits, or 64 of which the others are zero.
fn trace_id(text: &[u8]) -> Option<[u8; 16]> {
    if let Some([a, b, c, d, e, f, g, h]) = hex::id::<8>(text) {
        return Some([0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]);
    }
    hex::id(text)
}

fn state(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    }
}

/// Whether a value of the one field asks for debugging, which is handed on.
pub(super) fn is_debug(value: &[u8]) -> bool {
    value == b"d" || value.split(|byte| *byte == b'-').nth(2) == Some(b"d")
}

/// Whether a trace id came with 64 bits, as a field on its own or the first of one.
pub(super) fn is_short(value: &[u8]) -> bool {
    value.split(|byte| *byte == b'-').next().is_some_and(|trace| trace.len() == 16)
}

/// A value of fixed size at most.
#[derive(Debug)]
pub(super) struct Text {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [b'-'; LONGEST], length: 0 }
    }

    fn push_hex(mut self, id: &[u8]) -> Self {
        if let Some(out) = self.bytes.get_mut(self.length..self.length + 2 * id.len()) {
            hex::write(id, out);
            self.length += 2 * id.len();
        }
        self
    }

    fn push(mut self, text: &[u8]) -> Self {
        if let Some(out) = self.bytes.get_mut(self.length..self.length + text.len()) {
            out.copy_from_slice(text);
            self.length += text.len();
        }
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A trace id, in 64 bits where it came so.
pub(super) fn write_trace(trace_id: &[u8; 16], short: bool) -> Text {
    let lower = trace_id.split_at(8).1;
    Text::new().push_hex(if short { lower } else { trace_id })
}

/// The one field.
pub(super) fn write_single(trace_id: &[u8; 16], short: bool, span_id: [u8; 8], state: u8) -> Text {
    write_trace(trace_id, short).push(b"-").push_hex(&span_id).push(b"-").push(&[state])
}

/// A span id by itself.
pub(super) fn write_span(span_id: [u8; 8]) -> Text {
    Text::new().push_hex(&span_id)
}

/// The same value of the one field with another span. `None` for one that is not as [`write_single`] makes it.
pub(super) fn with_span(value: &[u8], span_id: [u8; 8]) -> Option<Text> {
    let said = single(value)?;
    let (trace_id, _) = said.ids?;
    let state = value.last().copied().filter(|_| said.sampled.is_some())?;
    Some(write_single(&trace_id, is_short(value), span_id, state))
}
