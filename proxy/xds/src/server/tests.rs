use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;

type Store = BTreeMap<(ResourceKind, &'static str), &'static str>;

fn request(kind: ResourceKind, subscribe: &[&str]) -> DeltaDiscoveryRequest {
    let node = Node::new("shop/api".parse().unwrap());
    DeltaDiscoveryRequest {
        node: Some((&node).into()),
        type_url: kind::type_url(kind).into(),
        resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn encoded(content: &'static str) -> Encoded {
    Encoded { version: Version::of(content.as_bytes()), content: Bytes::from_static(content.as_bytes()) }
}

fn send(session: &mut Session, store: &Store) -> Vec<DeltaDiscoveryResponse> {
    session.responses(|kind, name| {
        let found = store.iter().find(|((of, key), _)| (*of, *key) == (kind, name));
        found.map(|(_, content)| encoded(content))
    })
}

/// Responses as `+name=content` and `-name`.
fn brief(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    let one = |response: &DeltaDiscoveryResponse| {
        let resource = |resource: &discovery::Resource| {
            let content = resource.resource.as_ref().unwrap().value.to_vec();
            format!("+{}={}", resource.name, String::from_utf8(content).unwrap())
        };
        let upserts = response.resources.iter().map(resource);
        upserts.chain(response.removed_resources.iter().map(|name| format!("-{name}"))).collect::<Vec<_>>()
    };
    responses.iter().flat_map(one).collect()
}

/// A session with these names subscribed to.
fn session(names: &[(ResourceKind, &str)]) -> Session {
    let mut session = Session::new();
    for (kind, name) in names {
        session.receive(request(*kind, &[name])).unwrap();
    }
    session
}

const A: (ResourceKind, &str) = (ResourceKind::Service, "a");
const B: (ResourceKind, &str) = (ResourceKind::Service, "b");
const SET: (ResourceKind, &str) = (ResourceKind::Endpoints, "set");

#[test]
fn a_name_is_answered_once_with_content_or_absence() {
    let mut session = session(&[A, B]);
    let store = Store::from([(A, "1"), (SET, "uncalled")]);
    let sent = send(&mut session, &store);
    assert_eq!(brief(&sent), ["+a=1", "-b"]);
    session.receive(answer(&sent[0])).unwrap();
    session.changed_all();
    assert!(send(&mut session, &store).is_empty());
    assert_eq!(session.node().unwrap().workload.to_string(), "shop/api");
}

#[test]
fn changes_wait_for_the_answer_and_only_the_latest_travels() {
    let mut session = session(&[A]);
    let first = send(&mut session, &Store::from([(A, "1")]));
    session.changed(A.0, A.1);
    assert!(send(&mut session, &Store::from([(A, "2")])).is_empty());
    session.changed(A.0, A.1);
    let late = DeltaDiscoveryRequest { response_nonce: "0".into(), ..answer(&first[0]) };
    session.receive(late).unwrap();
    assert!(send(&mut session, &Store::from([(A, "3")])).is_empty(), "answers another response");
    session.receive(answer(&first[0])).unwrap();
    assert_eq!(brief(&send(&mut session, &Store::from([(A, "3")]))), ["+a=3"]);
}

#[test]
fn only_differences_to_what_is_held_travel() {
    let versions = [("a", "1"), ("b", "old"), ("c", "gone")];
    let versions = versions.map(|(name, content)| (name.to_owned(), encoded(content).version.to_string()));
    let mut first = request(ResourceKind::Service, &["a", "b", "c", "d", "e"]);
    first.initial_resource_versions = versions.into();
    first.initial_resource_versions.insert("d".into(), "of another control plane".into());
    let mut session = Session::new();
    session.receive(first.clone()).unwrap();
    let d = (ResourceKind::Service, "d");
    let store = Store::from([(A, "1"), (B, "2"), (d, "4")]);
    let sent = send(&mut session, &store);
    assert_eq!(brief(&sent), ["+b=2", "+d=4", "-e"]);
    session.receive(answer(&sent[0])).unwrap();
    assert_eq!(brief(&send(&mut session, &store)), ["-c"]);

    // Later in a stream the versions mean nothing: whoever asks again has forgotten.
    first.response_nonce = "2".into();
    session.receive(first).unwrap();
    assert_eq!(brief(&send(&mut session, &store)), ["+a=1", "+b=2", "+d=4", "-c", "-e"]);
}

#[test]
fn a_refused_version_is_not_sent_again_until_it_changes() {
    let mut session = session(&[A]);
    let sent = send(&mut session, &Store::from([(A, "bad")]));
    let rejection = Rejection { name: "a".into(), reason: "is bad".into() };
    let ours = Any { type_url: kind::REJECTION.into(), value: rejection.encode_to_vec().into() };
    let foreign = Any { type_url: "x".into(), value: Bytes::new() };
    let status = discovery::Status { code: 3, message: "no".into(), details: vec![foreign, ours] };
    let refusal = DeltaDiscoveryRequest { error_detail: Some(status), ..answer(&sent[0]) };
    let nack = session.receive(refusal).unwrap().unwrap();
    assert_eq!((nack.kind, nack.message.as_str()), (ResourceKind::Service, "no"));
    assert_eq!(nack.resources, [("a".to_owned(), "is bad".to_owned())]);
    session.changed_all();
    assert!(send(&mut session, &Store::from([(A, "bad")])).is_empty());
    session.changed(A.0, A.1);
    assert_eq!(brief(&send(&mut session, &Store::from([(A, "good")]))), ["+a=good"]);
}

#[test]
fn endpoints_come_before_services_and_removals_last_in_reverse() {
    let mesh = (ResourceKind::Mesh, "mesh");
    let workload = (ResourceKind::Workload, "w");
    let names = [workload, A, B, SET, mesh];
    let mut session = session(&names);
    let all = Store::from(names.map(|name| (name, "1")));
    let sent = send(&mut session, &all);
    assert_eq!(brief(&sent), ["+mesh=1", "+set=1", "+a=1", "+b=1", "+w=1"]);
    for response in &sent {
        session.receive(answer(response)).unwrap();
    }

    session.changed_all();
    let left = Store::from([(B, "2"), (mesh, "1")]);
    let sent = send(&mut session, &left);
    assert_eq!(brief(&sent), ["+b=2", "-w", "-set"]);
    session.receive(answer(&sent[0])).unwrap();
    assert_eq!(brief(&send(&mut session, &left)), ["-a"]);
}

#[test]
fn what_builds_on_an_unanswered_kind_waits() {
    let mut session = session(&[SET, A]);
    let sent = send(&mut session, &Store::from([(SET, "1"), (A, "1")]));
    session.receive(answer(&sent[1])).unwrap();
    session.changed_all();
    let next = Store::from([(SET, "2"), (A, "2")]);
    assert!(send(&mut session, &next).is_empty());
    session.receive(answer(&sent[0])).unwrap();
    assert_eq!(brief(&send(&mut session, &next)), ["+set=2", "+a=2"]);
}

#[test]
fn a_large_answer_travels_in_parts() {
    let names = ["a", "b", "c"].map(|name| (ResourceKind::Service, name));
    let mut session = session(&names);
    let large = || Some(Encoded { version: Version::of(b"x"), content: vec![0; MAX_RESPONSE].into() });
    for (_, name) in names {
        let sent = session.responses(|_, _| large());
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].resources.len(), sent[0].resources[0].name.as_str()), (1, name));
        session.receive(answer(&sent[0])).unwrap();
    }
    assert!(session.responses(|_, _| large()).is_empty());
}

#[test]
fn asking_again_sends_again_and_dropping_stops() {
    let mut session = session(&[A]);
    let store = Store::from([(A, "1")]);
    let sent = send(&mut session, &store);
    session.receive(answer(&sent[0])).unwrap();
    session.receive(request(A.0, &["a"])).unwrap();
    let sent = send(&mut session, &store);
    assert_eq!(brief(&sent), ["+a=1"]);
    let mut drop = answer(&sent[0]);
    drop.resource_names_unsubscribe = vec!["a".into(), "never".into()];
    session.receive(drop).unwrap();
    session.changed(A.0, A.1);
    assert!(send(&mut session, &Store::from([(A, "2")])).is_empty());
    assert_eq!(session.names().count(), 0);
}

#[test]
fn breaches_of_the_protocol_are_refused() {
    let anonymous = DeltaDiscoveryRequest { node: None, ..request(A.0, &["a"]) };
    assert!(Session::new().receive(anonymous).is_err());
    let foreign = DeltaDiscoveryRequest { type_url: "x".into(), ..request(A.0, &["a"]) };
    assert_eq!(Session::new().receive(foreign).unwrap_err().at(), "typeUrl");
}

#[test]
fn what_is_removed_and_comes_back_unchanged_is_sent() {
    let mut session = session(&[A]);
    let store = Store::from([(A, "1")]);
    for _ in 0..2 {
        session.changed(A.0, A.1);
        let sent = send(&mut session, &store);
        assert_eq!(brief(&sent), ["+a=1"]);
        session.receive(answer(&sent[0])).unwrap();
        session.changed(A.0, A.1);
        let sent = send(&mut session, &Store::new());
        assert_eq!(brief(&sent), ["-a"]);
        session.receive(answer(&sent[0])).unwrap();
    }
}

#[test]
fn a_name_asked_for_again_while_its_removal_waits_is_removed_once() {
    let mut session = session(&[A, B]);
    let sent = send(&mut session, &Store::from([(A, "1"), (B, "1")]));
    session.receive(answer(&sent[0])).unwrap();
    session.changed_all();
    let left = Store::from([(B, "2")]);
    let sent = send(&mut session, &left);
    assert_eq!(brief(&sent), ["+b=2"]);
    session
        .receive(DeltaDiscoveryRequest { response_nonce: sent[0].nonce.clone(), ..request(A.0, &["a"]) })
        .unwrap();
    assert_eq!(brief(&send(&mut session, &left)), ["-a"]);
    session.receive(DeltaDiscoveryRequest { response_nonce: "3".into(), ..answer(&sent[0]) }).unwrap();
    assert!(send(&mut session, &left).is_empty());
}
