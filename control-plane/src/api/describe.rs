//! The types as Kubernetes wants them described: structural schemas in OpenAPI v3.
//!
//! Nothing is written twice: names and choices come from serde, which reads them from the same types that objects are
//! read into, and descriptions are the comments at the fields. Ranges narrower than a type's are left to the control
//! plane, which says more about them than a schema can.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserializer,
    de::{DeserializeOwned, Visitor},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, json};

use super::{ApiDuration, H2UpgradePolicy, SimpleLb, TargetKind, Unenforced};

/// Durations as [`ApiDuration`] reads them.
const DURATION: &str = r"^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+$";

/// What can be described.
pub(crate) trait Describe {
    /// Whether a value must be given.
    const REQUIRED: bool = true;
    /// What is added to the comment at a field.
    const REMARK: &'static str = "";

    /// The schema.
    fn describe() -> Value;
}

/// A field: the lines of its comment, whether it is required, the remark of its type, and the schema.
pub(crate) type Field = (&'static [&'static str], bool, &'static str, fn() -> Value);

/// The schema of a struct; its fields come in the order of its declaration.
pub(crate) fn object<T: DeserializeOwned>(about: &[&str], fields: &[Field]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, (comment, is_required, remark, describe)) in names::<T>().iter().zip(fields) {
        let mut schema = describe();
        if let (text, Some(schema)) = (paragraph(comment, remark), schema.as_object_mut())
            && !text.is_empty()
        {
            schema.insert("description".to_owned(), text.into());
        }
        properties.insert((*name).to_owned(), schema);
        if *is_required {
            required.push(*name);
        }
    }
    let mut schema = json!({ "type": "object", "description": paragraph(about, "") });
    if let Some(schema) = schema.as_object_mut() {
        if !properties.is_empty() {
            schema.insert("properties".to_owned(), properties.into());
        }
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
    }
    schema
}

/// The lines of a comment as one text.
fn paragraph(comment: &[&str], remark: &str) -> String {
    let lines = comment.iter().chain([&remark]).map(|line| line.trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl<T: Describe> Describe for Option<T> {
    const REQUIRED: bool = false;

    fn describe() -> Value {
        T::describe()
    }
}

impl<T: Describe> Describe for Unenforced<T> {
    const REQUIRED: bool = false;
    const REMARK: &'static str = "Accepted, not enforced yet.";

    fn describe() -> Value {
        T::describe()
    }
}

impl<T: Describe> Describe for Vec<T> {
    const REQUIRED: bool = false;

    fn describe() -> Value {
        json!({ "type": "array", "items": T::describe() })
    }
}

impl<T: Describe> Describe for BTreeMap<String, T> {
    const REQUIRED: bool = false;

    fn describe() -> Value {
        json!({ "type": "object", "additionalProperties": T::describe() })
    }
}

impl Describe for bool {
    const REQUIRED: Self = false;

    fn describe() -> Value {
        json!({ "type": "boolean" })
    }
}

macro_rules! plain {
    ($($type:ty: $schema:tt,)*) => {$(
        impl Describe for $type {
            fn describe() -> Value {
                json!($schema)
            }
        }
    )*};
}

plain! {
    String: { "type": "string" },
    ApiDuration: { "type": "string", "pattern": DURATION },
    f64: { "type": "number", "format": "double" },
    i32: { "type": "integer", "format": "int32" },
    u16: { "type": "integer", "format": "int32", "minimum": 0, "maximum": (u16::MAX) },
    u32: { "type": "integer", "format": "int64", "minimum": 0, "maximum": (u32::MAX) },
    u64: { "type": "integer", "format": "int64", "minimum": 0 },
    SimpleLb: { "type": "string", "enum": (names::<SimpleLb>()) },
    H2UpgradePolicy: { "type": "string", "enum": (names::<H2UpgradePolicy>()) },
    TargetKind: { "type": "string", "enum": (names::<TargetKind>()) },
}

/// The names serde knows of a struct's fields or an enum's choices.
fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(Asking) {
        Ok(_) => &[],
        Err(Names(names)) => names,
    }
}

/// Never reads anything: what a type asks for is its answer.
struct Asking;

#[derive(Debug)]
struct Names(&'static [&'static str]);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for Names {}

impl serde::de::Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Asking {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(variants))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}
