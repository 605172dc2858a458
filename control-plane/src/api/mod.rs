//! The objects users write, as they write them: field for field, nothing interpreted.
//!
//! Every field of an accepted Istio kind stands here, so that a key that does not is a mistake. What the mesh acts on is
//! a plain field; the rest is [`Unenforced`] and therefore reported. The types are private to the crate on purpose:
//! the compiler then sees a plain field that nothing reads, and refuses it. Of Kubernetes' own kinds only what a mesh
//! reads is typed; `vocabulary` knows the other names well enough to notice a misspelt one.

mod de;
mod destination_rule;
mod duration;
mod kubernetes;
mod meta;
mod virtual_service;
pub(crate) mod vocabulary;

pub(crate) use de::{Fields, Unenforced, read};
pub(crate) use destination_rule::*;
pub(crate) use duration::ApiDuration;
pub(crate) use kubernetes::*;
pub(crate) use meta::{META_FIELDS, ObjectMeta};
pub(crate) use virtual_service::*;
