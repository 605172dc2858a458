//! Who a proxy says it is, in the first message of its stream.
//!
//! It is a claim: whether a peer may make it is for the transport to decide.

use std::collections::BTreeMap;

use pillion_policy::{Invalid, name::WorkloadName};

use crate::{
    discovery,
    protobuf::{Struct, Value, value::Kind},
};

const USER_AGENT: &str = "pillion";

/// The identity of a proxy. On the wire its id is `namespace/workload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The workload it stands beside.
    pub workload: WorkloadName,
    /// Further facts, such as the name of its pod; text only, other values are skipped.
    pub metadata: BTreeMap<String, String>,
}

impl Node {
    /// A proxy of which only the workload is known.
    pub fn new(workload: WorkloadName) -> Self {
        Self { workload, metadata: BTreeMap::new() }
    }
}

impl From<&Node> for discovery::Node {
    fn from(node: &Node) -> Self {
        let text = |value: &String| Value { kind: Some(Kind::StringValue(value.clone())) };
        let fields = node.metadata.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        Self {
            id: node.workload.to_string(),
            cluster: String::new(),
            metadata: Some(Struct { fields }),
            user_agent_name: USER_AGENT.to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl TryFrom<discovery::Node> for Node {
    type Error = Invalid;

    fn try_from(node: discovery::Node) -> Result<Self, Invalid> {
        let workload = node.id.parse().map_err(|invalid: Invalid| invalid.within("id").within("node"))?;
        let fields = node.metadata.map(|metadata| metadata.fields).unwrap_or_default();
        let text = |(key, value): (String, Value)| match value.kind {
            Some(Kind::StringValue(value)) => Some((key, value)),
            _ => None,
        };
        Ok(Self { workload, metadata: fields.into_iter().filter_map(text).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_survives_the_wire() {
        let mut node = Node::new("default/order".parse().unwrap());
        node.metadata.insert("pod".into(), "order-7d4".into());
        assert_eq!(Node::try_from(discovery::Node::from(&node)), Ok(node));
    }

    #[test]
    fn an_id_without_namespace_is_refused() {
        let node = discovery::Node { id: "order".into(), ..Default::default() };
        assert_eq!(Node::try_from(node).unwrap_err().at(), "node.id");
    }
}
