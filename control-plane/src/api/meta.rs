//! The metadata every object has.

use std::collections::BTreeMap;

/// Every key `metadata` may have; the mesh reads those in [`ObjectMeta`].
pub(crate) const META_FIELDS: &str = "
    annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName
    generation labels managedFields name namespace ownerReferences resourceVersion selfLink uid
";

schema! {
    /// What the mesh reads of an object's metadata.
    struct ObjectMeta {
        name: String,
        namespace: Option<String>,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        owner_references: Vec<OwnerReference>,
        /// RFC 3339 in UTC, so text order is time order.
        creation_timestamp: Option<String>,
        deletion_timestamp: Option<String>,
    }

    /// Who made the object.
    struct OwnerReference {
        kind: String,
        name: String,
    }
}
