//! Trace context on its way through: what a request came with, and what it goes on with.
//!
//! A valid `traceparent` is believed first, then B3 in one field or several, then `grpc-trace-bin`; without any a trace
//! begins here. It goes on as `traceparent` always, and in each of the other forms it came in. `tracestate` stays as
//! it is while the `traceparent` it belongs to is valid, and goes with it otherwise (W3C Trace Context §3.3); baggage
//! is never touched. Nothing here allocates: values are minted by the caller, who has memory for many.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    SpanContext, b3, census,
    fields::{self, Fields},
    sampling::Sampling,
    w3c,
};

const TRACEPARENT: HeaderName = HeaderName::from_static(fields::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(fields::TRACESTATE);
const B3: HeaderName = HeaderName::from_static(b3::SINGLE);
const B3_TRACE: HeaderName = HeaderName::from_static(b3::TRACE);
const B3_SPAN: HeaderName = HeaderName::from_static(b3::SPAN);
const B3_PARENT: HeaderName = HeaderName::from_static(b3::PARENT);
const B3_SAMPLED: HeaderName = HeaderName::from_static(b3::SAMPLED);
const B3_FLAGS: HeaderName = HeaderName::from_static(b3::FLAGS);
const GRPC: HeaderName = HeaderName::from_static(census::NAME);

/// Where a caller stands, whatever form it said that in.
#[derive(Debug, Clone, Copy, Default)]
struct Incoming {
    ids: Option<([u8; 16], [u8; 8])>,
    /// Whether the trace is recorded, if that is decided.
    sampled: Option<bool>,
    /// Flags of `traceparent`.
    flags: u8,
    is_w3c: bool,
}

/// The place a request has in a trace of which the proxy is no part; nothing is changed. `None` when it has none.
pub fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let incoming = find(&Fields::of(headers));
    let (trace_id, span_id) = incoming.ids?;
    let sampled = incoming.sampled.unwrap_or(false);
    Some(SpanContext { trace_id, span_id: [0; 8], parent: Some(span_id), sampled })
}

/// Gives a request a span below that of its caller, or at the root of a new trace, and writes it into the head.
pub fn enter(
    headers: &mut HeaderMap,
    sampling: Sampling,
    rng: &mut fastrand::Rng,
    mut mint: impl FnMut(&[u8]) -> HeaderValue,
) -> SpanContext {
    let fields = Fields::of(headers);
    let (incoming, has_state) = (find(&fields), fields.tracestate.is_some());
    let (single, multi, grpc) = (fields.b3.is_some(), fields.b3_trace.is_some(), fields.grpc.is_some());
    let (trace_id, parent) = match incoming.ids {
        Some((trace_id, span_id)) => (trace_id, Some(span_id)),
        None => (trace_id(rng), None),
    };
    let sampled = sampling.decides(incoming.sampled, trace_id);
    let context = SpanContext { trace_id, span_id: span_id(rng), parent, sampled };
    if has_state && !incoming.is_w3c {
        headers.remove(TRACESTATE);
    }
    headers.insert(TRACEPARENT, mint(&w3c::write(&context, incoming.flags)));
    let state = if sampled { b'1' } else { b'0' };
    // Only what came in 64 bits can go on so.
    let is_short = |came: &HeaderValue| b3::is_short(came.as_bytes()) && trace_id.starts_with(&[0; 8]);
    if single && let Some(field) = headers.get_mut(B3) {
        let state = if sampled && b3::is_debug(field.as_bytes()) { b'd' } else { state };
        let text = b3::write_single(&trace_id, is_short(field), context.span_id, state);
        *field = mint(text.as_bytes());
    }
    if multi && let Some(field) = headers.get_mut(B3_TRACE) {
        let text = b3::write_trace(&trace_id, is_short(field));
        *field = mint(text.as_bytes());
        headers.insert(B3_SPAN, mint(b3::write_span(context.span_id).as_bytes()));
        headers.remove(B3_PARENT);
        if !headers.contains_key(B3_FLAGS) {
            headers.insert(B3_SAMPLED, mint(&[state]));
        }
    }
    if grpc && let Some(field) = headers.get_mut(GRPC) {
        *field = mint(&census::write(&context, context.span_id));
    }
    context
}

/// Makes `span_id`, a child of the exchange's, the parent of whatever comes next. What policy has taken away meanwhile
/// stays away.
pub fn hand_over(
    headers: &mut HeaderMap,
    context: &SpanContext,
    span_id: [u8; 8],
    mut mint: impl FnMut(&[u8]) -> HeaderValue,
) {
    for (name, value) in headers.iter_mut() {
        let minted = match name.as_str() {
            fields::TRACEPARENT => w3c::with_span(value.as_bytes(), span_id).map(|text| mint(&text)),
            b3::SINGLE => b3::with_span(value.as_bytes(), span_id).map(|text| mint(text.as_bytes())),
            b3::SPAN => Some(mint(b3::write_span(span_id).as_bytes())),
            census::NAME => Some(mint(&census::write(context, span_id))),
            _ => None,
        };
        if let Some(minted) = minted {
            *value = minted;
        }
    }
}

/// A random span id that is not all zero.
pub fn span_id(rng: &mut fastrand::Rng) -> [u8; 8] {
    rng.u64(1..).to_be_bytes()
}

fn trace_id(rng: &mut fastrand::Rng) -> [u8; 16] {
    rng.u128(1..).to_be_bytes()
}

/// What the caller says. A form that cannot be read is as good as absent, but a decision that comes without ids holds
/// for the trace that begins here.
fn find(fields: &Fields<'_>) -> Incoming {
    let of = |parent: w3c::Parent, is_w3c| Incoming {
        ids: Some((parent.trace_id, parent.span_id)),
        sampled: Some(parent.is_sampled()),
        flags: if is_w3c { parent.flags } else { 0 },
        is_w3c,
    };
    if let Some(parent) = fields.traceparent.filter(|_| !fields.is_ambiguous).and_then(w3c::read) {
        return of(parent, true);
    }
    let single = fields.b3.and_then(b3::single);
    let said = single.or_else(|| b3::multi(fields)).unwrap_or_default();
    if said.ids.is_some() {
        return Incoming { ids: said.ids, sampled: said.sampled, ..Incoming::default() };
    }
    if let Some(parent) = fields.grpc.and_then(census::read) {
        return of(parent, false);
    }
    Incoming { sampled: said.sampled, ..Incoming::default() }
}

#[cfg(test)]
mod tests;
