//! Reads typed objects from YAML nodes and reports, by path, what does not fit.
//!
//! The schema is the Rust types themselves: serde hands over the names of a type's fields, so an unknown key is noticed
//! where it stands and compared with what could have been meant. Reading goes on after an unknown key; a value of the
//! wrong type ends it, and it starts again as if that value were not there. A field of type [`Unenforced`] is read and checked, but reported: nothing in the mesh acts
//! on it yet, and its value cannot be reached except to check it.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use crate::{
    problem::{Report, suggestion, unknown},
    yaml::{Entry, Node, Value},
};

/// Name under which serde announces an [`Unenforced`] field.
const UNENFORCED: &str = "$pillion::Unenforced";

/// Whether a type lists every field there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fields {
    /// It does: any other key is a mistake.
    All,
    /// It lists those the mesh reads; others are somebody else's.
    Some,
}

/// A field that is part of the schema, but that nothing acts on yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unenforced<T>(Option<T>);

impl<T> Unenforced<T> {
    /// The value, for checking it only.
    pub(crate) fn to_check(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unenforced<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Inner<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Inner<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
                T::deserialize(deserializer)
            }
        }
        deserializer.deserialize_newtype_struct(UNENFORCED, Inner(PhantomData)).map(|value| Self(Some(value)))
    }
}

/// Values of the wrong type that are looked past in one object.
const MAX_WRONG: usize = 32;

/// Reads a `T`, or reports why that cannot be done. A value may come with errors in the report: unknown keys, and
/// values of the wrong type, which it lacks.
pub(crate) fn read<T: DeserializeOwned>(node: &Node, fields: Fields, report: &mut Report) -> Option<T> {
    let mark = report.mark();
    loop {
        match T::deserialize(Cursor { node, fields, report }) {
            Ok(value) => return Some(value),
            Err(Stop(None)) if report.wrong_count() < MAX_WRONG => report.rewind(mark),
            Err(stop) => {
                stop.report(report);
                return None;
            }
        }
    }
}

/// Ends the reading of an object; carries its reason until that has been reported.
#[derive(Debug)]
struct Stop(Option<String>);

impl Stop {
    fn report(mut self, report: &mut Report) -> Self {
        if let Some(reason) = self.0.take() {
            report.wrong(reason);
        }
        self
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or_default())
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self(Some(reason.to_string()))
    }
}

struct Cursor<'a, 'r> {
    node: &'a Node,
    fields: Fields,
    report: &'r mut Report,
}

impl<'a> Cursor<'a, '_> {
    fn expected<T>(&self, what: &str) -> Result<T, Stop> {
        Err(Stop::custom(format!("expected {what}, found {}", self.node.describe())))
    }

    fn plain(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, plain: true } => Some(text),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
        }
    }

    fn integer(&self, low: i128, high: i128) -> Result<i128, Stop> {
        let number: Option<i128> = self.plain().and_then(|text| text.parse().ok());
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            Some(number) => Err(Stop::custom(format!("{number} is not between {low} and {high}"))),
            None => self.expected("a whole number"),
        }
    }

    fn text(&self) -> Result<&'a str, Stop> {
        match &self.node.value {
            Value::Scalar { text, plain: false } => Ok(text),
            Value::Scalar { text, plain: true } => match meaning(text) {
                Meaning::Text => Ok(text),
                other => Err(Stop::custom(format!("{text} is {} in YAML, put it in quotes", other.name()))),
            },
            Value::List(_) | Value::Map(_) => self.expected("a string"),
        }
    }
}

/// What an unquoted scalar means in YAML's core schema.
enum Meaning {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text,
}

impl Meaning {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text => "a string",
        }
    }
}

fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "true" | "True" | "TRUE" => return Meaning::Bool(true),
        "false" | "False" | "FALSE" => return Meaning::Bool(false),
        _ => {}
    }
    let numeric = text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.'));
    if !numeric {
        return Meaning::Text;
    }
    if let Ok(number) = text.parse() {
        return Meaning::Integer(number);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Meaning::Float(number),
        _ => Meaning::Text,
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            let number = self.integer(i128::from($type::MIN), i128::from($type::MAX))?;
            visitor.$visit($type::try_from(number).map_err(Stop::custom)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Cursor<'_, '_> {
    type Error = Stop;

    integers! {
        deserialize_i8 visit_i8 i8
        deserialize_i16 visit_i16 i16
        deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar { text, plain: false } => visitor.visit_str(text),
            Value::Scalar { text, plain: true } => match meaning(text) {
                Meaning::Null => visitor.visit_unit(),
                Meaning::Bool(value) => visitor.visit_bool(value),
                Meaning::Integer(value) => visitor.visit_i64(value),
                Meaning::Float(value) => visitor.visit_f64(value),
                Meaning::Text => visitor.visit_str(text),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.plain().map(meaning) {
            Some(Meaning::Bool(value)) => visitor.visit_bool(value),
            _ => self.expected("true or false"),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.plain().map(|text| (meaning(text), text.parse())) {
            Some((Meaning::Integer(_) | Meaning::Float(_), Ok(number))) => visitor.visit_f64(number),
            _ => self.expected("a number"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if name == UNENFORCED {
            self.report.warn("accepted, not enforced yet");
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::List(items) => {
                visitor.visit_seq(Items { items, index: 0, fields: self.fields, report: self.report })
            }
            Value::Scalar { .. } | Value::Map(_) => self.expected("a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Map(entries) => {
                visitor.visit_map(Entries { entries, known: None, fields: self.fields, report: self.report })
            }
            Value::Scalar { .. } | Value::List(_) => self.expected("a mapping"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let Value::Map(entries) = &self.node.value else {
            return self.expected("a mapping");
        };
        for entry in entries {
            if self.fields == Fields::All && !known.contains(&&*entry.key) {
                let reason = unknown("field", &entry.key, known.iter().copied());
                self.report.field(&entry.key, |report| report.error(reason));
            }
        }
        visitor.visit_map(Entries { entries, known: Some(known), fields: self.fields, report: self.report })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let text = self.text()?;
        if variants.contains(&text) {
            let variant: StrDeserializer<'_, Stop> = text.into_deserializer();
            return visitor.visit_enum(variant);
        }
        let choices = match suggestion(text, variants.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("choose one of {}", variants.join(", ")),
        };
        Err(Stop::custom(format!("{text:?} is not a value of this field, {choices}")))
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a, 'r> {
    items: &'a [Node],
    index: usize,
    fields: Fields,
    report: &'r mut Report,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        while self.index < self.items.len() && self.report.is_wrong_item(self.index) {
            self.index += 1;
        }
        let Some(node) = self.items.get(self.index) else {
            return Ok(None);
        };
        let (index, fields) = (self.index, self.fields);
        self.index += 1;
        self.report.item(index, |report| {
            let result = seed.deserialize(Cursor { node, fields, report });
            result.map(Some).map_err(|stop| stop.report(report))
        })
    }
}

struct Entries<'a, 'r> {
    entries: &'a [Entry],
    /// The fields of a struct, whose other and null entries are passed over; nothing for a map with free keys.
    known: Option<&'static [&'static str]>,
    fields: Fields,
    report: &'r mut Report,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let pass_over = |known: &[&str], entry: &Entry| entry.node.is_null() || !known.contains(&&*entry.key);
        while let Some((entry, rest)) = self.entries.split_first()
            && (self.known.is_some_and(|known| pass_over(known, entry))
                || self.report.is_wrong_field(&entry.key))
        {
            self.entries = rest;
        }
        match self.entries.first() {
            Some(entry) => {
                let key: StrDeserializer<'_, Stop> = (*entry.key).into_deserializer();
                seed.deserialize(key).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let Some((entry, rest)) = self.entries.split_first() else {
            return Err(Stop::custom("a value is missing"));
        };
        self.entries = rest;
        let fields = self.fields;
        self.report.field(&entry.key, |report| {
            let result = seed.deserialize(Cursor { node: &entry.node, fields, report });
            result.map_err(|stop| stop.report(report))
        })
    }
}

#[cfg(test)]
mod tests;
