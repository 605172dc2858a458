//! Who plays: the pods of the shop and the policy files they start from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port the shop's apps serve.
const APP_PORT: u16 = 3000;

/// One pod: an instance of a service and its sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod {
    /// The pod's name, as in its file.
    pub(crate) name: &'static str,
    /// The service it belongs to.
    pub(crate) service: &'static str,
    /// The role of the sample service.
    pub(crate) role: &'static str,
    /// The release it runs.
    pub(crate) version: &'static str,
    number: u8,
}

/// The API front, where all traffic enters.
pub(crate) const API: Pod = Pod { name: "api", service: "api", role: "api", version: "v1", number: 10 };
/// The instance that leaves, crashes and comes back.
pub(crate) const STAR: Pod =
    Pod { name: "order-v1-a", service: "order-service", role: "order", version: "v1", number: 21 };

/// The instance that turns bad, then slow.
pub(crate) const PATIENT: Pod =
    Pod { name: "inventory-a", service: "inventory-service", role: "inventory", version: "v1", number: 51 };
/// The only instance of its service, which dies.
pub(crate) const ONLY: Pod =
    Pod { name: "user", service: "user-service", role: "user", version: "v1", number: 61 };

/// The instance that policy protects.
pub(crate) const PAYMENT: Pod =
    Pod { name: "payment", service: "payment-service", role: "payment", version: "v1", number: 41 };

/// All pods.
pub(crate) const PODS: [Pod; 9] = [
    API,
    STAR,
    Pod { name: "order-v1-b", service: "order-service", role: "order", version: "v1", number: 22 },
    Pod { name: "order-v2-a", service: "order-service", role: "order", version: "v2", number: 31 },
    PAYMENT,
    PATIENT,
    Pod { name: "inventory-b", service: "inventory-service", role: "inventory", version: "v1", number: 52 },
    Pod { name: "inventory-c", service: "inventory-service", role: "inventory", version: "v1", number: 53 },
    ONLY,
];

impl Pod {
    /// The pod's own address, its sidecar's.
    pub(crate) fn ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 0, 1, self.number))
    }

    /// Where the app itself listens, out of everybody's sight but its sidecar's.
    pub(crate) fn app(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 2, self.number], APP_PORT))
    }

    /// Where calls to the pod arrive.
    pub(crate) fn inbound(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), APP_PORT)
    }

    /// Where the app sends its calls.
    pub(crate) fn outbound(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), 15001)
    }

    /// The sidecar's admin port.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), 15000)
    }

    /// The name of its policy file.
    pub(crate) fn file(&self) -> String {
        format!("pod-{}", self.name)
    }

    /// The pod as YAML.
    pub(crate) fn yaml(&self) -> &'static str {
        let file = self.file();
        FILES.iter().find(|(name, _)| *name == file).map_or("", |(_, yaml)| yaml)
    }
}

/// The routing of `order-service`, which the demo edits.
pub(crate) const ROUTING: &str = "order-routing";

macro_rules! example {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../k8s/examples/shop/", $name, ".yaml")))
    };
}

/// What is done about failures of `inventory-service`: its file and that file's content, saved in the chapter on failure.
pub(crate) const INVENTORY_RESILIENCE: (&str, &str) = example!("inventory-resilience");
/// The same of `user-service`.
pub(crate) const USER_FALLBACK: (&str, &str) = example!("user-fallback");

/// Who may call `payment-service`, saved in the chapter on identity.
pub(crate) const PAYMENT_ACCESS: (&str, &str) = example!("payment-access");

/// The policy the directory starts with: the rest of `k8s/examples/shop`.
pub(crate) const FILES: [(&str, &str); 12] = [
    example!("services"),
    example!("user-service"),
    example!("order-routing"),
    example!("pod-api"),
    example!("pod-order-v1-a"),
    example!("pod-order-v1-b"),
    example!("pod-order-v2-a"),
    example!("pod-payment"),
    example!("pod-inventory-a"),
    example!("pod-inventory-b"),
    example!("pod-inventory-c"),
    example!("pod-user"),
];

/// The routing as it starts.
pub(crate) fn seed_routing() -> &'static str {
    FILES.iter().find(|(name, _)| *name == ROUTING).map_or("", |(_, yaml)| yaml)
}

/// The routing with another split, and a response header that shows which edit is in force.
pub(crate) fn routing(v1: u32, v2: u32, edit: &str) -> String {
    seed_routing().replace("weight: 90", &format!("weight: {v1}")).replace(
        "weight: 10\n",
        &format!("weight: {v2}\n    headers: {{response: {{set: {{x-edit: {edit}}}}}}}\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_the_addresses_their_files_say() {
        for pod in PODS {
            let yaml = pod.yaml();
            assert!(yaml.contains(&format!("podIP: {}\n", pod.ip())), "{}", pod.name);
            assert!(
                yaml.contains(&format!("app: {}\n    version: {}\n", pod.service, pod.version)),
                "{}",
                pod.name
            );
        }
    }

    #[test]
    fn edits_change_the_split_of_ordinary_users_alone() {
        let edited = routing(50, 51, "e1");
        assert!(
            edited.contains("weight: 50\n")
                && edited.contains("weight: 51\n")
                && edited.contains("weight: 100\n")
        );
        assert_eq!(edited.matches("x-edit: e1").count(), 1);
    }
}
