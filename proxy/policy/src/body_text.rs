//! Serde of a body that stands in the policy: as text where it is UTF-8, else as a list of bytes.
//!
//! Policy files are written by hand, and dumps are read by people; most bodies are JSON or a sentence. Both forms are
//! read, whichever would have been written.

use std::{fmt, sync::Arc};

use serde::{
    Deserializer, Serializer,
    de::{SeqAccess, Visitor},
};

pub(crate) fn serialize<S: Serializer>(body: &[u8], out: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(body) {
        Ok(text) => out.serialize_str(text),
        Err(_) => out.collect_seq(body),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Arc<[u8]>, D::Error> {
    input.deserialize_any(Body)
}

struct Body;

impl<'de> Visitor<'de> for Body {
    type Value = Arc<[u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a list of bytes")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.as_bytes().into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Self::Value, A::Error> {
        let mut body = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            body.push(byte);
        }
        Ok(body.into())
    }
}
