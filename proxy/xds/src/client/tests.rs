use std::sync::Arc;

use pillion_policy::{
    Snapshot,
    cluster::{Cluster, Protocol},
    endpoint::EndpointSet,
};

use super::*;

const SERVICE: &str = "shop/order:80";

fn set(name: &str) -> Resource {
    Resource::Endpoints(Arc::new(EndpointSet { name: name.parse().unwrap(), endpoints: vec![] }))
}

/// A service with a cluster on each of the endpoint sets.
fn service(name: &str, sets: &[&str]) -> Resource {
    let clusters = sets.iter().map(|set| Cluster::plain(set.parse().unwrap(), Protocol::Http1)).collect();
    let policy = ServicePolicy::new(name.parse().unwrap(), None, Protocol::Http1, vec![], clusters);
    Resource::Service(Arc::new(policy.unwrap()))
}

fn response(kind: ResourceKind, resources: &[&Resource], removed: &[&str]) -> DeltaDiscoveryResponse {
    let wire = |resource: &&Resource| {
        let Encoded { version, content } = Encoded::of(resource);
        discovery::Resource {
            version: version.to_string(),
            resource: Some(Any { type_url: kind::type_url(kind).into(), value: content }),
            name: resource.name(),
            ..Default::default()
        }
    };
    DeltaDiscoveryResponse {
        resources: resources.iter().map(wire).collect(),
        type_url: kind::type_url(kind).into(),
        nonce: "n".into(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn session() -> Session {
    let mut session = Session::new(Node::new("shop/api".parse().unwrap()));
    session.connected();
    session
}

/// A session that has sent everything it had to say, with a subscription to the service.
fn subscribed() -> Session {
    let mut session = session();
    session.subscribe(ResourceKind::Service, SERVICE);
    session.requests();
    session
}

/// Changes as `+name` and `-name`.
fn brief(changes: &[Change]) -> Vec<String> {
    let one = |change: &Change| match change {
        Change::Upsert(resource) => format!("+{}", resource.name()),
        Change::Remove(_, name) => format!("-{name}"),
    };
    changes.iter().map(one).collect()
}

fn request(session: &mut Session, kind: ResourceKind) -> DeltaDiscoveryRequest {
    let mut of_kind: Vec<_> =
        session.requests().into_iter().filter(|one| one.type_url == kind::type_url(kind)).collect();
    assert_eq!(of_kind.len(), 1, "{of_kind:?}");
    of_kind.remove(0)
}

#[test]
fn the_first_message_introduces_the_proxy() {
    let mut session = session();
    let requests = session.requests();
    let nodes: Vec<_> = requests.iter().filter_map(|one| one.node.as_ref()).collect();
    assert_eq!(nodes.len(), 1);
    assert_eq!(requests[0].node.as_ref().unwrap().id, "shop/api");
    let names: Vec<_> = requests.iter().flat_map(|one| &one.resource_names_subscribe).collect();
    assert_eq!(names, ["mesh", "shop/api"]);
    assert!(session.requests().is_empty());
}

#[test]
fn a_new_stream_is_told_what_is_held() {
    let mut session = subscribed();
    let held = service(SERVICE, &[]);
    session.subscribe(ResourceKind::Service, "shop/user:80");
    let effects = session.receive(response(ResourceKind::Service, &[&held], &[]));
    assert_eq!(brief(&effects.changes), ["+shop/order:80"]);
    let effects = session.receive(response(ResourceKind::Service, &[&held], &[]));
    assert!(effects.changes.is_empty(), "held already");
    session.disconnected();
    assert!(session.requests().is_empty());
    session.connected();
    let request = request(&mut session, ResourceKind::Service);
    assert_eq!(request.resource_names_subscribe, [SERVICE, "shop/user:80"]);
    let version = Encoded::of(&held).version.to_string();
    assert_eq!(request.initial_resource_versions, [(SERVICE.to_owned(), version)].into());
}

#[test]
fn a_bad_resource_is_refused_alone_and_its_last_good_version_stays() {
    let mut session = subscribed();
    session.subscribe(ResourceKind::Service, "shop/user:80");
    session.requests();
    let good = service(SERVICE, &[]);
    let _effects = session.receive(response(ResourceKind::Service, &[&good], &[]));
    assert!(request(&mut session, ResourceKind::Service).error_detail.is_none());

    let mut bad = response(ResourceKind::Service, &[&good, &service("shop/user:80", &[])], &[]);
    bad.resources[0].version = "newer".into();
    bad.resources[0].resource.as_mut().unwrap().value = vec![0xff].into();
    let effects = session.receive(bad);
    assert_eq!(brief(&effects.changes), ["+shop/user:80"]);
    assert_eq!((effects.rejected.len(), effects.rejected[0].name.as_str()), (1, SERVICE));
    assert_eq!(session.status(ResourceKind::Service, SERVICE), Some(Status::Held));

    let nack = request(&mut session, ResourceKind::Service);
    let status = nack.error_detail.unwrap();
    assert_eq!((nack.response_nonce.as_str(), status.details.len()), ("n", 1));
    assert!(status.message.starts_with("service shop/order:80: is not protobuf"), "{}", status.message);

    session.connected();
    let versions = request(&mut session, ResourceKind::Service).initial_resource_versions;
    assert_eq!(versions[SERVICE], Encoded::of(&good).version.to_string());
}

#[test]
fn a_resource_must_be_what_its_name_says() {
    let mut session = subscribed();
    let mut wrong = response(ResourceKind::Service, &[&service("shop/user:80", &[])], &[]);
    wrong.resources[0].name = SERVICE.into();
    let effects = session.receive(wrong);
    assert_eq!(effects.rejected[0].invalid.reason(), "holds service shop/user:80");
    assert_eq!(session.status(ResourceKind::Service, SERVICE), Some(Status::Rejected));
}

#[test]
fn a_removal_is_a_change_only_of_what_was_held() {
    let mut session = subscribed();
    let removed = response(ResourceKind::Service, &[], &[SERVICE]);
    let effects = session.receive(removed.clone());
    assert_eq!(effects.missing, [(ResourceKind::Service, SERVICE.to_owned())]);
    assert!(effects.changes.is_empty());
    let _effects = session.receive(response(ResourceKind::Service, &[&service(SERVICE, &[])], &[]));
    let effects = session.receive(removed);
    assert_eq!(brief(&effects.changes), ["-shop/order:80"]);
    assert!(effects.missing.is_empty());
    assert_eq!(session.status(ResourceKind::Service, SERVICE), Some(Status::Missing));
}

#[test]
fn late_messages_for_a_dropped_name_are_ignored_and_answered() {
    let mut session = subscribed();
    let _effects = session.unsubscribe(ResourceKind::Service, SERVICE);
    let effects = session.receive(response(ResourceKind::Service, &[&service(SERVICE, &[])], &[SERVICE]));
    assert!(effects.changes.is_empty() && effects.missing.is_empty());
    let requests = session.requests();
    assert_eq!(requests[0].response_nonce, "n");
    assert_eq!(requests[1].resource_names_unsubscribe, [SERVICE]);
}

#[test]
fn a_name_dropped_and_wanted_again_is_asked_for_again() {
    let mut session = subscribed();
    let policy = service(SERVICE, &[]);
    let _effects = session.receive(response(ResourceKind::Service, &[&policy], &[]));
    session.requests();
    let effects = session.unsubscribe(ResourceKind::Service, SERVICE);
    assert_eq!(brief(&effects.changes), ["-shop/order:80"]);
    session.subscribe(ResourceKind::Service, SERVICE);
    let request = request(&mut session, ResourceKind::Service);
    assert_eq!(request.resource_names_subscribe, [SERVICE]);
    assert!(request.resource_names_unsubscribe.is_empty());
    let effects = session.receive(response(ResourceKind::Service, &[&policy], &[]));
    assert_eq!(brief(&effects.changes), ["+shop/order:80"]);
}

#[test]
fn without_a_stream_wishes_only_wait_for_the_next() {
    let mut session = subscribed();
    session.disconnected();
    session.subscribe(ResourceKind::Service, "shop/user:80");
    let _effects = session.unsubscribe(ResourceKind::Service, SERVICE);
    session.connected();
    let request = request(&mut session, ResourceKind::Service);
    assert_eq!(request.resource_names_subscribe, ["shop/user:80"]);
    assert!(request.resource_names_unsubscribe.is_empty());
}

#[test]
fn endpoint_sets_follow_the_services_that_use_them() {
    let mut session = subscribed();
    session.subscribe(ResourceKind::Service, "shop/user:80");
    let both = [&service(SERVICE, &["a.x:80", "a.x:80/v1", "b.x:80"]), &service("shop/user:80", &["b.x:80"])];
    let _effects = session.receive(response(ResourceKind::Service, &both, &[]));
    let wanted = request(&mut session, ResourceKind::Endpoints).resource_names_subscribe;
    assert_eq!(wanted, ["a.x:80", "b.x:80"]);
    let sets = [&set("a.x:80"), &set("b.x:80")];
    let _effects = session.receive(response(ResourceKind::Endpoints, &sets, &[]));
    session.requests();

    let moved = service(SERVICE, &["b.x:80", "c.x:80"]);
    let effects = session.receive(response(ResourceKind::Service, &[&moved], &[]));
    assert_eq!(brief(&effects.changes), ["+shop/order:80", "-a.x:80"]);
    let change = request(&mut session, ResourceKind::Endpoints);
    assert_eq!(change.resource_names_subscribe, ["c.x:80"]);
    assert_eq!(change.resource_names_unsubscribe, ["a.x:80"]);
    assert_eq!(session.status(ResourceKind::Endpoints, "c.x:80"), Some(Status::Waiting));

    let effects = session.unsubscribe(ResourceKind::Service, SERVICE);
    assert_eq!(brief(&effects.changes), ["-shop/order:80"], "b is still used");
    let effects = session.receive(response(ResourceKind::Service, &[], &["shop/user:80"]));
    assert_eq!(brief(&effects.changes), ["-shop/user:80", "-b.x:80"]);
}

#[test]
fn a_set_that_moves_between_services_in_one_message_is_kept() {
    let mut session = subscribed();
    session.subscribe(ResourceKind::Service, "shop/user:80");
    let _effects = session.receive(response(ResourceKind::Service, &[&service(SERVICE, &["a.x:80"])], &[]));
    let _effects = session.receive(response(ResourceKind::Endpoints, &[&set("a.x:80")], &[]));
    session.requests();
    let moved = [&service(SERVICE, &[]), &service("shop/user:80", &["a.x:80"])];
    let effects = session.receive(response(ResourceKind::Service, &moved, &[]));
    assert_eq!(brief(&effects.changes), ["+shop/order:80", "+shop/user:80"]);
    assert_eq!(session.requests().len(), 1, "nothing but the answer");
}

#[test]
fn a_restart_takes_up_what_was_held_and_wanted() {
    let held = [set("unused.x:80"), set("a.x:80"), service(SERVICE, &["a.x:80"])];
    let mut session = Session::new(Node::new("shop/api".parse().unwrap()));
    let effects = session.restore(held.clone());
    assert_eq!(brief(&effects.changes), ["+a.x:80", "+shop/order:80"]);
    assert_eq!(Snapshot::default().apply(effects.changes).resources().count(), 2);
    session.connected();
    let versions = request(&mut session, ResourceKind::Service).initial_resource_versions;
    assert_eq!(versions[SERVICE], Encoded::of(&held[2]).version.to_string());
}

#[test]
fn what_was_not_asked_for_changes_nothing() {
    let mut session = session();
    let mut foreign = response(ResourceKind::Service, &[], &[]);
    foreign.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    assert!(session.receive(foreign).changes.is_empty());
    assert!(session.requests().iter().any(|request| request.error_detail.is_some()));

    session.disconnected();
    let effects = session.receive(response(ResourceKind::Mesh, &[], &["mesh"]));
    assert!(effects.missing.is_empty(), "a message of a stream that is gone");
}
