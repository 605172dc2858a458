//! `grpc-trace-bin`, OpenCensus' binary context
//! (<https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md>), in the base64 in
//! which gRPC carries binary metadata: version 0, then trace, span and options, each after its number.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{SpanContext, w3c::Parent};

/// The field.
pub(super) const NAME: &str = "grpc-trace-bin";
/// Bytes of a whole context.
const LENGTH: usize = 29;
/// Characters of one in base64 without padding.
pub(super) const TEXT: usize = 39;

/// Peers may pad, and gRPC says not to.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads a value.
pub(super) fn read(value: &[u8]) -> Option<Parent> {
    let mut buffer = [0; 48];
    let length = BASE64.decode_slice(value, &mut buffer).ok()?;
    let (version, mut rest) = buffer.get(..length)?.split_first()?;
    if *version != 0 {
        return None;
    }
    let (mut trace_id, mut span_id, mut flags) = (None, None, 0);
    while let Some((field, tail)) = rest.split_first() {
        match field {
            0 => (trace_id, rest) = tail.split_first_chunk::<16>().map(|(id, rest)| (Some(*id), rest))?,
            1 => (span_id, rest) = tail.split_first_chunk::<8>().map(|(id, rest)| (Some(*id), rest))?,
            2 => (flags, rest) = tail.split_first().map(|(flags, rest)| (*flags & 1, rest))?,
            // How long an unknown field is, nobody can say; it ends the known ones.
            _ => break,
        }
    }
    let (trace_id, span_id) = (trace_id?, span_id?);
    (trace_id != [0; 16] && span_id != [0; 8]).then_some(Parent { trace_id, span_id, flags })
}

/// Writes the value that makes `span_id` the parent of whatever comes next.
pub(super) fn write(context: &SpanContext, span_id: [u8; 8]) -> [u8; TEXT] {
    let mut binary = [0; LENGTH];
    let fields = [&[0, 0][..], &context.trace_id, &[1], &span_id, &[2, u8::from(context.sampled)]];
    for (place, byte) in binary.iter_mut().zip(fields.into_iter().flatten()) {
        *place = *byte;
    }
    let mut text = [b'A'; TEXT];
    // It has the length this takes.
    let _length = BASE64.encode_slice(binary, &mut text);
    text
}
