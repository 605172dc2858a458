//! The objects users write, as they write them: field for field, nothing interpreted.
//!
//! Every field of an accepted Istio kind stands here, so that a key that does not is a mistake. What the mesh acts on is
//! a plain field; the rest is [`Unenforced`] and therefore reported. The types are private to the crate on purpose:
//! the compiler then sees a plain field that nothing reads, and refuses it. Of Kubernetes' own kinds only what a mesh
//! reads is typed; `vocabulary` knows the other names well enough to notice a misspelt one.

/// Declares objects whose fields may all be absent, named as YAML names them.
///
/// The default stands at each field, not at the struct: there it would read every field and hide the dead ones.
macro_rules! schema {
    ($($(#[$about:meta])* struct $name:ident { $($(#[$note:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Default, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub(crate) struct $name {
            $($(#[$note])* #[serde(default)] pub(crate) $field: $type,)*
        }
    )*};
}

/// Declares such objects and describes them, for the kinds whose CustomResourceDefinitions are Pillion's.
macro_rules! described {
    ($($(#[$($about:tt)*])* struct $name:ident { $($(#[$($note:tt)*])* $field:ident: $type:ty,)* })*) => {
        schema! { $($(#[$($about)*])* struct $name { $($(#[$($note)*])* $field: $type,)* })* }
        $(
            impl $crate::api::Describe for $name {
                fn describe() -> serde_json::Value {
                    $crate::api::describe::object::<Self>(&[$(comment!($($about)*)),*], &[$((
                        &[$(comment!($($note)*)),*],
                        <$type as $crate::api::Describe>::REQUIRED,
                        <$type as $crate::api::Describe>::REMARK,
                        <$type as $crate::api::Describe>::describe,
                    )),*])
                }
            }
        )*
    };
}

/// The text of an attribute that is a line of a comment.
macro_rules! comment {
    (doc = $text:literal) => {
        $text
    };
    ($($other:tt)*) => {
        ""
    };
}

mod de;
mod describe;
mod destination_rule;
pub(crate) mod duration;
mod kubernetes;
mod meta;
mod resilience_policy;
mod security;
mod telemetry;
mod virtual_service;
pub(crate) mod vocabulary;

pub(crate) use de::{Fields, Unenforced, read};
pub(crate) use describe::Describe;
pub(crate) use destination_rule::*;
pub(crate) use duration::ApiDuration;
pub(crate) use kubernetes::*;
pub(crate) use meta::{META_FIELDS, ObjectMeta};
pub(crate) use resilience_policy::*;
pub(crate) use security::*;
pub(crate) use telemetry::*;
pub(crate) use virtual_service::*;
