//! `traceparent`, by W3C Trace Context (level 1, <https://www.w3.org/TR/trace-context/>): version, trace, span, flags.

use super::{SpanContext, hex};

/// Length of the text of version 00, and of what later versions must begin with.
pub(super) const LENGTH: usize = 55;
/// Where the span stands in it.
const SPAN: std::ops::Range<usize> = 36..52;
const SAMPLED: u8 = 1;
/// Level 2's second flag: the trace id is random. It is handed on as it came.
const RANDOM: u8 = 2;

/// A caller's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) flags: u8,
}

impl Parent {
    pub(super) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Reads a value. A later version is read as far as this one knows it (§4.3), version ff is none.
pub(super) fn read(value: &[u8]) -> Option<Parent> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let mut fields = known.split(|byte| *byte == b'-');
    let [version] = hex::read(fields.next()?)?;
    let (trace_id, span_id) = (hex::id(fields.next()?)?, hex::id(fields.next()?)?);
    let [flags] = hex::read(fields.next()?)?;
    let may_go_on = version != 0 && rest.first() == Some(&b'-');
    if version == 0xff || fields.next().is_some() || !(rest.is_empty() || may_go_on) {
        return None;
    }
    // What flags of later versions mean is not known.
    Some(Parent { trace_id, span_id, flags: flags & if version == 0 { SAMPLED | RANDOM } else { SAMPLED } })
}

/// Writes the value that makes `context` the parent of whatever comes next; `flags` are those of its own parent.
pub(super) fn write(context: &SpanContext, flags: u8) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let flags = (flags & RANDOM) | if context.sampled { SAMPLED } else { 0 };
    if let Some(trace) = text.get_mut(3..35) {
        hex::write(&context.trace_id, trace);
    }
    if let Some(span) = text.get_mut(SPAN) {
        hex::write(&context.span_id, span);
    }
    if let Some(last) = text.get_mut(53..) {
        hex::write(&[flags], last);
    }
    text
}

/// The same value with another span. `None` for what was not written by [`write`].
pub(super) fn with_span(value: &[u8], span_id: [u8; 8]) -> Option<[u8; LENGTH]> {
    let mut text: [u8; LENGTH] = value.try_into().ok()?;
    hex::write(&span_id, text.get_mut(SPAN)?);
    Some(text)
}
