use pillion_policy::testing::any_resource;
use proptest::prelude::*;

use super::*;
use crate::{Encoded, Version};

fn refused<M: Message>(kind: ResourceKind, message: &M) -> String {
    resource(kind, &message.encode_to_vec()).unwrap_err().to_string()
}

/// A service whose one route does what `change` makes of it.
fn service_with(change: impl FnOnce(&mut wire::Route)) -> wire::Service {
    let respond = wire::DirectResponse { status: 200, ..Default::default() };
    let action = Some(wire::route::Action::Respond(respond));
    let mut route = wire::Route { action, ..wire::Route::default() };
    change(&mut route);
    wire::Service { name: "default/order:80".into(), routes: vec![route], ..wire::Service::default() }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(resource in any_resource()) {
        let encoded = Encoded::of(&resource);
        prop_assert_eq!(super::resource(resource.kind(), &encoded.content), Ok(resource));
    }

    #[test]
    fn equal_policy_has_equal_versions(resource in any_resource()) {
        let encoded = Encoded::of(&resource);
        let again = super::resource(resource.kind(), &encoded.content).unwrap();
        prop_assert_eq!(Encoded::of(&again).version, encoded.version);
        prop_assert_eq!(Version::of(&encoded.content), encoded.version);
    }

    #[test]
    fn different_policy_has_different_versions(a in any_resource(), b in any_resource()) {
        prop_assert_eq!(a == b, Encoded::of(&a) == Encoded::of(&b));
    }

    /// What is accepted must be a value like any other: it encodes to what decodes to it.
    #[test]
    fn arbitrary_bytes_do_no_harm(content in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in ResourceKind::ALL {
            if let Ok(resource) = resource(kind, &content) {
                let encoded = Encoded::of(&resource);
                prop_assert_eq!(super::resource(kind, &encoded.content), Ok(resource));
            }
        }
    }

    #[test]
    fn mutated_bytes_do_no_harm(
        resource in any_resource(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut content = Encoded::of(&resource).content.to_vec();
        for (index, byte) in edits {
            if !content.is_empty() {
                let index = index.index(content.len());
                content[index] = byte;
            }
        }
        for content in [&content[..], &content[..cut.index(content.len() + 1)]] {
            if let Ok(mutant) = super::resource(resource.kind(), content) {
                let encoded = Encoded::of(&mutant);
                prop_assert_eq!(super::resource(resource.kind(), &encoded.content), Ok(mutant));
            }
        }
    }
}

#[test]
fn versions_are_fixed_for_all_times() {
    let set: EndpointSet = EndpointSet {
        name: "order.default.svc.cluster.local:80".parse().unwrap(),
        endpoints: vec![Endpoint::at("10.0.0.1:8080".parse().unwrap())],
    };
    assert_eq!(Encoded::of(&Resource::Endpoints(Arc::new(set))).version.to_string(), "d5eb15a89cecc1ff");
}

#[test]
fn fields_of_newer_peers_are_skipped() {
    let mesh = wire::Mesh {
        cluster_domain: "a".into(),
        trust_domain: "b".into(),
        outbound: 1,
        ..Default::default()
    };
    let mut content = mesh.encode_to_vec();
    let known = resource(ResourceKind::Mesh, &content).unwrap();
    // Field 15, a text of one byte.
    content.extend([15 << 3 | 2, 1, b'x']);
    assert_eq!(resource(ResourceKind::Mesh, &content), Ok(known));
}

#[test]
fn meanings_of_newer_peers_are_refused_with_their_path() {
    let mesh = wire::Mesh {
        cluster_domain: "a".into(),
        trust_domain: "b".into(),
        outbound: 7,
        ..Default::default()
    };
    assert_eq!(refused(ResourceKind::Mesh, &mesh), "outbound: 7 is not a value known here");

    let service = service_with(|route| route.action = None);
    assert_eq!(
        refused(ResourceKind::Service, &service),
        "routes[0].action: holds nothing that is known here"
    );

    let service = service_with(|route| {
        let method = Some(wire::StringMatch { value: None });
        route.matches = vec![wire::RouteMatch { method, ..Default::default() }];
    });
    assert_eq!(
        refused(ResourceKind::Service, &service),
        "routes[0].matches[0].method: holds no condition that is known here"
    );
}

#[test]
fn what_the_model_refuses_is_refused_with_its_path() {
    let status = |status| {
        service_with(|route| {
            let respond = wire::DirectResponse { status, ..Default::default() };
            route.action = Some(wire::route::Action::Respond(respond));
        })
    };
    assert!(refused(ResourceKind::Service, &status(99)).starts_with("routes[0].respond: 99 is not a status"));
    assert_eq!(
        refused(ResourceKind::Service, &status(70_000)),
        "routes[0].respond.status: 70000 is out of range"
    );

    let cluster = "a.b:80".to_owned();
    let service = service_with(|route| {
        let target = Some(wire::Target { target: Some(wire::target::Target::Cluster(cluster)) });
        route.mirrors = vec![wire::Mirror { target, fraction: 1 }];
    });
    assert_eq!(refused(ResourceKind::Service, &service), "routes[0]: cluster a.b:80 is not defined");

    let endpoint = |address: &str, weight| {
        let endpoint = wire::Endpoint { address: address.into(), weight, ..Default::default() };
        wire::Endpoints { name: "a.b:80".into(), endpoints: vec![endpoint] }
    };
    let path = |set| refused(ResourceKind::Endpoints, &set);
    assert!(path(endpoint("10.0.0.1", None)).starts_with("endpoints[0].address: \"10.0.0.1\""));
    assert_eq!(path(endpoint("10.0.0.1:80", Some(0))), "endpoints[0].weight: is less than 1");
}

#[test]
fn absent_numbers_are_the_defaults_of_the_model() {
    let cluster = wire::Cluster { name: "a.b:80".into(), ..wire::Cluster::default() };
    let plain = Cluster::plain("a.b:80".parse().unwrap(), Protocol::Auto);
    assert_eq!(super::cluster(cluster), Ok(plain));
}

#[test]
fn impossible_durations_are_refused() {
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
        assert!(duration(protobuf::Duration { seconds, nanos }).is_err(), "{seconds} {nanos}");
    }
}
